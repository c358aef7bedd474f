"""What a run says: what goes wrong in words that name it, a bar, and what is next at the end."""

import asyncio
import functools
import math
import os
import pty
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, List, load_dataset
from pyarrow import parquet
from toy_runs import TRAINER, length, recipe_values, write_recipe

from sayo.recipes import DataSection, RecipeError
from sayo.training import launch
from sayo.training.config import RegionGRPOConfig
from sayo.training.grpo import RegionGRPOTrainer
from sayo.training.guards import NonFiniteError
from sayo.training.pictures import BadPicture
from sayo.training.reward_calls import RewardError, checked_rewards
from sayo.training.setup import load_data
from scripts.trl_tests import make_dataset, make_model

REFUSED = yaml.safe_load(Path(__file__).with_name("refused.yaml").read_text())


def swallowing(**kwargs):
    for _ in range(2):
        try:
            time.sleep(60)
        except Exception:
            pass


async def waiting(**kwargs):
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda **kwargs: [1.0, 1e39], r"'mine' returned 1e\+39 for completion 1 \(infinite in float32"),
        (lambda **kwargs: None, "'mine' returned None; it must return a list"),
        (lambda **kwargs: torch.tensor(1.0), "'mine' returned tensor"),
        (lambda **kwargs: "0.5", "'mine' returned '0.5'; it must"),
        (lambda **kwargs: [1.0, "0.5"], "'mine' returned '0.5' for completion 1"),
        (lambda **kwargs: re.match("(a+)+$", "a" * 40 + "b"), "'mine' took longer than trainer.reward_timeout=0.2"),
        (swallowing, "'mine' took longer"),
        (waiting, "'mine' took longer"),
    ],
)
def test_a_reward_that_cannot_be_meant_names_its_function(function, message):
    (checked,) = checked_rewards([function], ["mine"], seconds=0.2)
    start = time.monotonic()
    with pytest.raises((RewardError, NonFiniteError), match=message):
        returned = checked(completions=["a", "b"])
        asyncio.run(returned) if asyncio.iscoroutine(returned) else None
    assert time.monotonic() - start < 5 and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_what_trl_takes_is_taken_under_its_own_name(make_trainer):
    """Generators, objects that are coroutine functions, partial functions: TRL takes them all."""

    def generator(completions, scale, **kwargs):
        yield from (scale * value for value in length(completions))

    class Judged:
        async def __call__(self, completions, **kwargs):
            return [0.5 if index % 2 else None for index in range(len(completions))]

    trainer = make_trainer([functools.partial(generator, scale=2), Judged(), length], max_steps=1)
    assert trainer.reward_func_names == ["generator", "Judged", "length"]
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["rewards/generator/mean"] == 2 * log["rewards/length/mean"] > 0 and log["rewards/Judged/mean"] == 0.5


@pytest.mark.parametrize("prompts", ["standard", "conversational"])
def test_a_policy_that_reads_no_pictures_is_trained_as_by_trl(prompts, tmp_path):
    rows = tmp_path / "rows"
    make_model("tiny-Qwen2ForCausalLM", "qwen2_5", tmp_path / "model")
    make_dataset({f"{prompts}_prompt_only": ["prompt"]}, rows)
    trainer = RegionGRPOTrainer(
        str(tmp_path / "model"),
        lambda completions, **kwargs: [float(sum(map(ord, str(turn)))) for turn in completions],
        RegionGRPOConfig(**{**TRAINER, "max_steps": 1, "output_dir": str(tmp_path / "run")}),
        train_dataset=Dataset.from_parquet(str(rows / f"{prompts}_prompt_only" / "train.parquet")),
    )
    trainer.train()
    assert trainer.state.log_history[0]["attention/coverage"] == 0 < trainer.state.log_history[0]["grad_norm"]


def test_weights_that_the_optimizer_broke_are_named_and_not_saved(make_trainer):
    trainer = make_trainer(length, learning_rate=math.inf, save_strategy="steps", save_steps=1)
    told = r"after the optimizer's step 1.* of .* weights hold .*'model.visual.patch"
    with pytest.raises(NonFiniteError, match=told):
        trainer.train()
    assert {path.name for path in Path(trainer.args.output_dir).iterdir()} == {"broken_batch"}
    (batch,) = torch.load(next(Path(trainer.args.output_dir).glob("broken_batch/*.pt")), weights_only=True)
    assert batch["completion_ids"].shape[0] == 4


def test_weights_that_are_not_finite_at_the_start(make_trainer):
    trainer, name = make_trainer(length), "model.language_model.layers.1.mlp.down_proj.weight"
    trainer.model.get_parameter(name).data[3, 5] = math.nan
    with pytest.raises(NonFiniteError, match=rf"at the start. 1 of .*'{name}'"):
        trainer.train()


def test_a_float16_overflow_names_the_module(make_trainer):
    """In float16 2e4 is a number, but not a sum of them; torch notices where it samples and names nothing."""
    trainer = make_trainer(length)
    trainer.model.half().model.language_model.layers[1].mlp.down_proj.weight.data.fill_(2e4)
    told = r"cannot be sampled from.*'model.language_model.layers.1.mlp.down_proj' \(Linear, torch.float16; its"
    with pytest.raises(NonFiniteError, match=told):
        trainer.train()
    assert "question" in next(Path(trainer.args.output_dir).glob("broken_batch/*.json")).read_text()


def test_a_scaled_gradient_that_overflows_is_left_to_the_scaler(make_trainer):
    """That of float16 begins with a scale that is too large, skips such steps and lowers it."""
    trainer = make_trainer(length, max_steps=3)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trainer.train()
    norms = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
    assert not math.isfinite(norms[0])


@pytest.fixture
def damaged(toys, tmp_path) -> Path:
    """Prepared data whose row 3 has half a picture, and whose row 5 links to one that is gone."""
    files = [str(file) for file in toys.data["qwen3_vl"].glob("data/train-*.parquet")]
    rows = load_dataset("parquet", data_files=files, split="train").cast_column("images", List(Image(decode=False)))

    def damage(row, index):
        picture = row["images"][0]
        if index == 3:
            return {"images": [{"bytes": picture["bytes"][: len(picture["bytes"]) // 2], "path": None}]}
        return {"images": [{"bytes": None, "path": str(tmp_path / "gone.png")}]} if index == 5 else row

    schema = Features({**rows.features, "images": List(Image(mode="RGB"))}).arrow_schema
    (tmp_path / "data").mkdir()
    table = rows.map(damage, with_indices=True).data.table.cast(schema)
    parquet.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    return tmp_path


def test_a_picture_that_cannot_be_read_names_its_row(damaged, toys, sayo_command):
    rows = load_data(DataSection(path=str(damaged)), "train")
    for index, what in ((3, "truncated"), (5, "gone.png")):
        with pytest.raises(BadPicture, match=rf"Row {index} of the data \(id \S+, question '[A-Z].*\?'\).*{what}"):
            rows.__getitems__([0, index, 1])
    recipe = write_recipe(damaged, recipe_values(toys, damaged / "run"))
    done = sayo_command("train", "--config-name", recipe, f"data.path={damaged}", "--dry-run")
    assert done.exit_code == 2 and "error: Row 3 of the data" in done.stderr
    done = sayo_command("train", "--config-name", recipe, f"data.path={damaged}", "data.on_bad_image=skip")
    words = " ".join(done.stderr.split())
    assert done.exit_code == 0 and f"2 of {len(rows)} rows are left out" in words
    assert re.search(rf"training rows.*{len(rows) - 2}", words)


def test_a_picture_that_the_processor_refuses(toys, tmp_path, sayo_command):
    rows = load_data(DataSection(path=str(toys.data["qwen3_vl"])), "train")
    flat = lambda row, index: {"images": [row["images"][0].resize((900, 1))]} if index == 2 else row  # noqa: E731
    rows.map(flat, with_indices=True).to_parquet(tmp_path / "rows.parquet")
    recipe = write_recipe(tmp_path, recipe_values(toys, tmp_path / "run"))
    done = sayo_command("train", "--config-name", recipe, f"data.path={tmp_path}/rows.parquet", "--dry-run")
    assert done.exit_code == 2 and "error: Row 2 of the data" in done.stderr and "aspect ratio" in done.stderr


@pytest.mark.parametrize("dry_run", [["--dry-run"], []], ids=["dry run", "training"])
@pytest.mark.parametrize(("overrides", "message"), REFUSED["commands"].values(), ids=REFUSED["commands"])
def test_settings_that_cannot_work_are_one_line(overrides, message, dry_run, toys, tmp_path, sayo_command):
    (tmp_path / "file").touch()
    recipe = write_recipe(tmp_path, recipe_values(toys, tmp_path / "run"))
    words = [word.replace("FILE", str(tmp_path / "file")) for word in overrides]
    done = sayo_command("train", "--config-name", recipe, *words, *dry_run)
    assert done.exit_code == 2 and re.search(message, done.stderr.splitlines()[-1]), done.output
    assert not (tmp_path / "run").exists()


def test_a_batch_may_be_larger_than_the_rows_of_a_dry_run(toys, tmp_path, sayo_command):
    recipe = write_recipe(tmp_path, recipe_values(toys, tmp_path / "run", per_device_train_batch_size=24))
    assert sayo_command("train", "--config-name", recipe, "--dry-run").exit_code == 0


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_deepspeed_without_a_gpu_says_so_before_it_compiles(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(RecipeError, match=r"no GPU is visible.*trainer.use_cpu=true trainer.bf16=false"):
        launch.prepare_environment({})


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP], ids=lambda number: number.name)
def test_signals_of_slurm_and_of_a_lost_terminal_save(number, toys, tmp_path):
    """A real terminal that goes away: the kernel sends the signal, and every later line to it fails."""
    run = tmp_path / "run"
    values = recipe_values(toys, run, max_steps=500, save_strategy="steps", save_steps=1000, log_completions=True)
    command = [sys.executable, "scripts/train.py", "--config-name", str(write_recipe(tmp_path, values))]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    deadline = time.monotonic() + 300
    while not list(run.glob("completions/*.parquet")):
        assert time.monotonic() < deadline
        os.read(terminal, 1024)
    if number == signal.SIGUSR1:
        os.kill(pid, number)
        while _read(terminal):
            pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    (checkpoint,) = run.glob("checkpoint-*")
    assert (checkpoint / "COMPLETE").is_file()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1024)
    except OSError:  # its process has ended
        return b""


def test_a_run_shows_a_bar_and_ends_with_commands_that_work(toys, tmp_path, sayo_command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"disable_tqdm": False, "gradient_checkpointing": True, "save_strategy": "steps", "save_steps": 1}
    recipe = write_recipe(tmp_path, recipe_values(toys, tmp_path / "run", **options))
    done = sayo_command("train", "--config-name", recipe)
    assert done.exit_code == 0
    assert "reward " in done.stderr and "(attention " in done.stderr and " TAS " in done.stderr
    assert "{" not in done.stderr and "FutureWarning" not in done.stderr
    table, _, commands = done.stderr.partition("next:\n")
    assert "attention/tas" in table and f"model: {tmp_path / 'run'}\n" in table
    lines = [line.split()[1:] for line in commands.splitlines()]
    assert [words[0] for words in lines] == ["report", "export", "evaluate"]
    for words in lines:
        small = ["--limit", "2", "--max-new-tokens", "2"] if words[0] == "evaluate" else []
        assert sayo_command(*words, *small).exit_code == 0
