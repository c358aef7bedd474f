"""What all measuring scripts share: their options, the machine they ran on, one JSON file, and a table at the end.

Every script takes `--quick` (under a minute), `--out FILE.json`, and `--check` (exit status 1 on a missed target).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.texts import write_whole

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "pyarrow")


def options_of(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every script takes; the description is the script's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small part, under a minute")
    parser.add_argument("--out", type=Path, help="JSON file to write, e.g. benchmarks/results/NAME_cpu.json")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return parser


def machine() -> dict[str, Any]:
    """Date, device, load and versions."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[1], 2),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def now(device: str) -> float:
    """Seconds: process time on a CPU, wall time on a GPU, after what it was asked to do is done."""
    import torch

    if device != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def stopwatch(function: Callable, times: dict[str, list[float]], name: str, device: str) -> Callable:
    """The function, adding the seconds of each call (see `now`) to `times[name]`."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = now(device)
        result = function(*args, **kwargs)
        times.setdefault(name, []).append(now(device) - start)
        return result

    return timed


def write(out: Path | None, rows: Iterable[dict], **more: Any) -> None:
    """Write the rows and how they came about."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, json.dumps({**machine(), **more, "rows": list(rows)}, indent=1) + "\n")


def collect(options: argparse.Namespace, measured: Iterable[dict], **more: Any) -> list[dict]:
    """All rows as they come, written after each: a long run that is cut off keeps its rows."""
    rows: list[dict] = []
    for row in measured:
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        write(options.out, rows, **more)
    return rows


def finish(
    options: argparse.Namespace, title: str, rows: list[dict], missed: list[str], shown: Any = None, **more: Any
) -> None:
    """Write, print the rows (or those `shown` instead) as a table, then the missed targets, and leave."""
    from rich.console import Console

    write(options.out, rows, missed=missed, **more)
    Console(width=170).print(table_of(title, shown or rows))
    print(f"missed: {', '.join(missed)}" if missed else "all targets met")
    sys.exit(1 if options.check and missed else 0)


def table_of(title: str, rows: Sequence[dict]) -> Any:
    """One column per key that holds a plain value; it can be pasted into a page of the docs."""
    from rich.box import MARKDOWN
    from rich.table import Table

    keys = dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, str | int | float))
    table = Table(*(key.replace("_", " ") for key in keys), title=title, box=MARKDOWN)
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in keys))
    return table


def call_of(function: str, *arguments: Any) -> list[str]:
    """A command line that calls a function, "module:name", with what JSON can carry, and prints its result as JSON."""
    call = "import json, pkgutil, sys; print(json.dumps(pkgutil.resolve_name(sys.argv[1])(*json.loads(sys.argv[2]))))"
    return [sys.executable, "-c", call, function, json.dumps(arguments)]


def own_process(function: str, *arguments: Any, **environment: str) -> Any:
    """What a function returns in a process of its own (see `call_of`); its progress goes to stderr."""
    command, variables = call_of(function, *arguments), {**os.environ, **environment}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=variables, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{function}{arguments} failed with status {done.returncode}; its error is above.")
    return json.loads(done.stdout.splitlines()[-1])


def sayo(*words: Any) -> None:
    """Run a `sayo` command line in this process; its output is dropped, or raised as RuntimeError when it fails."""
    from typer.testing import CliRunner

    from sayo.cli import app

    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exit_code:
        raise RuntimeError(result.output)


def make_toy_data(folder: Path, num_images: int) -> Path:
    """Toy pictures with questions, prepared for the policy in `folder / "policy"`; returns the prepared folder."""
    world, prepared = folder / "world", folder / "prepared"
    sayo("toy", "world", "--out", world, "--num-images", num_images)
    files = ("--questions", world / "train_questions.json", "--scene-graphs", world / "train_sceneGraphs.json")
    sayo("prepare", "gqa", *files, "--images", world / "images", "--processor", folder / "policy", "--out", prepared)
    return prepared


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{value:,}" if type(value) is int else "" if value is None else str(value)


if __name__ == "__main__":  # python -m benchmarks.harness FILE.json...: the tables of results that are there
    from rich.console import Console

    for _file in map(Path, sys.argv[1:]):
        _stored = json.loads(_file.read_text())
        Console(width=170).print(table_of(f"{_file.stem}; missed: {_stored.get('missed')}", _stored["rows"]))
