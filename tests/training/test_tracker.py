"""A run that was killed resumes in the same curves of its tracker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toy_runs import recipe_values

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def killed_at_step_two(completions, trainer_state, **kwargs):
    """A reward function during which the process is killed, once."""
    mark = Path(os.environ["KILLED_MARK"])
    if trainer_state.global_step == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(len(completion[0]["content"])) for completion in completions]


def test_wandb_run_id_survives_a_kill(toys, tmp_path):
    rewards = {"length": {"function": "test_tracker.killed_at_step_two"}}
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "report_to": "wandb"}
    values = recipe_values(toys, tmp_path / "run", rewards=rewards, **saving)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = kept | {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "KILLED_MARK": str(tmp_path / "killed"),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent))),
    }
    command = [sys.executable, str(ROOT / "scripts/train.py"), "--config-name", str(tmp_path / "recipe.yaml")]
    for status in (-signal.SIGKILL, 0):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == status, done.stderr[-3000:]
    assert "resuming from" in done.stderr
    name = (tmp_path / "run" / "run_id").read_text()
    folders = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(folder.endswith(f"-{name}") for folder in folders), folders
