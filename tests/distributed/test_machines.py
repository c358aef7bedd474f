"""Two "machines": two launchers that meet over the network, stopped the way a scheduler stops a job."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml
from distributed.conftest import wait_for_a_step
from toy_runs import recipe_values

pytestmark = pytest.mark.slow


@pytest.fixture
def machines(start, tmp_path):
    """Start both launchers."""

    def run(recipe: Path) -> list[subprocess.Popen]:
        with socket.socket() as free:  # two launchers have to agree: accelerate's port 0 is for one
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        network = ["--num_machines", "2", "--num_processes", "2"]
        network += ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--machine_rank"]
        return [start("zero2", recipe, tmp_path / f"machine_{rank}.log", *network, str(rank)) for rank in (0, 1)]

    return run


def test_stop_together_and_resume(machines, toys, tmp_path):
    """Launchers and ranks get the signal at once, and the launchers pass it on: it is one request nevertheless."""
    run = tmp_path / "run"
    saving = {"save_strategy": "steps", "save_steps": 1000, "log_completions": True, "num_completions_to_print": 0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_values(toys, run, max_steps=200, **saving)))
    pair = machines(tmp_path / "recipe.yaml")
    wait_for_a_step(run, pair)
    launchers = [psutil.Process(one.pid) for one in pair]
    for process in [one for launcher in launchers for one in (*launcher.children(recursive=True), launcher)]:
        process.send_signal(signal.SIGTERM)
    assert [one.wait(timeout=60) for one in pair] == [1, 1], "torch's launcher has a status of its own"
    assert "2 (DEEPSPEED, sharding ZeRO-2)" in logs(tmp_path) and "Stopped after step" in logs(tmp_path)
    (checkpoint,) = run.glob("checkpoint-*")
    assert json.loads((checkpoint / "COMPLETE").read_text())["world_size"] == 2

    step = int(checkpoint.name.partition("-")[2])
    shorter = recipe_values(toys, run, max_steps=step + 2, **saving)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(shorter))
    assert [one.wait(timeout=120) for one in machines(tmp_path / "recipe.yaml")] == [0, 0], logs(tmp_path)
    assert f"resuming from {checkpoint}" in logs(tmp_path).replace("\n", "")
    assert json.loads((run / "trainer_state.json").read_text())["global_step"] == step + 2


def logs(folder: Path) -> str:
    return "".join(file.read_text(errors="replace") for file in sorted(folder.glob("machine_*.log")))
