"""Launchers that are stopped: two that meet over the network, as by a scheduler; and one that is killed with -9."""

import json
import re
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
from distributed.conftest import ROOT, launch, wait_for_a_step
from toy_runs import recipe_values, write_recipe

pytestmark = pytest.mark.slow


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
