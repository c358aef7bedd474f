"""QLoRA through the recipe's own keys: a 4-bit base, trained adapters, exact resume, export."""

import shutil
from importlib.util import find_spec

import pytest
from safetensors.torch import load_file
from toy_runs import recipe_values

from sayo.recipes import RecipeError, parse_recipe
from sayo.training.run import build_trainer, train

FOUR_BITS = {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
has_bitsandbytes = find_spec("bitsandbytes") is not None


def quantized(toys, folder, lora: bool = True):
    values = recipe_values(toys, folder, save_strategy="steps", save_steps=1, max_steps=3)
    adapter = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "lora_dropout": 0.1} if lora else None
    values["model"] |= {"load": FOUR_BITS, "lora": adapter}
    return parse_recipe(values)


@pytest.mark.skipif(has_bitsandbytes, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_message_says_what_to_install(toys, tmp_path):
    with pytest.raises(RecipeError, match=r"pip install .*bitsandbytes"):
        build_trainer(quantized(toys, tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not has_bitsandbytes, reason="needs bitsandbytes (pip install bitsandbytes); runs on CPU")
def test_trains_resumes_exactly_and_exports(toys, tmp_path):
    from sayo.export.package import export_checkpoint

    recipe = quantized(toys, tmp_path / "whole")
    assert sum(type(module).__name__ == "Linear4bit" for module in build_trainer(recipe).model.modules()) > 20
    train(recipe)
    expected = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in expected.items() if "lora_B" in name)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("checkpoint-2", "checkpoint-3"):
        shutil.rmtree(tmp_path / "cut" / name)
    train(quantized(toys, tmp_path / "cut"))
    resumed = load_file(tmp_path / "cut" / "adapter_model.safetensors")
    assert resumed.keys() == expected.keys()
    assert all(resumed[name].dtype == expected[name].dtype for name in expected)
    assert all(resumed[name].equal(expected[name]) for name in expected)
    result = export_checkpoint(tmp_path / "whole", tmp_path / "out")
    assert result.merge_difference < 1e-4 and result.logit_difference < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not has_bitsandbytes, reason="needs bitsandbytes")
def test_four_bits_without_adapters_are_refused(toys, tmp_path):
    with pytest.raises(RecipeError, match="quantized model"):
        build_trainer(quantized(toys, tmp_path, lora=False))
