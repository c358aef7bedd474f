"""Launches through the shipped script and files: of two ranks, of what would be something else, and stopped ones."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from distributed.conftest import ROOT, accelerate, launch, wait_for_a_step
from toy_runs import recipe_values, write_recipe

pytestmark = pytest.mark.slow


def test_two_ranks_train_under_zero2_from_an_empty_folder(toys, tmp_path):
    values = recipe_values(toys, tmp_path / "run", max_steps=2, save_strategy="steps", save_steps=1)
    words = ["--gpus", 2, "--sharding", "zero2", "--config-name", write_recipe(tmp_path, values), "trainer.seed=1"]
    (tmp_path / "empty").mkdir()
    arguments = accelerate("zero2") | {"cwd": tmp_path / "empty"}
    arguments["args"] = [sys.executable, "-m", "sayo", "launch", *map(str, words)]
    done = subprocess.run(**arguments, capture_output=True, text=True, timeout=1800)
    assert "$ accelerate launch --config_file" in done.stderr and "-m sayo train --config-name" in done.stderr
    assert "seed: 1" in (tmp_path / "run/recipe.yaml").read_text()
    assert done.returncode == 0 and "2 (DEEPSPEED, sharding ZeRO-2)" in done.stderr, done.stderr[-6000:]
    checkpoint = tmp_path / "run" / "checkpoint-2"
    marker = json.loads((checkpoint / "COMPLETE").read_text())
    assert (marker["world_size"], marker["sharding"]) == (2, "ZeRO-2")
    ranks = {"training_state_0.pt", "training_state_1.pt", "rng_state_0.pth", "rng_state_1.pth"}
    assert ranks <= set(marker["files"])
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    assert len(log) == 2
    assert all(line["reward_std"] > 0 and line["attention/image_mass"] > 0 for line in log)


@pytest.mark.parametrize(
    ("kind", "fields", "messages"),
    [
        # MULTI_GPU without `use_cpu` would be two independent rank-0 jobs in the same folder
        ("ddp", {"use_cpu": False}, ["started 2 processes, but each of them trains alone", "--sharding cpu"]),
        # accelerate's own MULTI_CPU starts one process
        ("multi_cpu", {}, ["asked for several processes but started one", "--sharding cpu", "trainer.use_cpu=true"]),
        ("fsdp2", {}, ["FSDP was asked for, but this is MULTI_CPU with sharding none"]),
    ],
)
def test_what_would_silently_be_something_else(toys, tmp_path, kind, fields, messages):
    """The error names the line to use instead."""
    recipe = write_recipe(tmp_path, recipe_values(toys, tmp_path / "run", **fields))
    if kind == "multi_cpu":
        values = yaml.safe_load((ROOT / "recipes/accelerate/cpu.yaml").read_text())
        kind = tmp_path / "multi_cpu.yaml"
        kind.write_text(yaml.safe_dump({**values, "distributed_type": "MULTI_CPU", "use_cpu": True}))
    done = launch(kind, ROOT / "scripts/train.py", "--config-name", recipe)
    assert done.returncode != 0 and all(message in done.stderr for message in messages), done.stderr[-2000:]


@pytest.fixture
def machines(start, tmp_path):
    """Start both launchers."""

    def run(recipe: Path) -> list[subprocess.Popen]:
        with socket.socket() as free:  # two launchers have to agree: accelerate's port 0 is for one
            free.bind(("127.0.0.1", 0))
            network = ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
            network += ["--main_process_port", str(free.getsockname()[1]), "--machine_rank"]
        return [start("zero2", recipe, tmp_path / f"machine_{rank}.log", *network, str(rank)) for rank in (0, 1)]

    return run


def test_stop_together_and_resume(machines, toys, tmp_path, monkeypatch):
    """Launchers and ranks get the signal at once, and the launchers pass it on: it is one request nevertheless.

    In the environment of `scripts/train.slurm`: SIGTERM on one machine, on the other SIGUSR1, which ends a launcher
    that was not told of it.
    """
    for line in re.findall(r"^export (PET\w+|TORCH\w+)=(\w.*)$", (ROOT / "scripts/train.slurm").read_text(), re.M):
        monkeypatch.setenv(*line)
    run = tmp_path / "run"
    saving = {"save_strategy": "steps", "save_steps": 1000, "log_completions": True, "num_completions_to_print": 0}
    pair = machines(write_recipe(tmp_path, recipe_values(toys, run, max_steps=200, **saving)))
    wait_for_a_step(run, pair)
    for launcher, number in zip(pair, (signal.SIGTERM, signal.SIGUSR1), strict=True):
        for process in (*psutil.Process(launcher.pid).children(recursive=True), launcher):
            process.send_signal(number)
    assert [process.wait(timeout=300) for process in pair] == [1, 1], "torch's launcher has a status of its own"
    assert "2 (DEEPSPEED, sharding ZeRO-2)" in logs(tmp_path) and "Stopped after step" in logs(tmp_path)
    (checkpoint,) = run.glob("checkpoint-*")
    assert json.loads((checkpoint / "COMPLETE").read_text())["world_size"] == 2

    step = int(checkpoint.name.partition("-")[2])
    shorter = write_recipe(tmp_path, recipe_values(toys, run, max_steps=step + 2, **saving))
    assert [process.wait(timeout=600) for process in machines(shorter)] == [0, 0], logs(tmp_path)
    assert f"resuming from {checkpoint}" in logs(tmp_path).replace("\n", "")
    assert json.loads((run / "trainer_state.json").read_text())["global_step"] == step + 2


SCRIPT = """
import time
from accelerate import PartialState
from sayo.training import ranks
PartialState(cpu=True)
def fail(): raise ValueError("no disk")
if {late} and ranks.rank() == 1: time.sleep(20)
ranks.together(fail if ranks.rank() == 1 and not {late} else int, 2)
"""


@pytest.mark.parametrize(
    ("late", "message"),
    [(True, "had not come to the start: 1 (never met)"), (False, "stopped the start: ValueError: no disk")],
)
def test_the_ranks_name_the_one_that_is_missing_or_failed(tmp_path, late, message):
    (tmp_path / "script.py").write_text(SCRIPT.format(late=late))
    done = launch("cpu", tmp_path / "script.py")
    assert done.returncode == 1 and message in done.stderr, done.stderr[-3000:]


def logs(folder: Path) -> str:
    return "".join(file.read_text(errors="replace") for file in sorted(folder.glob("machine_*.log")))


def test_ranks_die_with_their_launcher(start, toys, tmp_path):
    """torch's launcher gives every rank a session of its own: nothing but the kernel can end them with it."""
    run = tmp_path / "run"
    values = recipe_values(toys, run, max_steps=5000, log_completions=True, num_completions_to_print=0)
    process = start("cpu", write_recipe(tmp_path, values), tmp_path / "log", "--main_process_port", "0")
    wait_for_a_step(run, [process])
    ranks = psutil.Process(process.pid).children(recursive=True)
    assert sum("train.py" in " ".join(rank.cmdline()) for rank in ranks) == 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    for rank in alive:
        rank.kill()
    assert not alive
