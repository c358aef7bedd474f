import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from toy_runs import Toy, make_toy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def toys(tmp_path_factory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def environment() -> Callable[..., dict[str, str]]:
    """What a launcher is started with: one thread, no network, and not the ranks of another launcher."""

    def make(**more: str) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        return clean | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **more}

    return make


@pytest.fixture
def start(environment) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start the training script behind a launcher and do not wait; whatever is left at the end is killed."""
    started: list[subprocess.Popen] = []

    def run(kind: str, recipe: Path, log: Path, *options: str) -> subprocess.Popen:
        file = ROOT / "recipes/accelerate" / f"{kind}.yaml"
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, *options]
        command += [ROOT / "scripts/train.py", "--config-name", recipe]
        with log.open("ab") as output:
            words = [str(word) for word in command]
            started.append(subprocess.Popen(words, env=environment(), cwd=ROOT, stdout=output, stderr=output))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def wait_for_a_step(run: Path, processes: Sequence[subprocess.Popen]) -> None:
    """Until the first completions are logged."""
    deadline = time.monotonic() + 120
    while not list(run.glob("completions/*.parquet")):
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.05)


@pytest.fixture(scope="session")
def launch(environment) -> Callable:
    """Run a script on two processes through one of the shipped accelerate files, as a user would."""

    def run(kind: str, *words: str | Path, status: int | None = 0, timeout: float = 300, **more: str):
        file = ROOT / "recipes" / "accelerate" / f"{kind}.yaml" if "/" not in kind else Path(kind)
        options = ["--config_file", file, "--num_processes", "2", "--main_process_port", "0"]
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, *words]
        done = subprocess.run(
            [str(word) for word in command],
            env=environment(**more),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if status is not None:
            assert done.returncode == status, (
                f"status {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
            )
        return done

    return run


def train_jobs(launch: Callable, kind: str, folder: Path, jobs: dict) -> None:
    """Train recipes one after the other on two ranks; see `train_several.py`."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    launch(kind, Path(__file__).parent / "train_several.py", folder / "jobs.json")


@pytest.fixture(scope="module")
def runs(launch, toys, tmp_path_factory, request) -> Callable[[str], Path]:
    """Folder of a kind's runs, the module's `jobs_of`; each kind is launched once, when it is first asked for."""

    @cache
    def run(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        train_jobs(launch, kind, folder, request.module.jobs_of(toys, folder, kind))
        return folder

    return run
