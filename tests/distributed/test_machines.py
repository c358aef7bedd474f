"""Two "machines": two launchers that meet over the network, stopped the way a scheduler stops a job."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from toy_runs import recipe_values

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machines(environment, tmp_path):
    """Start both launchers; whatever is left of them at the end is killed."""
    started: list[subprocess.Popen] = []

    def start(recipe: Path) -> list[subprocess.Popen]:
        with socket.socket() as free:  # two launchers have to agree: accelerate's port 0 is for one
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        network = ["--num_machines", "2", "--num_processes", "2"]
        network += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
        launcher += [str(ROOT / "recipes/accelerate/zero2.yaml"), *network]
        script = [str(ROOT / "scripts/train.py"), "--config-name", str(recipe)]
        pair = []
        for rank in (0, 1):
            with (tmp_path / f"machine_{rank}.log").open("ab") as log:
                command = [*launcher, "--machine_rank", str(rank), *script]
                pair.append(subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=log, stderr=log))
        started.extend(pair)
        return pair

    yield start
    for process in started:
        process.kill()


def test_stop_together_and_go_on(machines, toys, tmp_path):
    """Launchers and ranks get the signal at once, and the launchers pass it on: it is one request nevertheless."""
    run = tmp_path / "run"
    saving = {"save_strategy": "steps", "save_steps": 1000, "log_completions": True, "num_completions_to_print": 0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_values(toys, run, max_steps=200, **saving)))
    pair = machines(tmp_path / "recipe.yaml")
    deadline = time.monotonic() + 120
    while not list(run.glob("completions/*.parquet")):
        assert time.monotonic() < deadline and all(one.poll() is None for one in pair), logs(tmp_path)
        time.sleep(0.05)
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
