"""The order of what can be changed, and that every change of it is one that Hydra and the launcher understand."""

from __future__ import annotations

import shlex

import pytest

from sayo.preflight.bench import make_setting
from sayo.preflight.ways import ways
from sayo.recipes import ModelSection, load_recipe, recipes_dir

HUNGRY = make_setting({}).change(
    gpus=8,
    sharding="ddp",
    micro_batch=8,
    generation_batch=32,
    num_generations=8,
    completion_tokens=256,
    engine="transformers",
    reference="copy",
)
CHANGES = {
    "plain": HUNGRY,
    "vllm": HUNGRY.change(engine="vllm colocate", vllm_share=0.3, gpus=1),
    "zero3": HUNGRY.change(sharding="zero3", gather_to_generate=True),
}


@pytest.mark.parametrize("setting", CHANGES.values(), ids=CHANGES)
def test_every_change_can_be_typed(setting):
    model = ModelSection("random", size={"shortest_edge": 1024, "longest_edge": 2**20})
    found = list(ways(setting, model, token_pixels=32**2))
    assert len(found) >= 7
    for way in found:
        words = shlex.split(way.change)
        if words[0] == "--config_file":
            assert (recipes_dir().parent / words[1]).is_file() and way.setting.sharding in words[1]
            continue
        recipe = load_recipe("sayo_qwen3_vl_8b", ["data.path=none/yet", *words])
        for key, value in way.section.items():
            assert getattr(recipe.model, key) == value
    assert found[-1].change.startswith("'model.lora=") and found[0].change == "trainer.gradient_checkpointing=true"


def test_what_is_turned_already_is_not_named_again():
    setting = HUNGRY.change(
        checkpointing=True, micro_batch=1, generation_batch=1, gpus=1, completion_tokens=32, reference="none"
    )
    assert list(ways(setting, ModelSection("random", lora={"r": 4}), token_pixels=1)) == []
