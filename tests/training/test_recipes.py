"""Every shipped recipe resolves and is valid, with every choice of rewards."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sayo.recipes import RecipeError, parse_recipe, load_recipe, recipes_dir, trainer_config_class

RUNS = sorted(recipes_dir().glob("*.yaml"))  # the folders hold groups, which recipes are composed of
REWARDS = sorted(
    str(path.relative_to(recipes_dir() / "rewards").with_suffix(""))
    for path in (recipes_dir() / "rewards").rglob("*.yaml")
)
SHAPERS = sorted(path.stem for path in (recipes_dir() / "advantage_shaper").glob("*.yaml"))
DATA = "data.path=prepared/somewhere"


def name_of(path: Path) -> str:
    return path.stem if path.parent == recipes_dir() else str(path)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_recipe_is_valid(path):
    recipe = load_recipe(name_of(path), [DATA])
    assert recipe.data.path == "prepared/somewhere" and recipe.resume == "auto"
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe, "the written recipe.yaml is not the same recipe"
    # On a machine without GPU, bf16 would be refused by transformers for that reason alone.
    fields = {**recipe.trainer, "bf16": False, "use_cpu": True, "report_to": "none"}
    trainer_config_class(recipe)(**fields)


@pytest.mark.parametrize("rewards", REWARDS)
@pytest.mark.parametrize("name", ["toy", "sayo_qwen3_vl_8b"])
def test_recipe_takes_every_choice_of_rewards(name, rewards):
    recipe = load_recipe(name, [DATA, f"rewards={rewards}"])
    variant = rewards.rpartition("/")[2]
    named = {"both": {"accuracy", "attention"}, "gated": {"accuracy", "attention"}, "attention": {"attention"}}
    expected = named.get(variant, {"accuracy", variant})
    assert set(recipe.rewards) - {"format"} == expected


@pytest.mark.parametrize("shaper", SHAPERS)
def test_recipe_takes_every_advantage_shaper(shaper):
    recipe = load_recipe("toy", [f"advantage_shaper={shaper}"])
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    if shaper == "causal_credit":
        options, reward = recipe.advantage_shaper.options, recipe.rewards["attention"].options
        assert {name: options[name] for name in ("rows", "select", "top_share")} == reward


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["advantage_shaper=vppo", "+advantage_shaper.opts=1"], "`advantage_shaper.opts`. Did you mean `options`"),
        (["advantage_shaper=vppo", "advantage_shaper.options.sharee=1"], "options.sharee`. Did you mean `share`"),
        (["advantage_shaper=causal_credit", "rewards=toy/accuracy"], "rewards.attention.options.rows"),
        (["rewards=toy/attention", "rewards.attention.gate=correct"], "opened by another reward named 'accuracy'"),
        (["rewards.attention.gate=right"], "must be one of always, correct, group; got 'right'"),
        (["rewards.accuracy.gate=group"], "opened by another reward"),
    ],
)
def test_a_recipe_that_cannot_be_meant(overrides, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe("toy", overrides)
    assert message in str(caught.value)


def test_a_value_that_is_missing_is_named_with_what_to_add():
    with pytest.raises(
        RecipeError, match=r"needs `data.path`: write it into the recipe, or add data.path=\.\.\. to the"
    ):
        load_recipe("sayo_qwen3_vl_8b")


@pytest.mark.parametrize("path", sorted((recipes_dir() / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_file_is_read_by_accelerate(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    kind = {"cpu": "MULTI_GPU", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(path.stem, "DEEPSPEED")
    assert config.distributed_type.value == kind
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])
