"""Checkpoints that hold only shards: DeepSpeed ZeRO-3 (the other stages: `distributed/test_matrix.py`) and FSDP."""

import os
import subprocess
import sys

import numpy as np
import pytest

from sayo.export.checkpoint import tensor_names
from sayo.export.package import export_checkpoint

ZERO = """
import sys, torch, deepspeed, deepspeed.ops
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # no compiler needed
deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)
engine.save_checkpoint(sys.argv[2], tag="global_step2")
"""
FSDP = """
import sys, torch.distributed.checkpoint as dcp
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
dcp.save({"model": model.state_dict()}, checkpoint_id=sys.argv[2] + "/pytorch_model_fsdp_0")  # as accelerate does
"""
RANKS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29631"}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [("zero", ZERO), ("fsdp", FSDP)])
@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)  # the one whose names ZeRO-3 gets wrong
def test_shards_are_gathered(base, full_checkpoint, tmp_path, logits_of, kind, code):
    """The FSDP checkpoint has neither config nor processor: both come from the base that the recipe names."""
    expected = logits_of(full_checkpoint)
    shards = full_checkpoint if kind == "zero" else full_checkpoint.parent / "checkpoint-3"
    command = [sys.executable, "-c", code, str(full_checkpoint), str(shards)]
    done = subprocess.run(command, env={**os.environ, **RANKS}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (shards / "model.safetensors").unlink(missing_ok=True)
    result = export_checkpoint(shards, tmp_path / "out")
    assert (result.kind, result.logit_difference) == (kind, 0.0)
    assert tensor_names(tmp_path / "out") == tensor_names(base)
    np.testing.assert_allclose(logits_of(tmp_path / "out"), expected, atol=1e-6)
