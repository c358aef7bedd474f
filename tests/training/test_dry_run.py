"""Every shipped recipe passes `--dry-run` with a tiny model of its own family in place of the real one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import yaml
from toy_runs import recipe_values

from sayo.recipes import load_recipe, recipe_names


@pytest.fixture(scope="module")
def answers(toys, tmp_path_factory) -> Path:
    """Rows of supervised tuning."""
    from sayo.toyworld.cold_start import write_cold_start

    file = tmp_path_factory.mktemp("answers") / "cold_start.parquet"
    write_cold_start(toys.policy["qwen3_vl"].parent / "world", file, num_rows=12)
    return file


@pytest.mark.parametrize("name", recipe_names())
def test_dry_run(name, toys, answers, tmp_path, sayo_command):
    recipe = load_recipe(name, ["data.path=prepared/somewhere"])
    family = "qwen2_5_vl" if "Qwen2.5-VL" in recipe.model.name_or_path else "qwen3_vl"
    data = toys.data[family] if recipe.rewards else answers
    stand_in = [f"model.name_or_path={toys.policy[family]}", "model.size=null", f"data.path={data}"]
    on_cpu = ["trainer.use_cpu=true", "trainer.bf16=false", f"trainer.output_dir={tmp_path / 'run'}"]
    done = sayo_command("train", "--config-name", name, "--dry-run", *stand_in, *on_cpu)
    assert done.exit_code == 0, done.output
    assert "dry run: recipe, model, processor, data and rewards" in " ".join(done.output.split())
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()], "a dry run writes no file"


@pytest.mark.parametrize("dry_run", [["--dry-run"], []], ids=["dry run", "training"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.per_device_train_batch_size=3", "What would work: num_generations in"),
        ("trainer.eval_strategy=steps", "didn't pass an `eval_dataset`"),  # transformers, while the trainer is built
        ("model.lora={rr: 4}", "unexpected keyword argument 'rr'"),
    ],
)
def test_what_cannot_be_built_is_one_line(override, message, dry_run, toys, tmp_path, sayo_command):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_values(toys, tmp_path / "run")))
    done = sayo_command("train", "--config-name", tmp_path / "recipe.yaml", override, *dry_run)
    assert done.exit_code == 2 and message in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: The trainer cannot be built: ")


def broken(**kwargs):
    raise ValueError("a bug in a reward")


def test_an_error_inside_a_step_keeps_its_traceback(toys, tmp_path, sayo_command, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    values = recipe_values(toys, tmp_path / "run", rewards={"broken": {"function": "test_dry_run.broken"}})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    done = sayo_command("train", "--config-name", tmp_path / "recipe.yaml")
    assert type(done.exception) is ValueError and str(done.exception) == "a bug in a reward"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "a run that failed gives the signals back"
