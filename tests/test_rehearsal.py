"""What README, pages and recipes tell users to type works: the recipe `sayo`, and everything in `make test-all`."""

import json
import subprocess
import sys

import pytest

from scripts.rehearse import CANNOT, ROOT, commands_of, parts, run


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


def test_commands_are_read_from_code_blocks():
    page = """
`sayo ls` in a sentence, and sayo in prose
sayo outside of a block
```bash
git clone somewhere
sayo train --config-name toy \\
    trainer.seed=1            # a comment
CUDA_VISIBLE_DEVICES=0 A=1 accelerate launch x.py
```
    python -m benchmarks.toy
    pip install sayo
"""
    train = "sayo train --config-name toy trainer.seed=1            # a comment"
    assert commands_of(page) == [train, "accelerate launch x.py", "python -m benchmarks.toy"]


def test_every_reason_not_to_run_a_command_has_a_command():
    written = [command for commands in parts().values() for _, command in commands]
    assert len(written) > 50
    assert [words for words in CANNOT if not any(words in command for command in written)] == []


def test_a_command_that_fails_is_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["sayo", "ls"])["result"] == "ran"
    assert run(["sayo", "compare", "no", "folder"])["result"] == "FAILED: exit status 2"
