"""Two ranks through the shipped script and files; a launch that would silently be something else stops."""

import json
import subprocess
import sys

import pytest
import yaml
from distributed.conftest import ROOT, accelerate, launch
from toy_runs import recipe_values, write_recipe


@pytest.mark.slow
def test_two_ranks_train_under_zero2_from_an_empty_folder(toys, tmp_path):
    values = recipe_values(toys, tmp_path / "run", max_steps=2, save_strategy="steps", save_steps=1)
    words = ["--gpus", 2, "--sharding", "zero2", "--config-name", write_recipe(tmp_path, values), "trainer.seed=1"]
    (tmp_path / "empty").mkdir()
    arguments = accelerate("zero2") | {"cwd": tmp_path / "empty"}
    arguments["args"] = [sys.executable, "-m", "sayo", "launch", *map(str, words)]
    done = subprocess.run(**arguments, capture_output=True, text=True, timeout=1800)
    assert "$ accelerate launch --config_file" in done.stderr and "-m sayo train --config-name" in done.stderr
    assert "seed: 1" in (tmp_path / "run/recipe.yaml").read_text()
    assert done.returncode == 0 and "2 (DEEPSPEED, sharding ZeRO-2)" in done.stderr, done.stderr[-6000:]
    checkpoint = tmp_path / "run" / "checkpoint-2"
    marker = json.loads((checkpoint / "COMPLETE").read_text())
    assert (marker["world_size"], marker["sharding"]) == (2, "ZeRO-2")
    ranks = {"training_state_0.pt", "training_state_1.pt", "rng_state_0.pth", "rng_state_1.pth"}
    assert ranks <= set(marker["files"])
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    assert len(log) == 2
    assert all(line["reward_std"] > 0 and line["attention/image_mass"] > 0 for line in log)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fields", "messages"),
    [
        # MULTI_GPU without `use_cpu` would be two independent rank-0 jobs in the same folder
        (
            "ddp",
            {"use_cpu": False},
            ["started 2 processes, but each of them trains alone", "--sharding cpu"],
        ),
        # accelerate's own MULTI_CPU starts one process
        ("multi_cpu", {}, ["asked for several processes but started one", "--sharding cpu", "trainer.use_cpu=true"]),
        ("fsdp2", {}, ["FSDP was asked for, but this is MULTI_CPU with sharding none"]),
    ],
)
def test_what_would_silently_be_something_else(toys, tmp_path, kind, fields, messages):
    """The error names the line to use instead."""
    recipe = write_recipe(tmp_path, recipe_values(toys, tmp_path / "run", **fields))
    if kind == "multi_cpu":
        values = yaml.safe_load((ROOT / "recipes/accelerate/cpu.yaml").read_text())
        kind = tmp_path / "multi_cpu.yaml"
        kind.write_text(yaml.safe_dump({**values, "distributed_type": "MULTI_CPU", "use_cpu": True}))
    done = launch(kind, ROOT / "scripts/train.py", "--config-name", recipe)
    assert done.returncode != 0 and all(message in done.stderr for message in messages), done.stderr[-2000:]
