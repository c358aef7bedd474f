"""Killed with -9 at random moments and inside a save, the same command ends like a run that was never killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_kills_at_random_moments_and_in_a_save(tmp_path):
    """The published check itself, three kills; every third one waits until a save has begun."""
    command = [sys.executable, "-m", "benchmarks.resume", "--quick", "--check", "--mode", "single"]
    command += ["--work", tmp_path / "work", "--out", tmp_path / "out.json"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    (mode,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert mode["kills"] == 3 and mode["in_save"] >= 1 and mode["compared"] >= 1 and mode["differences"] == []
