"""A short real run under every tracker: metrics by name, the overlay picture, and the report page in wandb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy_runs import make_toy, recipe_values
from transformers import TrainerState

from sayo.viz.report import SendReport

METRICS = (
    "attention/coverage",
    "attention/image_mass",
    "attention/region_mass",
    "attention/region_ratio",
    "attention/tas",
    "attention/weighted_entropy",
    "completions/mean_length",
    "entropy",
    "frac_reward_zero_std",
    "num_tokens",
    "reward",
    "rewards/attention/mean",
    "rewards/format/std",
)

OPTIONS = {"overlay_steps": 1, "log_completions": True, "num_completions_to_print": 0}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("toy"), families=("qwen3_vl",))


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
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = trained("wandb")
    try:
        summary = dict(wandb.run.summary)
    finally:
        wandb.finish()
    assert {f"train/{name}" for name in METRICS} <= set(summary)
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


def test_tensorboard(trained, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trained("tensorboard")
    (folder,) = (run / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert {f"train/{name}" for name in METRICS} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("attention/overlay")] == [0, 1]


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
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    words = [sys.executable, "-c", code, values]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    logged = json.loads(done.stdout.splitlines()[-1])
    assert {f"train/{name}" for name in METRICS} <= {key for entry in logged for key in entry}
    assert sum("attention/overlay" in entry for entry in logged) == 2
    assert sum("completions" in entry for entry in logged) >= 2


def arguments(folder: Path, trackers: list[str], step: int = 2, is_main: bool = True) -> tuple:
    args = SimpleNamespace(report_to=trackers, output_dir=str(folder))
    return args, TrainerState(global_step=step, max_steps=2, is_world_process_zero=is_main), None


def test_a_report_that_cannot_be_made_is_a_warning(tmp_path, monkeypatch):
    """Training has ended well by then: the run's exit must not say otherwise."""
    import wandb

    monkeypatch.setattr(wandb, "run", object())
    with pytest.warns(UserWarning, match="sayo report"):
        SendReport().on_train_end(*arguments(tmp_path, ["wandb"]))


@pytest.mark.parametrize(
    ("trackers", "step", "is_main"),
    [([], 2, True), (["tensorboard"], 2, True), (["wandb"], 2, False), (["wandb"], 1, True)],
)
def test_no_report_without_wandb_or_on_other_ranks_or_of_a_run_that_was_stopped(tmp_path, trackers, step, is_main):
    SendReport().on_train_end(*arguments(tmp_path, trackers, step, is_main))
    assert not list(tmp_path.iterdir())
