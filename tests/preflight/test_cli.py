"""`sayo preflight` as it is typed."""

import pytest

from sayo.recipes import recipe_names


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
