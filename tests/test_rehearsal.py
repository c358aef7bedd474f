"""What README, pages and recipes tell users to type works: the recipe `sayo`, and everything in `make test-all`."""

import json
import subprocess
import sys

import pytest

from scripts.rehearse import CANNOT, ROOT, parts, run


@pytest.mark.parametrize(
    "part", ["sayo", *(pytest.param(part, marks=pytest.mark.slow) for part in parts() if part != "sayo")]
)
def test_every_command_that_can_run_here_runs(part, tmp_path):
    words = ["--only", part, "--folder", tmp_path / "work", "--out", tmp_path / "rows.json", "--check"]
    command = [sys.executable, "-m", "scripts.rehearse", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-6000:]
    results = [row["result"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]]
    if all("torchvision" in result for result in results):
        pytest.skip(results[0])
    assert results.count("ran") >= 5


def test_every_reason_not_to_run_a_command_has_a_command():
    written = [command for commands in parts().values() for _, command in commands]
    assert len(written) > 50
    assert [words for words in CANNOT if not any(words in command for command in written)] == []


def test_a_command_that_fails_is_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["sayo", "ls"])["result"] == "ran"
    assert run(["sayo", "compare", "no", "folder"])["result"] == "FAILED: exit status 2"
