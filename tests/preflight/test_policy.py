"""The priced policy is the real one: same classes, same parameters."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from sayo.preflight.bench import make_config
from sayo.preflight.policy import meta_policy
from sayo.recipes import ModelSection, RecipeError

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_parameter_counts_are_the_real_models(family):
    config = make_config(family, "12M")
    policy = meta_policy(ModelSection("random", dtype="float32"), config)
    real = transformers.AutoModelForImageTextToText.from_config(config)

    parts = policy.parts()
    assert policy.total().parameters == real.num_parameters()
    assert policy.total().weight_bytes == 4 * real.num_parameters()
    assert parts["lm head"].parameters == real.lm_head.weight.numel()
    assert parts["embeddings"].parameters == real.model.language_model.embed_tokens.weight.numel()
    vision = parts["vision tower"].parameters + parts["projector"].parameters
    assert vision == sum(p.numel() for p in real.model.visual.parameters())
    assert all(parameter.is_meta for parameter in policy.model.parameters())


def test_lora_counts_are_pefts():
    config = make_config("qwen3_vl", "12M")
    policy = meta_policy(ModelSection("random", lora=LORA), config)
    real = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    real = get_peft_model(real, LoraConfig(task_type="CAUSAL_LM", **LORA))

    trainable, total = real.get_nb_trainable_parameters()
    assert (policy.total().trainable, policy.total().parameters) == (trainable, total)
    assert policy.parts()["LoRA"].trainable == trainable
    # peft keeps adapters in float32 beside bfloat16 weights
    assert policy.total().trainable_bytes == 4 * trainable


def test_tied_embeddings_count_once(toy):
    policy = meta_policy(ModelSection(str(toy.policy), dtype="float32"))
    real = transformers.AutoModelForImageTextToText.from_pretrained(toy.policy)
    assert policy.total().parameters == real.num_parameters()
    assert policy.parts()["lm head"].parameters == 0


def test_frozen_vision_learns_nothing():
    config = make_config("qwen3_vl", "12M")
    parts = meta_policy(ModelSection("random", freeze_vision=True), config).parts()
    assert parts["vision tower"].trainable == parts["projector"].trainable == 0
    assert parts["text decoder"].trainable == parts["text decoder"].parameters > 0


def test_four_bits_shrink_the_layers_only():
    config = make_config("qwen3_vl", "12M")
    plain = meta_policy(ModelSection("random"), config).parts()
    packed = meta_policy(ModelSection("random", load={"quantization_config": {"load_in_4bit": True}}), config).parts()
    assert packed["embeddings"] == plain["embeddings"]
    ratio = packed["text decoder"].weight_bytes / plain["text decoder"].weight_bytes
    assert 0.5625 / 2 <= ratio < 0.29


def test_unreachable_hub_says_what_to_do():
    with pytest.raises(RecipeError, match=r"config.json: connect to the hub once, or name a local folder"):
        meta_policy(ModelSection("nobody/no-such-model"))


def test_unpriced_family_is_refused():
    config = transformers.Gemma3Config(
        text_config={"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64, "intermediate_size": 32},
        vision_config={"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2},
    )
    with pytest.raises(RecipeError, match="gemma3"):
        meta_policy(ModelSection("random"), config)
