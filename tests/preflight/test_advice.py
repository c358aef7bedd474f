"""The order of what can be changed, and that every change of it is one that Hydra and the launcher understand."""

import re
import shlex

import pytest
from preflight.settings import make_setting

from sayo.preflight.advice import changes, out_of_memory_advice, sharding_for, typed
from sayo.recipes import ModelSection, load_recipe, recipes_dir

HUNGRY = {"gpus": 8, "micro_batch": 8, "accumulation": 4, "generation_batch": 32, "num_generations": 8}
HUNGRY |= {"completion_tokens": 256, "engine": "transformers", "reference": "copy"}
SETTINGS = {
    "plain": HUNGRY,
    "vllm": {**HUNGRY, "engine": "vllm colocate", "vllm_share": 0.3, "gpus": 1},
    "zero3": {**HUNGRY, "sharding": "zero3", "gather_to_generate": True},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_every_change_can_be_typed(setting):
    model = ModelSection(name_or_path="random", size={"shortest_edge": 1024, "longest_edge": 2**20})
    keys = [change for change, _ in changes(make_setting(**setting), model)]
    for change in keys:
        words = shlex.split(typed(change))
        if "sharding" in change:
            assert words[0] == "--sharding" and (recipes_dir() / f"accelerate/{words[1]}.yaml").is_file()
            continue
        recipe = load_recipe("sayo", ["data.path=none/yet", *words])
        for key, value in change.items():
            section, _, name = key.partition(".")
            assert {**recipe.trainer, **vars(recipe.model)}[name] == value, section
    assert len(keys) >= 7 and "model.lora" in keys[-1] and "trainer.gradient_checkpointing" in keys[0]


def test_what_is_turned_already_is_not_named_again():
    least = {"checkpointing": True, "micro_batch": 1, "generation_batch": 1, "completion_tokens": 32}
    assert list(changes(make_setting(**least), ModelSection(name_or_path="random", lora={"r": 4}))) == []


def test_advice_for_a_run_out_of_memory_names_keys_in_order(toy):
    recipe = load_recipe("toy", [f"model.name_or_path={toy.policy}", f"data.path={toy.prepared}"])
    lines = out_of_memory_advice(recipe, 2, "ZeRO-2").splitlines()
    assert "gradient_checkpointing=true" in lines[1] and "--sharding zero3" in lines[3]


def test_pages_and_scripts_name_the_sharding_that_is_decided_in_one_place():
    root, seen = recipes_dir().parent, 0
    for page in (root / "README.md", *(root / "docs").glob("*.md"), *(root / "scripts").glob("train.*")):
        text = re.sub(r"\\\n\s*", "", page.read_text())
        for file, name in re.findall(r"config_file recipes/accelerate/(\w+)\.yaml [^\n]*--config-name (\w+)", text):
            assert file == sharding_for(load_recipe(name, ["data.path=none/yet"])), page
            seen += 1
    assert seen >= 3
    assert "CONFIG:-recipes/accelerate/zero1.yaml" in (root / "scripts/train.slurm").read_text()
    full = load_recipe("sayo", ["data.path=none/yet", "model.lora=null"])
    assert sharding_for(full) == "zero3" and sharding_for(load_recipe("toy")) == "cpu"
