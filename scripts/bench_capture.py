"""What reading attention costs, as ratios within one run against the same passes and TRL's GRPO step without it.

python scripts/bench_capture.py                   # full sweep, writes benchmarks/capture_cpu.json (capture_cuda.json)
python scripts/bench_capture.py --quick           # under a minute, writes nothing
python scripts/bench_capture.py --check           # exit 1 where a target is missed
python scripts/bench_capture.py --shape 4b        # a GPU: Qwen3-VL-4B or 8B, random weights, bfloat16

Parts, each in processes of its own (benchmarks/capture_passes.py and grpo_step.py): `scoring` is TRL's scoring
pass (log-probs of the completion), `update` that pass with the loss's forward and backward, `step` a whole GRPO step
by real trainers, `memory` the peak that is added, `peers` the same by eager `output_attentions` and during generate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
SHAPES = {"100m": (768, 3072, 12, 12, 4, 64), "4b": (2560, 9728, 36, 32, 8, 128), "8b": (4096, 12288, 36, 32, 8, 128)}
SMALL = (96, 192, 3, 4, 2, 24)
TARGETS = {("scoring", "last"): 1.03, ("scoring", "all"): 1.25, ("step", "scored"): 1.02, ("update", "last"): 1.02}
MEMORY_TARGET = 0.01
"""Of what eager weights need at the same length."""


# What glibc keeps of freed memory is noise of 100 MiB in resident memory; so every array is mapped and unmapped.
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def measured(script: str, *arguments: Any, **environment: str) -> Any:
    """The JSON that a script of `benchmarks/` prints last; its progress goes to stderr."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    if output.returncode:
        raise SystemExit(f"{' '.join(command)} failed with code {output.returncode}; its error is above.")
    return json.loads(output.stdout.splitlines()[-1])


def scoring(options: argparse.Namespace) -> list[dict]:
    """(a) the scoring pass with and without a reading."""
    size = ["--lengths", *options.lengths, "--repeats", options.repeats]
    return measured("capture_passes.py", "scoring", *model_arguments(options), *size)


def update(options: argparse.Namespace) -> list[dict]:
    """(b) scoring pass, loss and backward, at the lengths whose graph fits into memory."""
    lengths = [length for length in options.lengths if length <= options.update_length] or options.lengths[:1]
    size = ["--lengths", *lengths, "--repeats", options.repeats]
    return measured("capture_passes.py", "update", *model_arguments(options), *size)


def peers(options: argparse.Namespace) -> list[dict]:
    """(d) what eager weights cost, and reading during generate."""
    size = ["--lengths", 512, 2048, "--new-tokens", 32, "--repeats", 2]
    return measured("capture_passes.py", "peers", *model_arguments(options), *size)


def memory(options: argparse.Namespace) -> list[dict]:
    """(c) peak memory added, each case in its own process."""

    def peak(case: str, length: int) -> int:
        arguments = ["memory", "--case", case, *model_arguments(options), "--lengths", length]
        return measured("capture_passes.py", *arguments, **FREED_AT_ONCE)

    results = []
    for length in sorted({1024, options.eager_length, max(options.lengths)}):
        plain = peak("plain", length)
        added = {case: peak(case, length) - plain for case in ("last", "all")}
        if length == options.eager_length:
            added["eager"] = peak("eager", length) - plain
        for case, value in added.items():
            row = {"part": "memory", "case": case, "length": length, "added_mib": value / 2**20}
            if "eager" in added and case != "eager":
                row |= {"ratio": value / added["eager"], "target": MEMORY_TARGET}
            results.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return results


def step(options: argparse.Namespace) -> list[dict]:
    """(b) whole GRPO steps by real trainers."""
    size = ["--side", 64, "--steps", 2, "--rounds", 1] if options.quick else []
    shape = SMALL if options.quick else SHAPES[options.shape]
    return measured("grpo_step.py", "--device", options.device, "--shape", *shape, *size)


def model_arguments(options: argparse.Namespace) -> list[str]:
    return ["--shape", options.shape, "--kernel", options.kernel, "--device", options.device]


PARTS = {"memory": memory, "scoring": scoring, "update": update, "step": step, "peers": peers}


def with_targets(results: list[dict], quick: bool) -> list[dict]:
    for row in results:
        target = TARGETS.get((row["part"], row.get("layers", row.get("case"))))
        if target is not None and not (quick and row["part"] == "step"):  # a toy's step is mostly Python
            row["target"] = target
    return results


def missed(results: list[dict]) -> list[dict]:
    return [row for row in results if "target" in row and row["ratio"] > row["target"]]


def table(results: list[dict]) -> Table:
    columns = ("part", "case", "tokens", "rows", "layers", "ratio", "paired", "added MiB", "target")
    grid = Table(*columns, title="Cost of reading attention")
    for row in results:
        color = "red" if missed([row]) else "green" if "target" in row else "default"
        ratio = f"[{color}]{row['ratio']:.4f}[/]" if "ratio" in row else ""
        share = f"{row['rows']:.0%}" if "rows" in row else ""
        cells = [row["part"], row.get("case", ""), str(row.get("length", "")), share, row.get("layers", ""), ratio]
        cells += [f"{row['paired']:.3f}" if "paired" in row else ""]
        cells += [f"{row['added_mib']:.1f}" if "added_mib" in row else "", str(row.get("target", ""))]
        grid.add_row(*cells)
    return grid


def environment(options: argparse.Namespace) -> dict:
    is_cuda = options.device == "cuda"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if is_cuda else f"CPU {platform.processor() or platform.machine()}",
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[1],
        "threads": torch.get_num_threads(),
        "shape": options.shape,
        "kernel": options.kernel,
        "repeats": options.repeats,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
    }


def keep(out: Path, part: str, options: argparse.Namespace, results: list[dict]) -> None:
    """Each part is written as soon as it is measured, beside the parts that are there already."""
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = json.loads(out.read_text()) if out.exists() else {}
    parts[part] = {**environment(options), "results": results}
    out.write_text(json.dumps(parts, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--out", type=Path, help="JSON file; benchmarks/capture_<device>.json for a full run")
    parser.add_argument("--shape", choices=SHAPES, default="100m")
    parser.add_argument("--kernel", default="sdpa")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 4096, 8192])
    parser.add_argument("--eager-length", type=int, default=4096, help="where eager's memory is measured")
    parser.add_argument("--update-length", type=int, default=2048, help="longest that fits into memory with a graph")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if options.quick:
        options.lengths, options.repeats = [256], 1
        options.parts = [part for part in options.parts if part in ("scoring", "step")]
    out = options.out or (None if options.quick else ROOT / "benchmarks" / f"capture_{options.device}.json")
    results = []
    for part in options.parts:
        found = with_targets(PARTS[part](options), options.quick)
        results += found
        if out is not None:
            keep(out, part, options, found)
    Console(width=120).print(table(results))
    return 1 if options.check and missed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
