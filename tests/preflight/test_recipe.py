"""What is read from a recipe: the tokens of its data, and a policy of the same parameters as the real one."""

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from benchmarks.models import SHAPES, make_config
from sayo.preflight.estimate import estimate
from sayo.preflight.policy import MetaPolicy
from sayo.preflight.setting import NO_DATA, TokenCount, count_tokens, setting_of
from sayo.recipes import DataSection, ModelSection, RecipeError, load_recipe
from sayo.training.setup import load_data, load_processor

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
CONFIG = make_config("qwen3_vl", SHAPES["12M"])


def recipe_of(toy, *changes):
    return load_recipe("toy", [f"model.name_or_path={toy.policy}", f"data.path={toy.prepared}", *changes])


def meta(config=CONFIG, **section) -> MetaPolicy:
    return MetaPolicy(ModelSection(name_or_path="random", **section), config)


@pytest.fixture(scope="module")
def config(toy):
    return AutoConfig.from_pretrained(toy.policy)


def test_visual_tokens_are_those_of_the_data(toy, config):
    counted = count_tokens(recipe_of(toy), config)
    per_sample = [sum(row) for row in load_data(DataSection(path=str(toy.prepared)), "train")["num_visual_tokens"]]
    assert counted.samples == len(per_sample)
    assert (counted.visual, counted.mean_visual) == (max(per_sample), round(np.mean(per_sample)))
    smaller = count_tokens(recipe_of(toy, "model.size={shortest_edge: 256, longest_edge: 1024}"), config)
    assert smaller.visual == 4  # a visual token of the toy policy is 16 x 16 pixels


def test_text_tokens_are_close_to_the_processors(toy, config):
    recipe = recipe_of(toy, "data.max_samples=1")
    row = load_data(DataSection(path=str(toy.prepared)), "train")[0]
    content = [{"type": "image"}, {"type": "text", "text": row["prompt"][0]["content"]}]
    processor = load_processor(recipe.model)
    message = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    ids = processor(images=row["images"], text=[text])["input_ids"][0]
    counted = count_tokens(recipe, config)
    assert counted.visual + counted.text == pytest.approx(len(ids), abs=6)
    longer = count_tokens(recipe_of(toy, "data.system_prompt='what is the colour of the disc'"), config)
    assert longer.mean_text > counted.mean_text


def test_without_data_the_assumption_is_stated(toy, config):
    recipe = recipe_of(toy, f"data.path='{NO_DATA}'", "model.size={longest_edge: 16384}")
    counted = count_tokens(recipe, config)
    assert (counted.visual, counted.samples) == (16384 // 16**2, None) and counted.source.startswith("assumed")


@pytest.mark.parametrize(("family", "shape"), [("qwen3_vl", "12M"), ("qwen2_5_vl", "12M"), ("qwen3_vl", "toy")])
def test_parameter_counts_are_the_real_models(family, shape):
    """The toy's embeddings are tied: they count once."""
    config = make_config(family, SHAPES[shape])
    policy, real = meta(config, dtype="float32"), transformers.AutoModelForImageTextToText.from_config(config)
    assert policy.parameters == policy.trainable == real.num_parameters()
    assert policy.weight_bytes == policy.trainable_bytes == 4 * real.num_parameters()
    assert all(parameter.is_meta for parameter in policy.model.parameters())
    frozen = meta(config, dtype="float32", freeze_vision=True)
    assert policy.trainable - frozen.trainable == sum(p.numel() for p in real.model.visual.parameters())


def test_lora_counts_are_pefts():
    real = transformers.AutoModelForImageTextToText.from_config(CONFIG, dtype=torch.bfloat16)
    real = get_peft_model(real, LoraConfig(task_type="CAUSAL_LM", **LORA))
    policy = meta(lora=LORA)
    assert (policy.trainable, policy.parameters) == real.get_nb_trainable_parameters()
    assert policy.trainable_bytes == 4 * policy.trainable  # peft keeps adapters in float32 beside bfloat16 weights


def test_four_bits_shrink_the_layers_only():
    plain, packed = meta(), meta(load={"quantization_config": {"load_in_4bit": True}})

    def size(policy: MetaPolicy, part: str) -> float:
        return sum(p.numel() * policy.bytes_each(n, p) for n, p in policy.model.named_parameters() if part in n)

    assert size(packed, "embed_tokens") == size(plain, "embed_tokens")
    assert 0.5625 / 2 <= size(packed, "language_model.layers") / size(plain, "language_model.layers") < 0.29


@pytest.mark.parametrize(
    ("sharding", "changes", "scores"),
    [
        ("ddp", [], False),
        ("zero3", [], False),
        ("ddp", ["trainer.num_iterations=2"], True),
        ("ddp", ["trainer.steps_per_generation=8"], True),
        ("ddp", ["trainer.use_vllm=true"], True),
        ("zero3", ["trainer.ds3_gather_for_generation=false"], True),
        ("fsdp2", [], True),
        ("ddp", ["trainer.attention_layers=all", "trainer.max_completion_length=100000"], True),
    ],
)
def test_scoring_passes_run_where_the_trainer_runs_them(sharding, changes, scores, toy):
    """Not on aligned steps, whose attention is read while transformers generates."""
    aligned = ["trainer.gradient_accumulation_steps=4", "trainer.steps_per_generation=4", "trainer.num_iterations=1"]
    setting = setting_of(recipe_of(toy, *aligned, *changes), TokenCount(1, 1, 1, 1), CONFIG, 1, sharding)
    assert ("scoring" in setting.extra_forwards) == scores


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl_moe", "qwen3_5", "glm4v", "smolvlm"])
def test_other_families_get_a_clear_word(family, toy, tmp_path):
    from tiny_models import build

    build(family).config.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=rf"not those of '{family}'.*weights take .* GiB"):
        estimate(recipe_of(toy, f"model.name_or_path={tmp_path}"))
