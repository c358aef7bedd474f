"""What must not pass in silence, as modes of `benchmarks/resume.py`: each fault is made, and the start must name it.

changed: a recipe with one other key, which is applied or refused by name. damaged: four flipped bytes in one file of
the checkpoint. disks: two "machines" that share no storage.
"""

import shutil
import socket
import time
from pathlib import Path

from benchmarks.resume import LAST_STEP, TABLES, Outcome, launch, wait_for


def check_fault(mode: str, folder: Path, quick: bool) -> Outcome:
    """A finished run, started again under each fault; `compared` counts the starts."""
    start, outcome, whole = time.time(), Outcome(mode), folder / mode / "whole"
    if mode == "disks":
        outcome.compared, outcome.differences = 1, separate_disks(folder)
    else:
        wait_for(launch("single", whole, folder), whole)
        files = [path for path in sorted((whole / f"checkpoint-{LAST_STEP}").rglob("*")) if path.is_file()]
        faults = list(TABLES["changes"].items()) if mode == "changed" else [(path.name, (None, 1)) for path in files]
        for name, (value, status) in faults[:2] if quick else faults:
            run_dir = Path(shutil.copytree(whole, folder / mode / name))
            if value is None:
                flip(run_dir / f"checkpoint-{LAST_STEP}" / name)
            words = [] if value is None else [f"{name}={value}", f"trainer.max_steps={LAST_STEP + 1}"]
            process = launch("single", run_dir, folder, words)
            process.wait(timeout=600)
            told = Path(f"{run_dir}.log").read_text(errors="replace")
            if process.returncode != status or name not in told or "Traceback" in told:
                outcome.differences.append(f"{name}: status {process.returncode}, not {status}: {told[-500:]}")
            outcome.compared += 1
            shutil.rmtree(run_dir)
    outcome.runs, outcome.seconds = outcome.compared, round(time.time() - start, 1)
    return outcome


def flip(file: Path) -> None:
    """Four bytes in the middle."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4] = bytes(byte ^ 255 for byte in content[middle : middle + 4])
    file.write_bytes(content)


def separate_disks(folder: Path) -> list[str]:
    """Two launchers with one relative output_dir in two working directories: both must stop and say why."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        options = ["--num_machines", "2", "--main_process_ip", "127.0.0.1"]
        options += ["--main_process_port", str(free.getsockname()[1]), "--machine_rank"]
    disks, pair = [folder / "disks" / rank for rank in ("0", "1")], []
    for disk in disks:
        disk.mkdir(parents=True)
        pair.append(launch("ddp", disk / "run", folder, ["trainer.output_dir=run"], [*options, disk.name], disk))
    statuses = [process.wait(timeout=300) for process in pair]
    told = " ".join("".join((disk / "run.log").read_text(errors="replace") for disk in disks).split())
    is_told = "does not see what rank 1 (on " in told and "trainer.output_dir=/SHARED/RUN" in told
    left = [str(path) for disk in disks for path in disk.glob("run/*")]  # no token, and nothing saved
    return [] if statuses == [1, 1] and is_told and not left else [f"statuses {statuses}, {left}: {told[-1000:]}"]
