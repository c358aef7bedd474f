"""One real run on two ranks, fast enough for every `make test`: ZeRO-2 through the shipped script and files."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from toy_runs import recipe_values

ROOT = Path(__file__).resolve().parents[2]


def test_two_ranks_train_under_zero2(launch, toys, tmp_path):
    values = recipe_values(toys, tmp_path / "run", max_steps=2, save_strategy="steps", save_steps=1)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    done = launch("zero2", ROOT / "scripts/train.py", "--config-name", tmp_path / "recipe.yaml")
    assert "2 (DEEPSPEED, sharding ZeRO-2)" in done.stderr
    checkpoint = tmp_path / "run" / "checkpoint-2"
    marker = json.loads((checkpoint / "COMPLETE").read_text())
    assert (marker["world_size"], marker["sharding"]) == (2, "ZeRO-2")
    ranks = {"training_state_0.pt", "training_state_1.pt", "rng_state_0.pth", "rng_state_1.pth"}
    assert ranks <= set(marker["files"])
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    assert len(log) == 2
    assert all(line["reward_std"] > 0 and line["attention/image_mass"] > 0 for line in log)
