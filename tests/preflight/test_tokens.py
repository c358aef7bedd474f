"""Tokens come from the prepared data, or from a stated assumption."""

import numpy as np
import pytest
from transformers import AutoConfig

from sayo.preflight.tokens import NO_DATA, count_tokens
from sayo.recipes import DataSection, RecipeError, load_recipe
from sayo.training.setup import load_data


def recipe_of(toy, *changes):
    return load_recipe("toy", [f"model.name_or_path={toy.policy}", f"data.path={toy.prepared}", *changes])


@pytest.fixture(scope="module")
def config(toy):
    return AutoConfig.from_pretrained(toy.policy)


def test_percentiles_of_the_toy_data(toy, config):
    counted = count_tokens(recipe_of(toy), config)
    column = load_data(DataSection(path=str(toy.prepared)), "train")["num_visual_tokens"]
    per_sample = [sum(row) for row in column]
    assert counted.samples == len(per_sample)
    for percent in (50, 90, 99, 100):
        assert counted.visual[f"p{percent}"] == np.percentile(per_sample, percent)
    assert counted.longest.visual == max(per_sample)


def test_text_tokens_are_the_prompts_of_the_trainer(toy, config):
    """What the processor makes of a prompt with its image, less the visual tokens."""
    from sayo.training.setup import load_processor

    recipe = recipe_of(toy, "data.max_samples=1")
    row = load_data(DataSection(path=str(toy.prepared)), "train")[0]
    content = [{"type": "image"}, {"type": "text", "text": row["prompt"][0]["content"]}]
    processor = load_processor(recipe.model)
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    ids = processor(images=row["images"], text=[text])["input_ids"][0]
    counted = count_tokens(recipe, config)
    assert counted.longest.total == len(ids)


def test_a_system_prompt_counts(toy, config):
    plain = count_tokens(recipe_of(toy), config)
    longer = count_tokens(recipe_of(toy, "data.system_prompt='what is the colour of the disc'"), config)
    assert longer.text["p50"] > plain.text["p50"]


def test_without_data_the_assumption_is_stated(toy, config):
    recipe = recipe_of(toy, f"data.path='{NO_DATA}'", "model.size={longest_edge: 16384}")
    counted = count_tokens(recipe, config)
    assert counted.visual["p100"] == 16384 / 16**2  # a visual token of the toy policy is 16 x 16 pixels
    assert counted.samples is None
    assert counted.source.startswith("assumed")


def test_data_that_cannot_be_read_are_an_error(toy, config, tmp_path):
    with pytest.raises(RecipeError, match=r"data\.path"):
        count_tokens(recipe_of(toy, f"data.path={tmp_path}/nothing"), config)
