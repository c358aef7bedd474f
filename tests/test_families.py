"""The table of families: a few of its rows are run."""

import json
import os
import subprocess
import sys

import pytest

from scripts import families


@pytest.mark.slow
def test_a_few_types_are_read_as_the_page_says(tmp_path):
    words = ["-m", "scripts.families", "--quick", "--check", "--out", tmp_path / "rows.json"]
    done = subprocess.run([sys.executable, *words], cwd=families.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["type"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert [rows[name]["capture"] for name in families.QUICK] == ["exact"] * 4 + ["refused"]
    assert rows["llava"]["read"] == "images" and rows["exaone4_5"]["read"] == "text"


def test_a_wrong_reading_and_a_crash_are_seen(monkeypatch):
    """Masses off by a thousandth; a model that takes its process with it."""
    stock = families.torch.einsum
    monkeypatch.setattr(families.torch, "einsum", lambda *args: stock(*args) + 1e-3)
    assert families.in_own_process("llava")["capture"] == "differs"
    monkeypatch.setattr(families, "model_of", lambda name: os.abort())
    assert families.in_own_process("llava") == families.empty("llava", "the process died")
