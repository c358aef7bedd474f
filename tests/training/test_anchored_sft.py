"""AVAR's losses in supervised tuning: what is read, which way a step goes, and that nothing else changes."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from sayo.attention import AttentionCapture
from sayo.processors import load_auto_processor
from sayo.recipes import parse_recipe
from sayo.training.config import AnchoredSFTConfig
from sayo.training.objective import weighted_rows
from sayo.training.run import train
from sayo.training.sft import AnchoredSFTTrainer

SYSTEM = "Look at the picture and answer."
OPTIONS = {
    "per_device_train_batch_size": 4,
    "max_steps": 1,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "max_length": None,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def rows(toys, tmp_path_factory):
    """Rows with a system turn, and answers of different lengths."""
    found = load_dataset(
        str(toys.data["qwen3_vl"]), split="train", cache_dir=str(tmp_path_factory.mktemp("cache"))
    ).select(range(8))

    def conversation(row, index):
        answer = " ".join(["I look at it."] * (1 + index % 3) + [row["solution"]])
        system = [{"role": "system", "content": SYSTEM}] if index % 4 else []
        return {"prompt": [*system, *row["prompt"]], "completion": [{"role": "assistant", "content": answer}]}

    return found.map(conversation, with_indices=True).select_columns(["prompt", "completion", "images"])


def trainer_of(toys, rows, folder, family="qwen3_vl", peft_config=None, kernel="sdpa", **options):
    return AnchoredSFTTrainer(
        model=AutoModelForImageTextToText.from_pretrained(toys.policy[family], attn_implementation=kernel),
        args=AnchoredSFTConfig(**{**OPTIONS, "output_dir": str(folder), **options}),
        train_dataset=rows,
        processing_class=load_auto_processor(toys.policy[family]),
        peft_config=peft_config,
    )


def attention_of(trainer, batch):
    """Mean attention of the response rows on image and system words, without training."""
    inputs = dict(batch)
    groups = {"system": inputs.pop("system_mask"), "image": inputs["input_ids"] == trainer.model.config.image_token_id}
    labels = inputs.pop("labels")
    rows, mask = weighted_rows((labels != -100).float())
    with torch.no_grad(), AttentionCapture(trainer.model, "all").reading(rows, groups) as reading:
        trainer.model(**inputs)
    return {name: float((mass.mean(1) * mask).sum() / mask.sum()) for name, mass in reading.masses.items()}


def test_the_system_words(toys, rows, tmp_path):
    """From the template: exactly the words of the system turn, or all before the image where there is none."""
    trainer = trainer_of(toys, rows, tmp_path, enhance_weight=0.1)
    batch = trainer.data_collator([dict(rows[index]) for index in (0, 1)])
    processor = trainer.processing_class
    texts = [
        processor.tokenizer.decode(ids[mask > 0])
        for ids, mask in zip(batch["input_ids"], batch["system_mask"], strict=True)
    ]
    assert texts == ["<|im_start|>user\n<|vision_start|>", SYSTEM]


@pytest.mark.parametrize(
    ("family", "weights", "rises", "falls"),
    [
        ("qwen3_vl", {"enhance_weight": 50.0}, ["image"], []),
        ("qwen2_5_vl", {"suppress_weight": 50.0}, [], ["system"]),
    ],
)
def test_one_step(toys, rows, tmp_path, family, weights, rises, falls):
    """One step of each loss moves the attention that it is about, against the same step without it."""
    rows, after = rows.select([1, 2, 3, 5]), {}
    for name, own in (("anchored", weights), ("plain", {"enhance_weight": 1e-12})):
        trainer = trainer_of(toys, rows, tmp_path / name, family, learning_rate=1e-3, **own)
        batch = trainer.data_collator([dict(row) for row in rows])
        before = attention_of(trainer, batch)
        trainer.train()
        after[name] = attention_of(trainer, batch)
    for group in rises:
        assert after["anchored"][group] > max(before[group], after["plain"][group]) + 1e-3
    for group in falls:
        assert after["anchored"][group] < min(before[group], after["plain"][group]) - 1e-3


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_padding_and_the_rest_of_the_batch_change_nothing(toys, rows, tmp_path, family):
    """The losses of a batch are the means of its samples' own, wherever the padding lies."""
    trainer = trainer_of(toys, rows, tmp_path, family, enhance_weight=1.0, suppress_weight=1.0)
    trainer.model.eval()

    def terms(batch):
        groups = {"system": batch["system_mask"], "image": batch["input_ids"] == trainer._image_token_id}
        positions, mask = weighted_rows((batch["labels"] != -100).float())
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "system_mask")}
        with torch.no_grad(), trainer._capture.reading(positions, groups) as reading:
            trainer.model(**inputs)
        return trainer._terms(reading.masses, groups, mask).item()

    batch = trainer.data_collator([dict(rows[index]) for index in (1, 2, 3)])
    left = dict(batch)
    for name in ("input_ids", "attention_mask", "labels", "system_mask", "mm_token_type_ids"):
        left[name] = torch.nn.functional.pad(batch[name], (3, 0), value=-100 if name == "labels" else 0)
    alone = [terms(trainer.data_collator([dict(rows[index])])) for index in (1, 2, 3)]
    assert terms(batch) == pytest.approx(sum(alone) / 3, abs=1e-5)
    assert terms(left) == pytest.approx(terms(batch), abs=1e-5)


def test_without_weights_it_is_trl(toys, rows, tmp_path):
    """Both weights 0: nothing is read, and the loss is TRL's."""
    trainer = trainer_of(toys, rows, tmp_path)
    trainer.train()
    assert type(trainer.data_collator).__name__ == "DataCollatorForVisionLanguageModeling"
    assert not any("attention/" in key for entry in trainer.state.log_history for key in entry)


def gradients(toys, rows, folder, counts_tokens=None, **options):
    """Parameters after one plain gradient step."""
    trainer = trainer_of(toys, rows, folder, enhance_weight=5.0, suppress_weight=5.0, **options)
    if counts_tokens is not None:  # of most models; Qwen's take no `num_items_in_batch`, and are scaled by the trainer
        trainer.model_accepts_loss_kwargs = counts_tokens
    trainer.train()
    values = {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    return values, next(entry for entry in trainer.state.log_history if "attention/vas" in entry)


def test_every_way_of_training_takes_the_same_step(toys, rows, tmp_path):
    """Checkpointing and another kernel change no gradient; nor does accumulation, for samples alike in their parts."""
    rows = rows.select([1, 2, 5, 7])
    plain, logged = gradients(toys, rows, tmp_path / "plain")
    ways = {
        "checkpointing": {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        },
        "eager": {"kernel": "eager"},
        "accumulation": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        "accumulation, tokens counted": {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "counts_tokens": True,
        },
    }
    for name, options in ways.items():
        found, own = gradients(toys, rows, tmp_path / name, **options)
        for key, value in plain.items():
            assert torch.allclose(found[key], value, atol=2e-6), (name, key)
        assert own["attention/image_mass"] == pytest.approx(logged["attention/image_mass"], abs=2e-2)
    start = dict(AutoModelForImageTextToText.from_pretrained(toys.policy["qwen3_vl"]).named_parameters())
    assert any((plain[key] - start[key]).abs().max() > 1e-4 for key in plain if "k_proj" in key)


def test_lora(toys, rows, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj"], task_type="CAUSAL_LM")
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    trainer = trainer_of(toys, rows, tmp_path, peft_config=config, enhance_weight=1.0, max_steps=2, **options)
    trainer.train()
    weights = [value for name, value in trainer.model.named_parameters() if "lora_B" in name and "language" in name]
    assert weights and all(value.abs().max() > 0 for value in weights)


def test_layers_and_evaluation(toys, rows, tmp_path):
    trainer = trainer_of(toys, rows, tmp_path, enhance_weight=1.0, attention_layers="0-1", eval_strategy="no")
    assert trainer._capture.layers == (0, 1)
    trainer.eval_dataset = rows
    assert trainer.evaluate()["eval_attention/enhance_loss"] > 0


def test_a_recipe_resumes(toys, rows, tmp_path):
    """The run of a recipe that was cut ends like the whole one."""
    import shutil

    rows.to_parquet(tmp_path / "rows.parquet")
    weights = {}
    for name in ("whole", "cut"):
        run = tmp_path / name
        own = {
            "output_dir": str(run),
            "max_steps": 2,
            "save_strategy": "steps",
            "save_steps": 1,
            "optim": "adamw_torch",
        }
        recipe = parse_recipe(
            {
                "model": {"name_or_path": str(toys.policy["qwen3_vl"]), "dtype": "float32"},
                "data": {"path": str(tmp_path / "rows.parquet")},
                "trainer": {
                    **OPTIONS,
                    **own,
                    "enhance_weight": 0.15,
                    "suppress_weight": 0.15,
                    "attention_layers": "last",
                },
            }
        )
        train(recipe)
        if name == "cut":
            shutil.rmtree(run / "checkpoint-2")
            (run / "model.safetensors").unlink()
            train(recipe)
        weights[name] = load_file(run / "model.safetensors")
        history = json.loads((run / "checkpoint-2/trainer_state.json").read_text())["log_history"]
        assert "attention/suppress_loss" in history[-1]
    assert all(torch.equal(weights["whole"][key], weights["cut"][key]) for key in weights["whole"])


def test_wrong_use(toys, rows, tmp_path):
    with pytest.raises(ValueError, match="use_reentrant"):
        AnchoredSFTConfig(
            **{**OPTIONS, "gradient_checkpointing": True, "output_dir": str(tmp_path)},
            enhance_weight=1.0,
            gradient_checkpointing_kwargs={"use_reentrant": True},
        )
    with pytest.raises(ValueError, match="negative"):
        AnchoredSFTConfig(**{**OPTIONS, "output_dir": str(tmp_path)}, suppress_weight=-1.0)
    trainer = trainer_of(toys, rows, tmp_path, enhance_weight=0.1)
    with pytest.raises(ValueError, match="`prompt` and `completion`"):
        trainer.data_collator([{"messages": rows[0]["prompt"], "images": rows[0]["images"]}])
