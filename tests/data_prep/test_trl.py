"""Prepared rows go into TRL's own GRPOTrainer as they are: prompt, images and solution, nothing of sayo's training."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import load_dataset


def test_rows_are_conversational_with_one_image_each(make_gqa):
    from trl.data_utils import is_conversational, prepare_multimodal_messages

    gqa = make_gqa(2)
    gqa.prepare()
    rows = load_dataset(str(gqa.root / "out"), split="train", cache_dir=str(gqa.root / "cache"))
    assert is_conversational(rows[0])
    (message,) = prepare_multimodal_messages(rows[0]["prompt"], images=rows[0]["images"])
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    assert message["content"][1]["text"] == "What color is mug 0?"


@pytest.mark.slow
def test_trl_trains_on_the_files(make_gqa, tmp_path: Path):
    """One GRPO step of a tiny policy on the three columns, read with `datasets` alone."""
    from transformers import AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    from sayo.toyworld.policy import write_policy

    gqa = make_gqa(0)
    for index in range(2):
        gqa.add(index, (64, 64))
    write_policy(tmp_path / "policy")
    assert gqa.prepare("--processor", str(tmp_path / "policy")).exit_code == 0
    files = str(gqa.root / "out" / "data" / "*.parquet")
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    seen: list[str] = []

    def reward(completions: list, solution: list[str], **kwargs) -> list[float]:
        seen.extend(solution)
        return [float(index % 2) for index in range(len(completions))]

    arguments = GRPOConfig(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=4,
        max_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
    )
    trainer = GRPOTrainer(
        model=str(tmp_path / "policy"),
        reward_funcs=reward,
        args=arguments,
        train_dataset=rows.select_columns(["prompt", "images", "solution"]),
        processing_class=AutoProcessor.from_pretrained(tmp_path / "policy"),
    )
    trainer.train()
    assert seen == ["red", "red"]
    assert trainer.state.global_step == 1
