"""`sayo preflight` as it is typed."""

import json

import pytest
import typer
from typer.testing import CliRunner

from sayo.preflight.cli import preflight
from sayo.recipes import recipe_names

app = typer.Typer()
app.command()(preflight)


@pytest.fixture
def run(toy):
    def run(*words):
        model = () if any("name_or_path" in word for word in words) else (f"model.name_or_path={toy.policy}",)
        return CliRunner().invoke(app, [*words, *model], env={"COLUMNS": "200"})

    return run


def test_a_recipe_that_fits(run, toy):
    result = run("--config-name", "toy", "--gpus", "1", f"data.path={toy.prepared}")
    assert result.exit_code == 0, result.output
    for words in ("visual", "vision tower", "zero3", "scoring (extra forward)", "one epoch", "fits:"):
        assert words in result.output
    assert "does not fit" not in result.output


def test_a_recipe_that_does_not_fit_names_knobs_in_order(run, toy):
    words = ("--config-name", "toy", "--device", "cpu", "--gpu-memory", "2.5", "--gpus", "1")
    batch = "trainer.per_device_train_batch_size=256"
    result = run(*words, "--check", batch, f"data.path={toy.prepared}")
    assert result.exit_code == 1, result.output
    assert "does not fit" in result.output
    checkpointing, batch = (result.output.index(key) for key in ("gradient_checkpointing=true", "batch_size=128"))
    assert checkpointing < batch
    assert "Fits with trainer.gradient_checkpointing=true" in result.output


def test_json_holds_plain_numbers(run, toy):
    result = run("--config-name", "toy", "--json", "--gpus", "2", f"data.path={toy.prepared}")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["fits"] is True
    assert found["memory"]["peak"] == sum(found["memory"]["items"].values()) == found["memory"]["shardings"]["zero1"]
    assert found["memory"]["peak"] == found["memory"]["phases"][found["memory"]["peak_phase"]]
    assert found["time"]["step"] == pytest.approx(sum(found["time"]["parts"].values()))
    assert found["time"]["epoch"] > 0


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_priced_before_there_are_data(run, name):
    result = run("--config-name", name, "--json", "data.path='(none yet)'")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["tokens"]["source"].startswith("assumed")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.name_or_path=nobody/no-such-model",), "config.json"),
        (("trainer.num_generations=7", "trainer.per_device_train_batch_size=64"), "num_generations"),
        (("--sharding", "zero9"), "zero9"),
        (("trainer.attention_layers=99",), "attention_layers"),
        (("trainer.learning_rat=1",), "learning_rat"),
    ],
)
def test_mistakes_end_with_a_message(run, words, message):
    result = run("--config-name", "toy", *words)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
