"""A run that was cut resumes exactly; what cannot be resumed exactly is refused with a way out."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from peft import LoraConfig
from toy_runs import recipe_values

from sayo.recipes import RecipeError, parse_recipe
from sayo.rewards import format_reward, region_attention_reward
from sayo.training.callbacks import StopOnSignal
from sayo.training.checkpoints import CheckpointError, check_fits, checkpoints, is_complete, newest_complete
from sayo.training.run import find_checkpoint, same_tracker_run, train

CLOCK = ("step_time", "time", "runtime", "per_second")
SAVING = {"save_strategy": "steps", "save_steps": 3, "log_completions": True, "num_completions_to_print": 0}
BLOCKS = {  # generation blocks of two optimizer steps, used twice; saves and log lines inside of them
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "num_iterations": 2,
    "per_device_train_batch_size": 2,
    "logging_steps": 2,
    "beta": 0.05,
    "lr_scheduler_type": "cosine",
}


def few_prompts(rows):
    """Four prompts: an epoch is one generation block, so that every run here has several epochs."""
    return rows.select(range(4))


def state_of(trainer) -> tuple[dict, str]:
    """Tensors (parameters and the optimizer's), and everything else that a run leaves, as text."""
    log = [
        {key: value for key, value in sorted(line.items()) if not any(word in key for word in CLOCK)}
        for line in trainer.state.log_history
    ]
    files = sorted(Path(trainer.args.output_dir, "completions").iterdir())
    completions = {path.name: pd.read_parquet(path).astype(str).values.tolist() for path in files}
    parameters = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    return {"parameters": parameters, "optimizer": trainer.optimizer.state_dict()["state"]}, repr([log, completions])


def assert_equal(state, expected) -> None:
    torch.testing.assert_close(state[0], expected[0], rtol=0, atol=0)
    assert state[1] == expected[1]


CASES = {  # family, dtype of the adapters or None for full fine-tuning, step of the checkpoint
    "in a block": ("qwen3_vl", None, 3),
    "in the second epoch": ("qwen3_vl", None, 6),
    "qwen2.5, lora": ("qwen2_5_vl", torch.float32, 3),
    "lora of a quantized policy": ("qwen3_vl", torch.bfloat16, 3),  # so TRL trains it; peft would load it as float32
}
SLOW_CASES = {
    "between blocks": ("qwen3_vl", None, 4),
    "qwen2.5": ("qwen2_5_vl", None, 3),
    "lora": ("qwen3_vl", torch.float32, 3),
}


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_CASES)])
def test_exact(make_trainer, case):
    """Both families, full with a reference model that moves, and LoRA with dropout."""
    family, adapters, step = (CASES | SLOW_CASES)[case]
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.1)
    fields = {**BLOCKS, **SAVING, "save_steps": step, "max_steps": 5 if step == 3 else 10}
    if adapters is None:
        fields |= {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5}

    def make():
        rewards = [region_attention_reward, format_reward]
        trainer = make_trainer(rewards, family, few_prompts, config if adapters else None, **fields)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(adapters or parameter.dtype)
        return trainer

    whole = make()
    whole.train()
    expected = state_of(whole)
    for later in checkpoints(Path(whole.args.output_dir))[1:]:
        shutil.rmtree(later)
    resumed = make()
    resumed.train(resume_from_checkpoint=True)
    assert_equal(state_of(resumed), expected)


def steps_logged(run: Path) -> list[int]:
    return [line["step"] for line in json.loads((run / "trainer_state.json").read_text())["log_history"]]


def test_checkpoints_of_a_finished_run(toys, make_trainer, tmp_path, monkeypatch):
    run = tmp_path / "run"
    recipe = parse_recipe(recipe_values(toys, run, **{**SAVING, "save_steps": 1, "max_steps": 3}))
    train(recipe)
    before = (run / "model.safetensors").read_bytes(), steps_logged(run)
    train(recipe)
    assert ((run / "model.safetensors").read_bytes(), steps_logged(run)) == before, "it was trained further"
    state = torch.load(run / "checkpoint-2" / "training_state_0.pt", weights_only=True)
    assert state["step"] == 2, "what is saved needs no pickle"

    trainer = make_trainer(format_reward)
    for resume in ("never", str(run / "checkpoint-1")):  # a start that would mix two runs
        with pytest.raises(RecipeError, match="holds checkpoint-3"):
            find_checkpoint(recipe.model_copy(update={"resume": resume}), run)
    assert find_checkpoint(recipe, run) == (run / "checkpoint-3", [f"resuming from {run / 'checkpoint-3'}"])
    monkeypatch.chdir(run)
    written = ("checkpoint-3", "./checkpoint-3/", f"{run}/../run/checkpoint-3")
    for resume in written:  # one folder, however it is written
        assert find_checkpoint(recipe.model_copy(update={"resume": resume}), run)[0] == Path(resume)
    with pytest.raises(RecipeError, match=r"`resume: 7` is neither auto, never, nor a checkpoint folder such as"):
        find_checkpoint(parse_recipe({**recipe.model_dump(), "resume": 7}), run)

    (run / "checkpoint-3" / "COMPLETE").rename(run / "checkpoint-3" / "SAVING")
    newest, (message,) = newest_complete(run)
    assert newest == run / "checkpoint-2" and "checkpoint-3 is torn" in message
    with pytest.raises(CheckpointError, match="its save never finished"):
        check_fits(run / "checkpoint-3", 1, "none")
    check_fits(newest, 1, "none")
    with pytest.raises(CheckpointError, match=r"written by 1 process.* this launch has 2 with ZeRO-2"):
        check_fits(newest, 2, "ZeRO-2")
    (newest / "training_state_0.pt").unlink()
    with pytest.raises(CheckpointError, match=r"missing or cut: training_state_0.pt"):
        trainer.train(resume_from_checkpoint=newest)


def test_old_checkpoints_go_only_when_a_newer_one_is_complete(make_trainer, tmp_path):
    """A disk that is full while checkpoint 3 is written leaves 2, which counts, and says so."""
    run = tmp_path / "run"

    def fill_the_disk(completions, trainer_state, **kwargs):
        if trainer_state.global_step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, unlimited[1]))
        return [float(len(completion[0]["content"])) for completion in completions]

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    fields = {**SAVING, "save_steps": 1, "save_total_limit": 1, "max_steps": 4}
    try:
        with pytest.raises(CheckpointError, match="checkpoint-3 could not be written") as caught:
            make_trainer(fill_the_disk, **fields).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert f"last complete checkpoint is {run / 'checkpoint-2'}" in str(caught.value)
    assert [is_complete(path) for path in checkpoints(run)] == [True, False]
    make_trainer(format_reward, **fields).train(resume_from_checkpoint=True)
    assert [path.name for path in checkpoints(run)] == ["checkpoint-4"]


def signal_at_step_two(completions, trainer_state, **kwargs):
    """A reward function during which the scheduler asks the run to stop, once."""
    if trainer_state.global_step == 1 and not os.environ.pop("SENT", None):
        os.environ["SENT"] = "1"
        os.kill(os.getpid(), signal.SIGTERM)
    return [float(len(completion[0]["content"])) for completion in completions]


def test_sigterm_saves_and_leaves_with_its_own_status(toys, tmp_path, monkeypatch, sayo_command):
    """The step is finished and saved; the same command then ends like a run that was never stopped."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.delenv("SENT", raising=False)
    rewards = {"length": {"function": "test_resume.signal_at_step_two"}}

    def command(name: str):
        values = recipe_values(toys, tmp_path / name, rewards=rewards, **{**SAVING, "save_steps": 100, "max_steps": 4})
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        return sayo_command("train", "--config-name", tmp_path / f"{name}.yaml")

    stopped = command("stopped")
    assert stopped.exit_code == 75, stopped.output
    assert "Stopped after step 2 of 4" in stopped.output
    run = tmp_path / "stopped"
    assert is_complete(run / "checkpoint-2") and not (run / "model.safetensors").exists()
    run_id = (run / "run_id").read_text()
    monkeypatch.setenv("SENT", "1")
    assert command("stopped").exit_code == 0
    monkeypatch.setenv("SENT", "1")
    assert command("whole").exit_code == 0
    assert (run / "run_id").read_text() == run_id != (tmp_path / "whole" / "run_id").read_text()
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_restarted_run_keeps_its_name_in_wandb(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    names = []
    for anew in (False, False, True):
        with same_tracker_run(tmp_path, main=True, anew=anew):
            names.append(os.environ["WANDB_RUN_ID"])
            assert os.environ["WANDB_RESUME"] == "allow"
        assert "WANDB_RUN_ID" not in os.environ
    assert names[0] == names[1] != names[2]
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    with same_tracker_run(tmp_path, main=True, anew=False):
        assert os.environ["WANDB_RUN_ID"] == "mine"


@pytest.mark.parametrize("launched", [False, True], ids=["one process", "behind a launcher"])
def test_a_signal_that_comes_twice(make_trainer, monkeypatch, launched):
    """Twice by hand means at once; a launcher passes on to its ranks what a scheduler has sent to them already.

    Under nohup SIGHUP stays ignored, but the launcher takes it all the same, and so must its ranks.
    """
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")

    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGINT, signal.default_int_handler)
    during = []

    def twice(completions, trainer_state, **kwargs):
        during.append(signal.getsignal(signal.SIGHUP))
        for _ in range(2 if trainer_state.global_step == 1 else 0):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return [float(len(completion[0]["content"])) for completion in completions]

    trainer = make_trainer(twice, **{**SAVING, "save_steps": 100, "max_steps": 4})
    stop = StopOnSignal(trainer.accelerator)
    trainer.add_callback(stop)
    with nullcontext() if launched else pytest.raises(KeyboardInterrupt), stop.listening():
        trainer.train()
    saved = [path.name for path in checkpoints(Path(trainer.args.output_dir))]
    assert (stop.stopped, saved) == ((True, ["checkpoint-2"]) if launched else (False, []))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (during[0] is signal.SIG_IGN) != launched and signal.signal(signal.SIGHUP, usual[0]) is signal.SIG_IGN
    signal.signal(signal.SIGINT, usual[1])


def test_all_is_on_the_disk_before_it_counts(make_trainer, monkeypatch):
    synced, fsync = [], os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    trainer = make_trainer(format_reward, **{**SAVING, "save_steps": 1, "max_steps": 1})
    trainer.train()
    folder = Path(trainer.args.output_dir, "checkpoint-1")
    written = {str(path) for path in (*folder.rglob("*"), folder, folder.parent)} - {str(folder / "COMPLETE")}
    before = synced.index(str(folder / "SAVING"), len(written))  # the marker itself, before it gets its name
    assert written <= set(synced[:before]) and synced[before + 1 :] == [str(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("modes", [["single"], ["changed", "damaged", "disks"]], ids=["kills", "faults"])
def test_the_published_check(tmp_path, modes):
    """Three kills, of which every third waits until a save has begun; two faults of each kind, and separate disks."""
    command = [sys.executable, "-m", "benchmarks.resume", "--quick", "--check", "--out", str(tmp_path / "out.json")]
    root = Path(__file__).parents[2]
    done = subprocess.run([*command, "--mode", *modes], capture_output=True, text=True, timeout=900, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert all(row["compared"] >= 1 and row["differences"] == [] for row in rows) and len(rows) == len(modes)
    assert modes != ["single"] or (rows[0]["kills"] == 3 and rows[0]["in_save"] >= 1)
