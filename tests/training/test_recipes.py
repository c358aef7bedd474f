"""Every shipped recipe resolves and is valid, with every choice of rewards; what cannot be meant is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sayo.recipes import RecipeError, load_recipe, parse_recipe, recipes_dir
from sayo.training.setup import check_recipe, trainer_config_class

RUNS = sorted(recipes_dir().glob("*.yaml"))  # the folders hold groups, which recipes are composed of
REWARDS = sorted(
    str(path.relative_to(recipes_dir() / "rewards").with_suffix(""))
    for path in (recipes_dir() / "rewards").rglob("*.yaml")
)
SHAPERS = sorted(path.stem for path in (recipes_dir() / "advantage_shaper").glob("*.yaml"))
DATA = "data.path=prepared/somewhere"


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_recipe_is_valid(path):
    recipe = load_recipe(path.stem, [DATA])
    assert recipe.data.path == "prepared/somewhere" and recipe.resume == "auto"
    check_recipe(recipe)
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe, "the written recipe.yaml is not the same recipe"
    # On a machine without GPU, bf16 would be refused by transformers for that reason alone.
    fields = {**recipe.trainer, "bf16": False, "use_cpu": True, "report_to": "none"}
    trainer_config_class(recipe)(**fields)


@pytest.mark.parametrize("rewards", REWARDS)
@pytest.mark.parametrize("name", ["toy", "sayo_qwen3_vl_8b"])
def test_recipe_takes_every_choice_of_rewards(name, rewards):
    recipe = load_recipe(name, [DATA, f"rewards={rewards}"])
    check_recipe(recipe)
    variant = rewards.rpartition("/")[2]
    named = {"both": {"accuracy", "attention"}, "gated": {"accuracy", "attention"}, "attention": {"attention"}}
    expected = named.get(variant, {"accuracy", variant})
    assert set(recipe.rewards) - {"format"} == expected


@pytest.mark.parametrize("shaper", SHAPERS)
def test_recipe_takes_every_advantage_shaper(shaper):
    recipe = load_recipe("toy", [f"advantage_shaper={shaper}"])
    check_recipe(recipe)
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    if shaper == "causal_credit":
        options, reward = recipe.advantage_shaper.options, recipe.rewards["attention"].options
        assert {name: options[name] for name in ("rows", "select", "top_share")} == reward


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.pathh=x"], "Unknown recipe key `data.pathh`. Did you mean `path`?"),
        (["trainerr.seed=1"], "Unknown recipe key `trainerr`. Did you mean `trainer`?"),
        (["trainer.learning_rat=1"], "`trainer.learning_rat`. Did you mean `learning_rate`?"),
        (["trainer.n_gpu=1"], "Unknown recipe key `trainer.n_gpu`."),  # not a setting of the config, but worked out
        (["model.freeze_vision=perhaps"], "`model.freeze_vision`: Input should be a valid boolean"),
        (["model.size=large"], "`model.size`: Input should be a valid dictionary; got 'large'."),
        (["rewards.accuracy.weigth=2"], "`rewards.accuracy.weigth`. Did you mean `weight`?"),
        (["rewards.mine={weight: 1}"], "The recipe has no `rewards.mine.function`."),
        (["rewards.attention.options.rowss=deciding"], "`rewards.attention.options.rowss`. Did you mean `rows`?"),
        (["rewards.attention.function=sayo.rewards.none"], "`rewards.attention.function: sayo.rewards.none` cannot"),
        (["advantage_shaper=vppo", "+advantage_shaper.opts=1"], "`advantage_shaper.opts`. Did you mean `options`"),
        (["advantage_shaper=vppo", "advantage_shaper.options.sharee=1"], "options.sharee`. Did you mean `share`"),
        (["advantage_shaper=causal_credit", "rewards=toy/accuracy"], "rewards.attention.options.rows"),
        (["advantage_shaper=vppo", "~rewards"], "`advantage_shaper` needs rewards"),
        (["rewards=toy/attention", "rewards.attention.gate=correct"], "opened by another reward named 'accuracy'"),
        (["rewards.attention.gate=right"], "Input should be 'always', 'correct' or 'group'; got 'right'"),
        (["rewards.accuracy.gate=group"], "opened by another reward"),
        (["~trainer.output_dir"], "`trainer.output_dir` is missing"),
    ],
)
def test_a_recipe_that_cannot_be_meant(overrides, message):
    with pytest.raises(RecipeError) as caught:
        check_recipe(load_recipe("toy", overrides))
    assert message in str(caught.value)


def test_a_section_or_a_value_that_is_missing_is_named_with_what_to_add():
    with pytest.raises(RecipeError, match=r"has no `model`. The recipe has no `data`."):
        parse_recipe({"trainer": {"output_dir": "run"}})
    with pytest.raises(
        RecipeError, match=r"needs `data.path`: write it into the recipe, or add data.path=\.\.\. to the"
    ):
        load_recipe("sayo_qwen3_vl_8b")
    with pytest.raises(RecipeError, match=r"There is no recipe 'toyy'. Did you mean `toy`\?"):
        load_recipe("toyy")


def test_the_command_line_says_it_in_one_line(sayo_command, tmp_path):
    shown = sayo_command("train", "--show", "trainer.seed=7")
    assert shown.exit_code == 0 and yaml.safe_load(shown.output)["trainer"]["seed"] == 7
    (tmp_path / "own.yaml").write_text(shown.output)
    assert load_recipe(str(tmp_path / "own.yaml")).trainer["seed"] == 7
    wrong = sayo_command("train", "--show", "trainer.sead=7")
    assert wrong.exit_code == 2 and wrong.stdout == ""
    assert wrong.stderr == "error: Unknown recipe key `trainer.sead`. Did you mean `seed`?\n"


@pytest.mark.parametrize("path", sorted((recipes_dir() / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_file_is_read_by_accelerate(path: Path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    kind = {"cpu": "MULTI_GPU", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(path.stem, "DEEPSPEED")
    assert config.distributed_type.value == kind
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])
