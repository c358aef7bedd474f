"""Every shipped recipe resolves and is valid, with every choice of rewards; what cannot be meant is named."""

import signal
from pathlib import Path

import pytest
import yaml
from peft import get_peft_model
from tiny_models import VISION_MODELS, build
from toy_runs import recipe_values, write_recipe

from sayo.processors import load_auto_processor
from sayo.recipes import (
    ModelSection,
    RecipeError,
    load_recipe,
    parse_recipe,
    recipe_names,
    recipes_dir,
    size_words,
)
from sayo.toyworld.cold_start import write_cold_start
from sayo.training.setup import (
    bound_function,
    check_recipe,
    freeze_vision,
    load_processor,
    lora_config,
    trainer_config_class,
)
from scripts.stand_ins import make_stand_in

RUNS = sorted(recipes_dir().glob("*.yaml"))  # the folders hold groups, which recipes are composed of
REWARDS = sorted(
    str(path.relative_to(recipes_dir() / "rewards").with_suffix(""))
    for path in (recipes_dir() / "rewards").rglob("*.yaml")
)
SHAPERS = sorted(path.stem for path in (recipes_dir() / "advantage_shaper").glob("*.yaml"))
DATA = "data.path=prepared/somewhere"
REFUSED = yaml.safe_load(Path(__file__).with_name("refused.yaml").read_text())


def layer_of(name: str) -> list[str]:
    """What `sayo evaluate` would find, for the recipe that needs it."""
    return ["trainer.attention_layers=1"] if name == "sayo_recommended" else []


def test_the_recommended_recipe_wants_the_layer_and_reads_what_did_best():
    with pytest.raises(RecipeError, match=r"needs `trainer.attention_layers`"):
        load_recipe("sayo_recommended", [DATA])
    recipe = load_recipe("sayo_recommended", [DATA, "trainer.attention_layers=7"])
    assert recipe.rewards["attention"].options["rows"] == "deciding" and set(recipe.rewards) >= {"accuracy"}
    assert recipe.trainer["attention_layers"] == 7 and "recommended" in recipe.trainer["output_dir"]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_recipe_is_valid(path):
    recipe = load_recipe(path.stem, [DATA, *layer_of(path.stem)])
    assert recipe.data.path == "prepared/somewhere" and recipe.resume == "auto"
    check_recipe(recipe)
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe, "the written recipe.yaml is not the same recipe"
    # On a machine without GPU, bf16 would be refused by transformers for that reason alone.
    fields = {**recipe.trainer, "bf16": False, "use_cpu": True, "report_to": "none"}
    trainer_config_class(recipe)(**fields)


@pytest.mark.parametrize("rewards", REWARDS)
@pytest.mark.parametrize("name", ["toy", "sayo"])
def test_recipe_takes_every_choice_of_rewards(name, rewards):
    recipe = load_recipe(name, [DATA, f"rewards={rewards}"])
    check_recipe(recipe)
    variant = rewards.rpartition("/")[2]
    others = {"accuracy", "attention"} if variant in ("both", "gated", "recommended") else {"accuracy", variant}
    assert set(recipe.rewards) - {"format"} == (others if variant != "attention" else {"attention"})


@pytest.mark.parametrize("name", ["sayo", "look_back", "avar", "avar_sft"])
def test_recipe_takes_every_model_each_in_a_folder_of_its_own(name):
    models = recipe_names("model")
    recipes = [load_recipe(name, [DATA, f"model={model}"]) for model in models]
    assert len({recipe.model.name_or_path for recipe in recipes}) == len(models) >= 10
    assert len({recipe.trainer["output_dir"] for recipe in recipes}) == len(models)
    own = load_recipe(name, [DATA, "model.name_or_path=my/own-model/"])
    assert own.trainer["output_dir"] == f"runs/{name}_own-model"


@pytest.mark.slow
@pytest.mark.parametrize("model", recipe_names("model"))
def test_size_is_in_the_words_of_the_models_own_processor(model, tmp_path):
    try:
        folder = make_stand_in(model, tmp_path)
    except ImportError as error:
        pytest.skip(str(error))
    section = load_recipe("sayo", [DATA, f"model={model}", f"model.name_or_path={folder}"]).model
    own = {key for key, value in dict(load_auto_processor(folder).image_processor.size).items() if value}
    assert set(section.size or own) == own
    assert {key for key, value in dict(load_processor(section).image_processor.size).items() if value} == own


def test_avar_is_paid_for_what_was_published():
    recipe = load_recipe("avar", [DATA])
    weights = {name: section.weight for name, section in recipe.rewards.items()}
    assert weights == {"accuracy": 1.0, "visual_share": 0.3, "format": 0.1}
    format_reward = bound_function(recipe.rewards["format"], "rewards.format")
    assert format_reward(["<think>a\nb</think>\n<answer>c</answer>", "a <answer>c</answer>"]) == [1.0, 0.0]
    values = [recipe.trainer[key] for key in ("learning_rate", "beta", "num_generations", "max_completion_length")]
    assert values == [1e-6, 0.0, 8, 2048]


@pytest.mark.parametrize("family", VISION_MODELS)
def test_frozen_vision_leaves_the_language_model_only(family):
    if family in ("perception_lm", "gemma3n"):
        pytest.importorskip("timm", reason=f"the vision tower of {family} needs timm")
    section = ModelSection(name_or_path="tiny", freeze_vision=True, lora={"r": 2, "target_modules": "all-linear"})
    policy, language = freeze_vision(build(family)), (".language_model.", ".text_model.", "lm_head.")

    def trained_ones():
        return {name for name, parameter in policy.named_parameters() if parameter.requires_grad}

    full = trained_ones()
    layers = [name for name, _ in policy.named_parameters() if ".layers." in name]
    assert {name for name in layers if any(part in name for part in language[:2])} <= full
    policy = get_peft_model(policy, lora_config(section, policy))
    for trained in (full, trained_ones()):
        assert trained and all(any(part in f".{name}" for part in language) for name in trained)


@pytest.mark.parametrize("shaper", SHAPERS)
def test_recipe_takes_every_advantage_shaper(shaper):
    recipe = load_recipe("toy", [f"advantage_shaper={shaper}"])
    check_recipe(recipe)
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    if shaper == "causal_credit":
        options, reward = recipe.advantage_shaper.options, recipe.rewards["attention"].options
        assert options == {"reward": "attention", **reward, "positive": False}


@pytest.mark.parametrize(("overrides", "message"), REFUSED["recipes"])
def test_a_recipe_that_cannot_be_meant(overrides, message):
    with pytest.raises(RecipeError) as caught:
        check_recipe(load_recipe("toy", overrides))
    assert message in str(caught.value)


def test_a_section_or_a_value_that_is_missing_is_named_with_what_to_add():
    with pytest.raises(RecipeError, match=r"has no `model`. The recipe has no `data`."):
        parse_recipe({"trainer": {"output_dir": "run"}})
    with pytest.raises(RecipeError, match=r"needs `data.path`: write it into the recipe, or add data.path=\.\.\. to"):
        load_recipe("sayo")
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


def test_a_reward_beside_the_recipe_is_found(sayo_command, tmp_path):
    (tmp_path / "rewards_of_mine.py").write_text(
        "def always(completions, **kwargs):\n    return [1.0] * len(completions)\n"
    )
    shown = sayo_command("train", "--show", "rewards=toy/accuracy")
    for name, status in (("rewards_of_mine.always", 0), ("rewards_of_nobody.always", 2)):
        (tmp_path / "own.yaml").write_text(shown.output.replace("sayo.rewards.accuracy_reward", name))
        result = sayo_command("train", "--show", "--config-name", tmp_path / "own.yaml")
        assert result.exit_code == status
    assert "cannot be imported from installed packages, the recipe's folder and the current one" in result.stderr


@pytest.fixture(scope="module")
def answers(toys, tmp_path_factory) -> Path:
    """Rows of supervised tuning."""
    file = tmp_path_factory.mktemp("answers") / "cold_start.parquet"
    write_cold_start(toys.world, file, num_rows=12)
    return file


LIKE_SAYO = ("look_back", "ease_style", "sayo_recommended")  # as many pixels as `sayo`: seconds each
DRY_RUNS = [pytest.param(name, marks=[pytest.mark.slow] * (name in LIKE_SAYO)) for name in recipe_names()]


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run(name, toys, answers, tmp_path, sayo_command):
    recipe = load_recipe(name, [DATA, *layer_of(name)])
    family = "qwen2_5_vl" if "Qwen2.5-VL" in recipe.model.name_or_path else "qwen3_vl"
    data = toys.data[family] if recipe.rewards else answers
    if recipe.rewards and recipe.model.size:  # other pixel limits than the stand-in's own
        limits = ("--processor", toys.policy[family], "--size", size_words(recipe.model.size))
        assert sayo_command("map", data, *limits, "--out", tmp_path / "mapped").exit_code == 0
        data = tmp_path / "mapped"
    stand_in = [f"model.name_or_path={toys.policy[family]}", f"data.path={data}", *layer_of(name)]
    on_cpu = ["trainer.use_cpu=true", "trainer.bf16=false", f"trainer.output_dir={tmp_path / 'run'}"]
    done = sayo_command("train", "--config-name", name, "--dry-run", *stand_in, *on_cpu)
    assert done.exit_code == 0, done.output
    assert "dry run: recipe, model, processor, data and rewards" in " ".join(done.output.split())
    tried = "completions of 8 tokens were rewarded" if recipe.rewards else "the loss of one row was computed"
    assert tried in " ".join(done.output.split())
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()], "a dry run writes no file"


@pytest.mark.parametrize(("model", "message"), REFUSED["models"])
def test_a_model_that_is_none_is_one_sentence(model, message, toys, tmp_path, sayo_command, monkeypatch):
    recipe, data = write_recipe(tmp_path, recipe_values(toys, tmp_path / "run")), toys.data["qwen3_vl"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    monkeypatch.chdir(tmp_path)
    picture = next((toys.world / "images").iterdir())
    for words in (
        ("train", "--config-name", recipe, f"model.name_or_path={model}"),
        ("evaluate", model, "--data", data, "--split", "train", "--out", "results"),
        ("look", model, picture, "What?"),
    ):
        done = sayo_command(*words)
        assert done.exit_code == 2 and done.stderr.splitlines()[-1].startswith(f"error: {message}")
    for words in (("export", model, "--out", "o"), ("map", data, "--processor", model, "--out", "mapped")):
        done = sayo_command(*words)
        assert done.exit_code == 2 and model in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_a_gpu_the_two_keys_are_named(toys, tmp_path, sayo_command, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    recipe = write_recipe(tmp_path, recipe_values(toys, tmp_path / "run", bf16=True, use_cpu=False))
    done = sayo_command("train", "--config-name", recipe)
    assert done.exit_code == 2 and done.stderr.splitlines()[-1].endswith(
        "add trainer.use_cpu=true trainer.bf16=false."
    )


def broken(**kwargs):
    raise ValueError("a bug in a reward")


def of_another_shape(batch):
    return batch.advantages[:, None, None]


@pytest.mark.parametrize("dry_run", [["--dry-run"], []], ids=["dry run", "training"])
@pytest.mark.parametrize("function", ["broken", "of_another_shape"])
def test_a_broken_function_of_the_user_fails(function, dry_run, toys, tmp_path, sayo_command, monkeypatch):
    """In the dry run as in a step."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    values = recipe_values(toys, tmp_path / "run")
    if function == "of_another_shape":
        values["advantage_shaper"] = {"function": f"test_recipes.{function}"}
    else:
        values["rewards"] = {"mine": {"function": f"test_recipes.{function}"}}
    done = sayo_command("train", "--config-name", write_recipe(tmp_path, values), *dry_run)
    assert done.exit_code == 1 and not isinstance(done.exception, SystemExit), "a user's bug keeps its traceback"
    assert function != "broken" or str(done.exception) == "a bug in a reward"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "a run that failed gives the signals back"
