"""Every shipped recipe resolves and is valid, with every choice of rewards."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sayo.recipes import check_recipe, load_recipe, recipes_dir, trainer_config_class

RUNS = sorted(recipes_dir().glob("*.yaml"))  # the folders hold groups, which recipes are composed of
REWARDS = sorted(
    str(path.relative_to(recipes_dir() / "rewards").with_suffix(""))
    for path in (recipes_dir() / "rewards").rglob("*.yaml")
)
DATA = "data.path=prepared/somewhere"


def name_of(path: Path) -> str:
    return path.stem if path.parent == recipes_dir() else str(path)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_recipe_is_valid(path):
    recipe = load_recipe(name_of(path), [DATA])
    assert recipe.data.path == "prepared/somewhere" and recipe.resume == "auto"
    assert check_recipe(yaml.safe_load(recipe.to_yaml())) == recipe, "the written recipe.yaml is not the same recipe"
    # On a machine without GPU, bf16 would be refused by transformers for that reason alone.
    fields = {**recipe.trainer, "bf16": False, "use_cpu": True, "report_to": "none"}
    trainer_config_class(recipe)(**fields)


@pytest.mark.parametrize("rewards", REWARDS)
@pytest.mark.parametrize(
    "path",
    [path for path in RUNS if "rewards" in path.read_text().partition("defaults:")[2]],
    ids=lambda path: path.stem,
)
def test_recipe_takes_every_choice_of_rewards(path, rewards):
    recipe = load_recipe(name_of(path), [DATA, f"rewards={rewards}"])
    variant = rewards.rpartition("/")[2]
    assert ("accuracy" in recipe.rewards) == (variant in ("accuracy", "both"))
    assert ("attention" in recipe.rewards) == (variant in ("attention", "both"))


@pytest.mark.parametrize("path", sorted((recipes_dir() / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_file_is_read_by_accelerate(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    kind = {"cpu": "MULTI_GPU", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(path.stem, "DEEPSPEED")
    assert config.distributed_type.value == kind
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])
