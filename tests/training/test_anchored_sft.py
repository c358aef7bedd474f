"""AVAR's losses in supervised tuning: what is read, which way a step goes, and that nothing else changes."""

import json
import shutil

import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig
from safetensors.torch import load_file
from toy_runs import TRAINER
from transformers import AutoModelForImageTextToText

from sayo.processors import load_auto_processor
from sayo.recipes import parse_recipe
from sayo.training.checkpoints import is_complete
from sayo.training.config import ANCHORED_ROWS, AnchoredSFTConfig
from sayo.training.objective import weighted_rows
from sayo.training.run import train
from sayo.training.sft import AnchoredSFTTrainer

SYSTEM = "Look at the picture and answer."
ONLY_GRPO = ("num_generations", "max_completion_length", "beta")
OPTIONS = {
    **{name: value for name, value in TRAINER.items() if name not in ONLY_GRPO},
    "max_steps": 1,
    "learning_rate": 1e-2,
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "max_length": None,
}
CHECKPOINTING = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}


@pytest.fixture(scope="module")
def rows(toys, tmp_path_factory):
    """Rows with a system turn, and answers of different lengths."""
    prepared = load_dataset(
        str(toys.data["qwen3_vl"]), split="train", cache_dir=str(tmp_path_factory.mktemp("cache"))
    ).select(range(8))

    def conversation(row, index):
        answer = " ".join(["I look at it."] * (1 + index % 3) + [row["solution"]])
        system = [{"role": "system", "content": SYSTEM}] if index % 4 else []
        return {"prompt": [*system, *row["prompt"]], "completion": [{"role": "assistant", "content": answer}]}

    return prepared.map(conversation, with_indices=True).select_columns(["prompt", "completion", "images"])


def trainer_of(toys, rows, folder, family="qwen3_vl", peft_config=None, kernel="sdpa", **options):
    return AnchoredSFTTrainer(
        model=AutoModelForImageTextToText.from_pretrained(toys.policy[family], attn_implementation=kernel),
        args=AnchoredSFTConfig(**{**OPTIONS, "output_dir": str(folder), **options}),
        train_dataset=rows,
        processing_class=load_auto_processor(toys.policy[family]),
        peft_config=peft_config,
    )


def read(trainer, batch):
    """Attention masses of the response rows on the image and the system words, these groups, and which rows count."""
    groups = {"system": batch["system_mask"], "image": (batch["input_ids"] == trainer._image_token_id).float()}
    positions, mask = weighted_rows(batch["anchored_mask"])
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "system_mask", "anchored_mask")}
    with torch.no_grad(), trainer._capture.reading(positions, groups) as reading:
        trainer.model(**inputs)
    return reading.masses, groups, mask


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


@pytest.mark.parametrize("anchored", ANCHORED_ROWS)
def test_the_rows_that_are_read(toys, rows, tmp_path, anchored):
    """The words of the answer, those of the question, or both; never the template's markers or visual tokens."""
    trainer = trainer_of(toys, rows, tmp_path, enhance_weight=0.1, anchored_rows=anchored)
    row = dict(rows[1])
    question, answer = row["prompt"][-1]["content"], row["completion"][0]["content"]
    batch = trainer.data_collator([row])
    text = trainer.processing_class.tokenizer.decode(batch["input_ids"][0][batch["anchored_mask"][0] > 0])
    ends = {"response": answer, "question": question, "both": question + answer}
    assert text.startswith(ends[anchored][:8]) and (question in text) == (anchored != "response")
    assert (answer in text) == (anchored != "question") and "<|vision" not in text and "<|image" not in text


@pytest.mark.parametrize(
    ("family", "weight", "group", "sign"),
    [("qwen3_vl", "enhance_weight", "image", 1), ("qwen2_5_vl", "suppress_weight", "system", -1)],
)
def test_one_step(toys, rows, tmp_path, family, weight, group, sign):
    """One step of each loss moves the attention that it is about, against the same step without it."""

    def attention(trainer, batch):
        masses, _, mask = read(trainer, batch)
        return sign * float((masses[group].mean(dim=(1, 2)) * mask).sum() / mask.sum())

    rows, after = rows.select([1, 2, 3, 5]), {}
    for name, options in (("anchored", {weight: 50.0}), ("plain", {"enhance_weight": 1e-12})):
        trainer = trainer_of(toys, rows, tmp_path / name, family, learning_rate=1e-3, **options)
        batch = trainer.data_collator([dict(row) for row in rows])
        before = attention(trainer, batch)
        trainer.train()
        after[name] = attention(trainer, batch)
    assert after["anchored"] > max(before, after["plain"]) + 1e-3


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_padding_and_the_rest_of_the_batch_change_nothing(toys, rows, tmp_path, family):
    """The losses of a batch are the means of its samples' own, wherever the padding lies."""
    trainer = trainer_of(toys, rows, tmp_path, family, enhance_weight=1.0, suppress_weight=1.0)
    trainer.model.eval()

    def terms(batch):
        return trainer._terms(*read(trainer, batch)).item()

    batch = trainer.data_collator([dict(rows[index]) for index in (1, 2, 3)])
    left = dict(batch)
    for name in ("input_ids", "attention_mask", "labels", "system_mask", "anchored_mask", "mm_token_type_ids"):
        left[name] = torch.nn.functional.pad(batch[name], (3, 0), value=-100 if name == "labels" else 0)
    alone = [terms(trainer.data_collator([dict(rows[index])])) for index in (1, 2, 3)]
    assert terms(batch) == pytest.approx(sum(alone) / 3, abs=1e-5)
    assert terms(left) == pytest.approx(terms(batch), abs=1e-5)


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
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    ways = {
        "checkpointing": CHECKPOINTING,
        "eager": {"kernel": "eager"},
        "accumulation": halves,
        "accumulation, tokens counted": {**halves, "counts_tokens": True},
    }
    for name, options in ways.items():
        parameters, entry = gradients(toys, rows, tmp_path / name, **options)
        for key, value in plain.items():
            assert torch.allclose(parameters[key], value, atol=2e-6), (name, key)
        assert entry["attention/image_mass"] == pytest.approx(logged["attention/image_mass"], abs=2e-2)
    start = dict(AutoModelForImageTextToText.from_pretrained(toys.policy["qwen3_vl"]).named_parameters())
    assert any((plain[key] - start[key]).abs().max() > 1e-4 for key in plain if "k_proj" in key)


def test_lora(toys, rows, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj"], task_type="CAUSAL_LM")
    trainer = trainer_of(toys, rows, tmp_path, peft_config=config, enhance_weight=1.0, max_steps=2, **CHECKPOINTING)
    trainer.train()
    weights = [value for name, value in trainer.model.named_parameters() if "lora_B" in name and "language" in name]
    assert weights and all(value.abs().max() > 0 for value in weights)


def test_layers_and_evaluation(toys, rows, tmp_path):
    trainer = trainer_of(toys, rows, tmp_path, enhance_weight=1.0, attention_layers="0-1", eval_strategy="no")
    assert trainer._capture.layers == (0, 1)
    plain = trainer_of(toys, rows, tmp_path)
    assert type(plain.data_collator).__name__ == "DataCollatorForVisionLanguageModeling", "without weights it is TRL's"
    trainer.eval_dataset = rows
    assert trainer.evaluate()["eval_attention/enhance_loss"] > 0


@pytest.mark.parametrize("weights", [{}, {"enhance_weight": 0.15, "suppress_weight": 0.15}], ids=["plain", "anchored"])
def test_a_recipe_resumes(toys, rows, tmp_path, weights):
    """A run that was cut in its first epoch ends like the whole one; both have complete checkpoints."""
    rows.to_parquet(tmp_path / "rows.parquet")
    saved, tokens = {}, {}
    for name in ("whole", "cut"):
        run = tmp_path / name
        saving = {"output_dir": str(run), "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
        trainer = {**OPTIONS, **saving, **weights, "optim": "adamw_torch", "per_device_train_batch_size": 2}
        del trainer["bf16"]
        model = {"name_or_path": str(toys.policy["qwen3_vl"]), "dtype": "float32"}
        data = {"path": str(tmp_path / "rows.parquet")}
        recipe = parse_recipe({"model": model, "data": data, "trainer": trainer})
        train(recipe)
        assert recipe.trainer["bf16"] is False, "TRL's default precision is meant for GPUs"
        if name == "cut":  # six steps are one and a half epochs
            shutil.rmtree(run / "checkpoint-6")
            (run / "model.safetensors").unlink()
            train(recipe)
        assert is_complete(run / "checkpoint-3") and is_complete(run / "checkpoint-6")
        history = json.loads((run / "checkpoint-6/trainer_state.json").read_text())["log_history"]
        assert ("attention/suppress_loss" in history[-1]) == bool(weights)
        saved[name] = load_file(run / "model.safetensors")
        tokens[name] = [line.get("num_tokens") for line in history]
    assert tokens["cut"] == tokens["whole"] and tokens["whole"][-1]
    assert all(torch.equal(saved["whole"][key], saved["cut"][key]) for key in saved["whole"])


def test_whole_conversations_are_refused(toys, rows, tmp_path):
    trainer = trainer_of(toys, rows, tmp_path, enhance_weight=0.1)
    with pytest.raises(ValueError, match="`prompt` and `completion`"):
        trainer.data_collator([{"messages": rows[0]["prompt"], "images": rows[0]["images"]}])
