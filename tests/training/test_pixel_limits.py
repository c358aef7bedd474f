"""One truth about pixels: prepare, map, train, evaluate and look take a model's limits from one place."""

import re
import shlex
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers as tf
import yaml
from toy_runs import FAMILIES, recipe_values
from transformers.utils import is_torchvision_available

from sayo.evaluation.local import LocalModel
from sayo.geometry import VisualLayout
from sayo.processors import load_auto_processor
from sayo.recipes import DataSection, ModelSection, RecipeError, load_recipe, model_section, recipe_names, recipes_dir
from sayo.rollout import processor_inputs
from sayo.training.setup import load_data, load_processor
from sayo.viz.look import look_at

REFUSED = yaml.safe_load(Path(__file__).with_name("refused.yaml").read_text())
LARGER = {"shortest_edge": 112 * 112}
"""A picture of 64 x 64 pixels is scaled up: 49 visual tokens of 16 x 16 pixels where the saved limits make 16."""


@pytest.fixture
def road(toys, tmp_path, monkeypatch, sayo_command):
    """The toy policy as a shipped model file `large`, a recipe with `model: large`, and the commands of the road."""
    home = tmp_path / "recipes"
    shutil.copytree(recipes_dir(), home)
    monkeypatch.setattr("sayo.recipes.recipes_dir", lambda: home)
    policy = toys.policy["qwen3_vl"]
    model = {"name_or_path": str(policy), "dtype": "float32", "size": LARGER}
    (home / "model" / "large.yaml").write_text(yaml.safe_dump(model))
    values = recipe_values(toys, tmp_path / "run", max_steps=1, save_strategy="steps", save_steps=1)
    del values["model"]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"defaults": [{"model": "large"}, "_self_"], **values}))

    def prepare(*options):
        files = ("--questions", toys.world / "train_questions.json", "--images", toys.world / "images")
        files += ("--scene-graphs", toys.world / "train_sceneGraphs.json", "--out", tmp_path / "prepared data")
        done = sayo_command("prepare", "gqa", *files, *options)
        assert done.exit_code == 0, done.output
        return tmp_path / "prepared data"

    def train(data, *more):
        return sayo_command("train", "--config-name", tmp_path / "own.yaml", f"data.path='{data}'", *more)

    return SimpleNamespace(prepare=prepare, train=train, policy=policy, run=tmp_path / "run")


def row_of(data) -> dict:
    return load_data(DataSection(path=str(data)), "train")[0]


def test_a_refusal_prints_the_command_that_mends_it(road, sayo_command):
    data = road.prepare("--processor", road.policy)
    refused = road.train(data, "--dry-run")
    assert refused.exit_code == 2 and "belong to another processor" in refused.stderr
    name, *command = shlex.split(re.search(r"sayo map .*", refused.stderr)[0])
    mapped = sayo_command(*command)
    assert name == "sayo" and mapped.exit_code == 0, mapped.output
    out = command[command.index("--out") + 1]
    assert row_of(out)["num_visual_tokens"] == [49] and row_of(data)["num_visual_tokens"] == [16]
    accepted = road.train(out, "--dry-run")
    assert accepted.exit_code == 0, accepted.output


def test_data_training_checkpoint_evaluation_and_look_agree(road, sayo_command, tmp_path):
    data = road.prepare("--processor", "large")
    trained = road.train(data)
    assert trained.exit_code == 0, trained.output
    row = row_of(data)
    for folder in (road.run, road.run / "checkpoint-1"):
        assert VisualLayout.from_pretrained(folder).fingerprint == row["processor_fingerprint"]
    exported = sayo_command("export", road.run, "--out", tmp_path / "exported")
    assert exported.exit_code == 0, exported.output

    words = ("--data", data, "--split", "train", "--limit", 2, "--num-samples", 1, "--max-new-tokens", 2, "--size")
    sizes = {road.run / "checkpoint-1": "", tmp_path / "exported": "", "large": "", road.policy: "shortest_edge=12544"}
    for index, (model, size) in enumerate(sizes.items()):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "the rows were prepared for other visual tokens")
            done = sayo_command("evaluate", model, *words, size, "--out", tmp_path / f"results{index}")
        assert done.exit_code == 0, done.output
        answerer = LocalModel.from_pretrained(model_section(str(model), size))
        look = look_at(answerer.model, answerer.processor, row["images"], row["question"], response="red")
        assert [len(cells) for cells in look.cells] == row["num_visual_tokens"] == [49]
    with pytest.warns(UserWarning, match="prepared for other visual tokens .*--size gives the model") as warned:
        sayo_command("evaluate", road.policy, *words, "", "--out", tmp_path / "smaller")
    assert len([each for each in warned if "other visual tokens" in str(each.message)]) == 1


@pytest.mark.skipif(not is_torchvision_available(), reason="Qwen's own processor needs torchvision (for videos)")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_processor_takes_limits_as_its_files_do(family, toys, tmp_path):
    toy, row = load_auto_processor(toys.policy[family]), row_of(toys.data[family])
    stock_class = {"qwen3_vl": tf.Qwen3VLProcessor, "qwen2_5_vl": tf.Qwen2_5_VLProcessor}[family]
    stock = stock_class(toy.image_processor, toy.tokenizer, tf.Qwen3VLVideoProcessor(), toy.chat_template)
    stock.save_pretrained(tmp_path)
    config = tf.AutoConfig.from_pretrained(toys.policy[family])
    config.save_pretrained(tmp_path)
    processor = load_processor(ModelSection(name_or_path=str(tmp_path), size=LARGER))
    assert type(processor) is stock_class and processor.image_processor.backend == "torchvision"
    assert VisualLayout.from_processor(processor, config) == VisualLayout.from_pretrained(tmp_path, size=LARGER)
    inputs = processor_inputs(processor, [row], "cpu")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 49


@pytest.mark.parametrize("name", recipe_names("model"))
def test_a_model_file_means_the_same_to_training_and_to_commands(name, tmp_path):
    values = {"defaults": [{"model": name}, "_self_"], "data": {"path": "x"}, "trainer": {"output_dir": "x"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values))
    trained, named = load_recipe(str(tmp_path / "own.yaml")).model, model_section(name)
    assert (named.name_or_path, named.size) == (trained.name_or_path, trained.size)


def test_a_folder_wins_and_edges_of_ones_own_come_first(road, monkeypatch, tmp_path):
    assert model_section("large", "longest_edge=99").size == {**LARGER, "longest_edge": 99}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large").mkdir()
    assert model_section("large").size is None and model_section("large").name_or_path == "large"
    assert model_section("owner/large", "height=8, width=9").size == {"height": 8, "width": 9}


@pytest.mark.parametrize(("name", "size", "message"), REFUSED["sizes"])
def test_a_model_that_cannot_be_meant(name, size, message):
    with pytest.raises(RecipeError, match=message):
        model_section(name, size)


def test_an_edge_that_the_processor_lacks_is_refused_by_prepare_and_by_training(road, sayo_command, tmp_path):
    for done in (
        sayo_command("map", tmp_path, "--processor", road.policy, "--out", tmp_path / "x", "--size", "height=8"),
        road.train(road.prepare(), "--dry-run", "model.size={height: 8}"),
    ):
        assert done.exit_code == 2 and "has no height, only longest_edge, shortest_edge" in done.stderr, done.output
