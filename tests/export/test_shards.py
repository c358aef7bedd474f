"""Checkpoints that hold only shards: DeepSpeed's ZeRO states and sharded FSDP state dicts."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from sayo.export.checkpoint import tensor_names
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
    check(full_checkpoint, "zero", base, tmp_path, logits_of, expected)


@pytest.mark.slow
@FAMILY
def test_sharded_fsdp_state_is_gathered(base, full_checkpoint, tmp_path, logits_of):
    """Such a checkpoint has neither config nor processor: both come from the base that the recipe names."""
    expected, shards = logits_of(full_checkpoint), full_checkpoint.parent / "checkpoint-3"
    run(FSDP, full_checkpoint, shards)
    check(shards, "fsdp", base, tmp_path, logits_of, expected)


def check(checkpoint, kind, base, tmp_path, logits_of, expected):
    (checkpoint / "model.safetensors").unlink(missing_ok=True)
    result = export_checkpoint(checkpoint, tmp_path / "out")
    assert (result.kind, result.logit_difference) == (kind, 0.0)
    assert tensor_names(tmp_path / "out") == tensor_names(base)
    np.testing.assert_allclose(logits_of(tmp_path / "out"), expected, atol=1e-6)
