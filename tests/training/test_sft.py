"""Supervised runs have the same checkpoints: a cut run ends like a whole one."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from datasets import load_dataset
from safetensors.torch import load_file

from sayo.recipes import parse_recipe
from sayo.training.checkpoints import is_complete
from sayo.training.run import train


def test_resume(toys, tmp_path):
    rows = load_dataset(str(toys.data["qwen3_vl"]), split="train", cache_dir=str(tmp_path / "cache")).select(range(8))
    rows = rows.map(lambda row: {"completion": [{"role": "assistant", "content": row["solution"]}]})
    rows.select_columns(["prompt", "completion", "images"]).to_parquet(tmp_path / "rows.parquet")
    weights = {}
    for name in ("whole", "cut"):
        run = tmp_path / name
        trainer = {"output_dir": str(run), "max_steps": 6, "save_steps": 3, "per_device_train_batch_size": 2}
        trainer |= {"use_cpu": True, "learning_rate": 1e-3, "max_length": None, "gradient_checkpointing": False}
        trainer |= {"report_to": "none", "logging_steps": 2, "disable_tqdm": True}
        recipe = parse_recipe(
            {
                "model": {"name_or_path": str(toys.policy["qwen3_vl"]), "dtype": "float32"},
                "data": {"path": str(tmp_path / "rows.parquet")},
                "trainer": trainer,
            }
        )
        train(recipe)
        if name == "cut":  # six steps are one and a half epochs; the third is inside the first
            shutil.rmtree(run / "checkpoint-6")
            (run / "model.safetensors").unlink()
            train(recipe)
        assert is_complete(run / "checkpoint-3") and is_complete(run / "checkpoint-6")
        weights[name] = load_file(Path(run, "model.safetensors"))
    assert all(torch.equal(weights["whole"][key], weights["cut"][key]) for key in weights["whole"])
    assert recipe.trainer["bf16"] is False, "TRL's default precision is meant for GPUs"
