from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import load_dataset
from toy_runs import TRAINER, Toy


@pytest.fixture
def make_trainer(toys: Toy, tmp_path: Path) -> Callable:
    """A trainer on toy data; keywords are fields of its config, `edit` changes the data set."""

    def make(
        rewards,
        family: str = "qwen3_vl",
        edit: Callable | None = None,
        peft_config=None,
        rollout_func=None,
        advantage_shaper=None,
        **fields,
    ):
        from transformers import AutoModelForImageTextToText

        from sayo.processors import load_auto_processor
        from sayo.training.config import RegionGRPOConfig
        from sayo.training.grpo import RegionGRPOTrainer

        rows = load_dataset(str(toys.data[family]), split="train", cache_dir=str(tmp_path / "cache"))
        return RegionGRPOTrainer(
            model=AutoModelForImageTextToText.from_pretrained(toys.policy[family]),
            reward_funcs=rewards,
            args=RegionGRPOConfig(**{**TRAINER, "output_dir": str(tmp_path / "run"), **fields}),
            train_dataset=edit(rows) if edit else rows,
            processing_class=load_auto_processor(toys.policy[family]),
            peft_config=peft_config,
            rollout_func=rollout_func,
            advantage_shaper=advantage_shaper,
        )

    return make
