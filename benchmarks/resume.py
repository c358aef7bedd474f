"""Kill training runs with -9 at random moments, restart them until they end, compare them with an uninterrupted run.

    python -m benchmarks.resume --out benchmarks/results/resume_cpu.json     # 20 kills for each way to launch
    python -m benchmarks.resume --quick --check --mode single       # 3 kills
    python -m benchmarks.resume --mode changed damaged disks --out benchmarks/results/resume_faults_cpu.json

The run is made so that hardly any moment is easy: generation blocks of several optimizer steps, each block used twice,
saves and log lines inside the blocks, a reference model that moves, a learning rate that falls, several epochs. What
dies is, at random, every process at once, the launcher alone (its ranks must not live on), or one rank alone; every
third kill waits for a save to begin. Everything runs on CPU, on the toy world.

Compared bit by bit: completions, rewards and advantages of every step, weights, optimizer, random states, logged
metrics (except wall-clock times), and the tracker's run id.

Three more modes (`benchmarks/faults.py`) start a finished run again and look at what it says.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.harness import ROOT, collect, finish, make_toy_data, options_of, sayo

LAUNCHES = ("single", "ddp", "zero2", "zero3")
MODES = (*LAUNCHES, "changed", "damaged", "disks")
TABLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
SETTINGS, LAST_STEP = TABLES["settings"], TABLES["settings"]["max_steps"]
CLOCK = ("step_time", "scoring_time", "runtime", "per_second", "seconds")


@dataclass
class Outcome:
    """What became of one way to launch."""

    mode: str
    kills: int = 0
    in_save: int = 0
    victims: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    orphans: int = 0
    compared: int = 0
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


def check_mode(mode: str, folder: Path, kills: int) -> Outcome:
    """One uninterrupted run, then killed ones until the number of kills is reached; each is driven to its end."""
    start, rng, outcome = time.time(), random.Random(f"0 {mode}"), Outcome(mode)
    whole = folder / mode / "whole"
    wait_for(launch(mode, whole, folder), whole)
    window = time.time() - (whole / "recipe.yaml").stat().st_mtime  # seconds from the start of training to its end
    while outcome.kills < kills:
        outcome.runs += 1
        run_dir = folder / mode / f"killed_{outcome.runs}"
        finished, run_ids = False, set()
        while not finished:
            process = launch(mode, run_dir, folder)
            if outcome.kills >= kills:
                finished = wait_for(process, run_dir)
            else:
                complete = [int(path.parent.name[11:]) for path in run_dir.glob("checkpoint-*/COMPLETE")]
                moment = rng.uniform(0, window * (1 - max(complete, default=0) / LAST_STEP))
                finished = kill_at_random(process, run_dir, moment, rng, outcome)
                window *= 0.5 if finished else 1.0  # it outran its killer: the machine is faster now than before
            if (run_dir / "run_id").is_file():
                run_ids.add((run_dir / "run_id").read_text())
        differences = compare(whole, run_dir)
        if len(run_ids) != 1:
            differences.append(f"the tracker's run id changed: {sorted(run_ids)}")
        outcome.compared += 1
        outcome.differences += [f"run {outcome.runs}: {difference}" for difference in differences]
        shutil.rmtree(run_dir)
        print(f"{mode}: {outcome.kills}/{kills} kills, {len(outcome.differences)} differences", file=sys.stderr)
    outcome.seconds = round(time.time() - start, 1)
    return outcome


def launch(
    mode: str, run_dir: Path, folder: Path, more: Sequence[str] = (), network: Sequence[str] = (), cwd: Path = ROOT
) -> subprocess.Popen:
    """Start (or restart) the run on the policy and the data in `folder`: the same command, but for what is given."""
    words = [str(ROOT / "scripts/train.py"), "--config-name", "toy", "rewards=attention"]
    words += [f"model.name_or_path={folder}/policy", f"data.path={folder}/prepared", "data.max_samples=16"]
    words += [f"trainer.output_dir={run_dir}", *(f"trainer.{key}={value}" for key, value in SETTINGS.items()), *more]
    command = [sys.executable, *words]
    if mode != "single":
        file = ROOT / f"recipes/accelerate/{mode}.yaml"
        options = ["--config_file", str(file), "--num_processes", "2", *(network or ("--main_process_port", "0"))]
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, *words]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{run_dir}.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, cwd=cwd, stdout=log, stderr=log, start_new_session=True)


def wait_for(process: subprocess.Popen, run_dir: Path) -> bool:
    """Wait for the end of a run that must succeed."""
    if process.wait(timeout=600) != 0:
        tail = Path(f"{run_dir}.log").read_text(errors="replace")[-4000:]
        raise SystemExit(f"{run_dir} ended with status {process.returncode}:\n{tail}")
    return True


def kill_at_random(
    process: subprocess.Popen, run_dir: Path, moment: float, rng: random.Random, outcome: Outcome
) -> bool:
    """Kill some of the run's processes `moment` seconds into its training. True if it ended before that."""
    launched, recipe = time.time(), run_dir / "recipe.yaml"

    def sleep_until(condition: Callable[[], bool]) -> None:
        while process.poll() is None and not condition():
            time.sleep(0.001)

    sleep_until(lambda: recipe.is_file() and recipe.stat().st_mtime >= launched - 0.5)
    deadline = time.time() + moment
    sleep_until(lambda: time.time() >= deadline)
    if outcome.kills % 3 == 2:
        sleep_until(lambda: is_saving(run_dir, launched))
        time.sleep(rng.uniform(0, 0.15))
    if process.poll() is not None:
        return wait_for(process, run_dir)
    launcher = psutil.Process(process.pid)
    tree = [launcher, *launcher.children(recursive=True)]
    lines = {member: " ".join(member.cmdline()) for member in tree}
    ranks = [member for member, line in lines.items() if "train.py" in line and "launch" not in line]
    victim = rng.choice(("all", "launcher", "one rank") if outcome.mode != "single" else ("all",))
    chosen = {"all": tree, "launcher": tree[:1], "one rank": [rng.choice(ranks)] if ranks else tree}[victim]
    for member in chosen:
        member.kill()
    process.wait(timeout=120)
    _, alive = psutil.wait_procs(tree, timeout=60)
    for member in alive:
        member.kill()
    outcome.orphans += len(alive)
    outcome.kills += 1
    outcome.in_save += is_saving(run_dir, launched)
    outcome.victims[victim] = outcome.victims.get(victim, 0) + 1
    return False


def is_saving(run_dir: Path, launched: float) -> bool:
    """Whether a checkpoint is being written by this launch; torn folders of earlier kills may still be there."""
    with suppress(FileNotFoundError):  # complete, or cleared away, since it was listed
        return any(file.stat().st_mtime >= launched for file in run_dir.glob("checkpoint-*/SAVING"))
    return False


def compare(whole: Path, killed: Path) -> list[str]:
    """Every difference between two finished runs, one line each."""
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import load_file

    def load(path: Path) -> Any:
        if path.suffix == ".parquet":
            return pq.read_table(path).to_pydict()
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".json":
            return json.loads(path.read_text())
        return torch.load(path, map_location="cpu", weights_only=False)  # ours; DeepSpeed needs pickle

    last = f"checkpoint-{LAST_STEP}"
    patterns = ("completions/*", "model.safetensors", "trainer_state.json", f"{last}/**/*.pt*")
    files = [
        {str(path.relative_to(run)) for p in patterns for path in run.glob(p) if path.is_file()}
        for run in (whole, killed)
    ]
    differences = [f"{name}: in one of the runs only" for name in files[0] ^ files[1]]
    for name in sorted(files[0] & files[1]):
        differences += different(load(whole / name), load(killed / name), name)
    return differences


def different(first: Any, second: Any, name: str) -> list[str]:
    """Names of the parts in which two nested values differ, except for what measures wall-clock time."""
    from torch.utils._pytree import keystr, tree_leaves_with_path

    sides = [{keystr(path): bits(leaf) for path, leaf in tree_leaves_with_path(value)} for value in (first, second)]
    paths = [path for path in sides[0].keys() | sides[1].keys() if not any(word in path for word in CLOCK)]
    pairs = {path: [side.get(path) for side in sides] for path in paths}
    return [f"{name}{path}: {str(a)[:80]} and {str(b)[:80]}" for path, (a, b) in pairs.items() if a != b]


def bits(value: Any) -> tuple:
    """What must be equal for two values to be the same bit by bit; a NaN equals itself."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor | np.ndarray):
        tensor = torch.as_tensor(value)
        return type(value), tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    # Tensors in objects of DeepSpeed's are compared where they appear.
    is_plain = isinstance(value, (bool, int, float, str, bytes, type(None)))
    return type(value), repr(value) if is_plain else ""


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="for each way to launch")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=MODES, help="ways to launch, or faults")
    options = parser.parse_args()
    from benchmarks.faults import check_fault  # which launches by this module

    kills = 3 if options.quick else options.kills
    with tempfile.TemporaryDirectory(prefix="sayo_resume_") as name:
        folder = Path(name)
        sayo("toy", "policy", "--out", folder / "policy")
        make_toy_data(folder, 10)
        outcomes = (
            check_mode(mode, folder, kills) if mode in LAUNCHES else check_fault(mode, folder, options.quick)
            for mode in options.mode
        )
        rows = collect(options, map(asdict, outcomes))
    shown = [{**row, "differences": len(row["differences"]), "victims": str(row["victims"])} for row in rows]
    missed = [difference for row in rows for difference in row["differences"]]
    missed += [f"{row['mode']}: {row['orphans']} orphans" for row in rows if row["orphans"]]
    finish(options, "Killed with -9 and restarted, against an uninterrupted run", rows, missed, shown=shown)


if __name__ == "__main__":
    main()
