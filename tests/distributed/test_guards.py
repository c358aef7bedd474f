"""A gradient that is not finite on one rank stops all of them before any weight moves, however they are sharded."""

import json

import pytest
import torch
from distributed.conftest import train_jobs
from safetensors.torch import load_file
from toy_runs import recipe_values
from transformers import AutoModelForImageTextToText

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["ddp", "zero2", "zero3"])
def test_gradient(launch, toys, tmp_path, kind):
    train_jobs(launch, kind, tmp_path, {"poisoned": {**recipe_values(toys, tmp_path / "run"), "poison": True}})
    for rank in (0, 1):
        stopped = json.loads((tmp_path / "run" / f"rank_{rank}.json").read_text())["stopped"]
        assert "of step 1 is" in stopped and "no step was taken" in stopped
        assert (tmp_path / "run" / "broken_batch" / f"step_00001_rank_{rank}.pt").is_file()
    start = dict(AutoModelForImageTextToText.from_pretrained(toys.policy["qwen3_vl"]).named_parameters())
    after = load_file(tmp_path / "run" / "trained.safetensors")
    assert all(torch.equal(after[name], start[name]) for name in after)
