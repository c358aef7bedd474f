"""Checkpoints that hold only shards: DeepSpeed's ZeRO states and sharded FSDP state dicts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from sayo.export.package import export_checkpoint

FAMILY = pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)  # the one whose names ZeRO-3 gets wrong
ZERO = """
import sys, torch, deepspeed, deepspeed.ops
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # no compiler needed
deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
from transformers import AutoModelForImageTextToText
source, folder, stage = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = AutoModelForImageTextToText.from_pretrained(source)
config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage}}
optimizer = torch.optim.AdamW(model.parameters())
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
engine.save_checkpoint(folder, tag="global_step2")
"""
FSDP = """
import sys, torch.distributed.checkpoint as dcp
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
dcp.save({"model": model.state_dict()}, checkpoint_id=sys.argv[2] + "/pytorch_model_fsdp_0")  # as accelerate does
"""


def names(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        return set(tensors.keys())


def run(code: str, *arguments) -> None:
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29631"}
    environment = {**os.environ, **ranks, "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", code, *(str(argument) for argument in arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
@FAMILY
def test_zero_shards_are_gathered(base, full_checkpoint, tmp_path, logits_of, stage):
    expected = logits_of(full_checkpoint)
    run(ZERO, full_checkpoint, full_checkpoint, stage)
    (full_checkpoint / "model.safetensors").unlink()
    result = export_checkpoint(full_checkpoint, tmp_path / "out")
    assert (result.kind, result.logit_difference) == ("zero", 0.0)
    assert names(tmp_path / "out") == names(base)
    np.testing.assert_allclose(logits_of(tmp_path / "out"), expected, atol=1e-6)


@pytest.mark.slow
@FAMILY
def test_sharded_fsdp_state_is_gathered(base, full_checkpoint, tmp_path, logits_of):
    """Such a checkpoint has neither config nor processor: both come from the base that the recipe names."""
    expected = logits_of(full_checkpoint)
    shards = full_checkpoint.parent / "checkpoint-3"
    run(FSDP, full_checkpoint, shards)
    shutil.copy(full_checkpoint / "trainer_state.json", shards)
    result = export_checkpoint(shards, tmp_path / "out")
    assert (result.kind, result.logit_difference) == ("fsdp", 0.0)
    assert names(tmp_path / "out") == names(base)
    np.testing.assert_allclose(logits_of(tmp_path / "out"), expected, atol=1e-6)
