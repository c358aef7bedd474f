import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def accelerate(kind: str | Path, *words: str | Path) -> dict:
    """Arguments of a subprocess that launches a script through one of the shipped accelerate files, as a user would.

    One thread, no network, and not the ranks of another launcher.
    """
    file = kind if isinstance(kind, Path) else ROOT / "recipes/accelerate" / f"{kind}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, *words]
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment = clean | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return {"args": [str(word) for word in command], "env": environment, "cwd": ROOT}


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start the training script behind a launcher and do not wait; whatever is left at the end is killed."""
    started: list[subprocess.Popen] = []

    def run(kind: str, recipe: Path, log: Path, *options: str) -> subprocess.Popen:
        arguments = accelerate(kind, *options, ROOT / "scripts/train.py", "--config-name", recipe)
        with log.open("ab") as output:
            started.append(subprocess.Popen(**arguments, stdout=output, stderr=output))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def wait_for_a_step(run: Path, processes: Sequence[subprocess.Popen]) -> None:
    """Until the first completions are logged."""
    deadline = time.monotonic() + 600
    while not list(run.glob("completions/*.parquet")):
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.05)


def launch(kind: str | Path, *words: str | Path) -> subprocess.CompletedProcess:
    """Run a script on two processes."""
    arguments = accelerate(kind, "--num_processes", "2", "--main_process_port", "0", *words)
    return subprocess.run(**arguments, capture_output=True, text=True, timeout=1800)
