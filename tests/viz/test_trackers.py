"""A short real run under every tracker: metrics by name, the overlay picture, and the report page in wandb."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy_runs import recipe_values
from transformers import TrainerState

from sayo.viz.report.callback import SendReport

ATTENTION = ("coverage", "image_mass", "region_mass", "region_ratio", "tas", "weighted_entropy")
OTHERS = ("completions/mean_length", "entropy", "frac_reward_zero_std", "num_tokens", "reward")
REWARDS = ("rewards/attention/mean", "rewards/format/std")
METRICS = {f"train/{name}" for name in (*(f"attention/{name}" for name in ATTENTION), *OTHERS, *REWARDS)}
OPTIONS = {"overlay_steps": 1, "log_completions": True, "num_completions_to_print": 0}


@pytest.fixture
def trained(toys, tmp_path, monkeypatch) -> Callable:
    """Train two steps under a tracker; return its folder."""

    def run(tracker: str) -> Path:
        from sayo.recipes import parse_recipe
        from sayo.training.run import train

        recipe = parse_recipe(recipe_values(toys, tmp_path / "run", **OPTIONS, report_to=tracker))
        return train(recipe, callbacks=[SendReport()])

    monkeypatch.chdir(tmp_path)
    return run


def test_wandb_offline(trained, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = trained("wandb")
    try:
        summary = dict(wandb.run.summary)
    finally:
        wandb.finish()
    assert set(summary) >= METRICS
    media = next(tmp_path.glob("wandb/offline-run-*/files/media"))
    sent = {picture.read_bytes() for picture in media.glob("images/attention/overlay_*.png")}
    assert sent == {picture.read_bytes() for picture in run.glob("overlays/*.png")} and len(sent) == 2
    tables = [json.loads(path.read_text()) for path in media.glob("table/completions_*.table.json")]
    assert {row[0] for table in tables for row in table["data"]} == {1, 2}
    prompts = [row[table["columns"].index("prompt")] for table in tables for row in table["data"]]
    assert all(prompt[-1]["content"].startswith("<image>") for prompt in prompts)
    (page,) = media.glob("html/report_*.html")
    assert page.read_bytes() == (run / "report.html").read_bytes()
    assert "region_attention_reward" in page.read_text()


def test_tensorboard(trained):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (trained("tensorboard") / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert set(events.Tags()["scalars"]) >= METRICS
    assert [event.step for event in events.Images("attention/overlay")] == [0, 1]
    trained("tensorboard")
    assert list(folder.parent.iterdir()) == [folder], "a second start continues the same curves"


def test_trackio(toys, tmp_path):
    """In a process of its own: trackio decides where it keeps its data when it is imported."""
    pytest.importorskip("trackio")
    code = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
from sayo.recipes import parse_recipe
from sayo.training.run import train
train(parse_recipe(json.loads(sys.argv[1])))
((project, name),) = [(p, n) for p in SQLiteStorage.get_projects() for n in SQLiteStorage.get_runs(p)]
print(json.dumps([sorted(entry) for entry in SQLiteStorage.get_logs(project, name)]))
"""
    values = json.dumps(recipe_values(toys, tmp_path / "run", **OPTIONS, report_to="trackio"))
    options = {"env": {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}, "cwd": tmp_path, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", code, values], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    logged = json.loads(done.stdout.splitlines()[-1])
    assert {key for entry in logged for key in entry} >= METRICS
    assert sum("attention/overlay" in entry for entry in logged) == 2
    assert sum("completions" in entry for entry in logged) >= 2


def end_training(folder: Path, trackers: list[str], step: int = 2, is_main: bool = True) -> None:
    args = SimpleNamespace(report_to=trackers, output_dir=str(folder))
    SendReport().on_train_end(args, TrainerState(global_step=step, max_steps=2, is_world_process_zero=is_main), None)


def test_a_report_that_cannot_be_made_is_a_warning(tmp_path, monkeypatch):
    """Training has ended well by then: the run's exit must not say otherwise."""
    import wandb

    monkeypatch.setattr(wandb, "run", object())
    with pytest.warns(UserWarning, match="sayo report"):
        end_training(tmp_path, ["wandb"])


def test_no_report_without_wandb_or_on_other_ranks_or_of_a_run_that_was_stopped(tmp_path):
    for trackers, step, is_main in (
        ([], 2, True),
        (["tensorboard"], 2, True),
        (["wandb"], 2, False),
        (["wandb"], 1, True),
    ):
        end_training(tmp_path, trackers, step, is_main)
        assert not list(tmp_path.iterdir())
