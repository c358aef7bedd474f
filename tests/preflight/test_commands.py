"""`sayo preflight` as it is typed; the changes that it names can be typed too."""

import shlex

import pytest
from preflight.settings import make_setting

from sayo.preflight.advice import changes, out_of_memory_advice, sharding_for, typed
from sayo.recipes import ModelSection, load_recipe, recipe_names, recipes_dir


@pytest.fixture
def run(toy, sayo_command):
    def run(*words):
        model = () if any("name_or_path" in word for word in words) else (f"model.name_or_path={toy.policy}",)
        return sayo_command("preflight", *words, *model)

    return run


def test_a_recipe_that_fits(run, toy):
    result = run("--config-name", "toy", "--gpus", "1", f"data.path={toy.prepared}")
    assert result.exit_code == 0, result.output
    for words in ("visual", "parameters", "zero3", "scoring", "one epoch", "fits:"):
        assert words in result.output
    assert "does not fit" not in result.output


def test_a_recipe_that_does_not_fit_names_knobs_in_order(run, toy):
    words = ("--config-name", "toy", "--gpu-memory", "2.2", "--gpus", "1", "--sharding", "ddp")
    batch = "trainer.per_device_train_batch_size=256"
    result = run(*words, "--check", batch, f"data.path={toy.prepared}")
    assert result.exit_code == 1, result.output
    assert "does not fit" in result.output
    _, changes = result.output.split("Change, in this order")
    first, *_, last = lines = changes.strip().splitlines()[1:]
    assert "gradient_checkpointing=true" in first and "batch_size=128" in lines[1]
    assert " fits  " in last and " fits  " not in first, changes


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_priced_before_there_are_data(run, name):
    result = run("--config-name", name, "--sharding", "zero1", "data.path='(none yet)'", "trainer.attention_layers=1")
    assert result.exit_code == 0, result.output
    assert "(assumed: " in result.output and "with zero1;" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.name_or_path=nobody/no-such-model",), "config.json"),
        (("trainer.num_generations=7", "trainer.per_device_train_batch_size=64"), "num_generations"),
        (("--sharding", "zero9"), "zero9"),
        (("trainer.learning_rat=1",), "learning_rat"),
    ],
)
def test_mistakes_end_with_a_message(run, words, message):
    result = run("--config-name", "toy", *words)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output


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


def test_the_sharding_is_decided_in_one_place():
    full = load_recipe("sayo", ["data.path=none/yet", "model.lora=null"])
    assert sharding_for(full) == "zero3" and sharding_for(load_recipe("toy")) == "cpu"
