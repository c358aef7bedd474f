"""Is `sayo preflight` right about memory? Real models, real steps, every live tensor counted.

    python scripts/bench_memory.py --quick                                  # under a minute
    python scripts/bench_memory.py --out benchmarks/preflight_cpu.json --check

Every case runs in a process of its own: Qwen3-VL and Qwen2.5-VL of 9M to 390M random parameters do two micro-batches
of forward and backward through TRL's fused head and one AdamW step, twice; GRPO cases run `RegionGRPOTrainer` with
generation, scoring and update. `LiveBytes` counts the bytes of all live tensor storages, so no allocator blurs the
result; what kernels allocate and free inside themselves is not counted. With --check, a peak off by more than 15%
ends with status 1.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

TOLERANCE = 0.15
CASES = {  # name: (family, size, options)
    "qwen3_vl 12M": ("qwen3_vl", "12M", {}),
    "qwen3_vl 12M checkpointing": ("qwen3_vl", "12M", {"checkpointing": True}),
    "qwen2_5_vl 12M LoRA bf16": ("qwen2_5_vl", "12M", {"lora": True, "bf16": True}),
    "qwen3_vl 12M GRPO": ("qwen3_vl", "12M", {"grpo": True}),
    "qwen2_5_vl 12M": ("qwen2_5_vl", "12M", {}),
    "qwen3_vl 80M": ("qwen3_vl", "80M", {}),
    "qwen3_vl 80M checkpointing": ("qwen3_vl", "80M", {"checkpointing": True}),
    "qwen3_vl 80M bf16 autocast": ("qwen3_vl", "80M", {"bf16": True}),
    "qwen3_vl 80M bf16 weights": ("qwen3_vl", "80M", {"bf16": True, "dtype": "bfloat16"}),
    "qwen3_vl 80M LoRA checkpointing": ("qwen3_vl", "80M", {"lora": True, "checkpointing": True}),
    "qwen3_vl 80M frozen vision": ("qwen3_vl", "80M", {"freeze_vision": True}),
    "qwen2_5_vl 80M": ("qwen2_5_vl", "80M", {}),
    "qwen2_5_vl 80M LoRA bf16 weights": ("qwen2_5_vl", "80M", {"lora": True, "bf16": True, "dtype": "bfloat16"}),
    "qwen3_vl 390M checkpointing": ("qwen3_vl", "390M", {"checkpointing": True}),
    "qwen2_5_vl 390M checkpointing": ("qwen2_5_vl", "390M", {"checkpointing": True}),
    "qwen2_5_vl 12M GRPO": ("qwen2_5_vl", "12M", {"grpo": True}),
    "qwen3_vl 80M GRPO LoRA": ("qwen3_vl", "80M", {"grpo": True, "lora": True, "checkpointing": True}),
    "qwen3_vl 80M GRPO reference": ("qwen3_vl", "80M", {"grpo": True, "reference": True}),
}
QUICK = ("qwen3_vl 12M", "qwen2_5_vl 12M LoRA bf16", "qwen3_vl 12M GRPO")


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Three small cases, under a minute.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the results as JSON.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when a peak is off by more than 15%.")] = False,
    only: Annotated[str | None, typer.Option("--only", help="Cases whose name contains this.")] = None,
    case: Annotated[str | None, typer.Option("--case", hidden=True, help="Run this one here and print JSON.")] = None,
) -> None:
    """Measured against predicted peak memory, by item."""
    if case:
        from sayo.preflight.bench import measure_case

        typer.echo(json.dumps(measure_case(*CASES[case])))
        return
    names = [name for name in CASES if (name in QUICK if quick else only is None or only in name)]
    results = {}
    for name in names:
        typer.echo(f"{name} ...", err=True)
        results[name] = _in_own_process(name)
        if out:  # after every case: a long run that is cut off keeps what it has
            out.parent.mkdir(parents=True, exist_ok=True)
            report = {**_circumstances(), "tolerance": TOLERANCE, "cases": results}
            out.write_text(json.dumps(report, indent=2) + "\n")
    missed = _print(results)
    if check and missed:
        typer.echo(f"off by more than {TOLERANCE:.0%}: {', '.join(missed)}", err=True)
        raise typer.Exit(1)


def _in_own_process(name: str) -> dict:
    run = subprocess.run([sys.executable, __file__, "--case", name], capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{name} failed:\n{run.stderr[-3000:]}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def _circumstances() -> dict:
    import datetime
    import platform
    from importlib.metadata import version

    packages = ("torch", "transformers", "trl", "peft")
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"cpu ({platform.machine()})",
        "versions": {name: version(name) for name in packages},
    }


def _print(results: dict[str, dict]) -> list[str]:
    """Print the table; return the cases whose peak is off."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Peak memory in MB: predicted / measured")
    columns = ("weights", "optimizer", "gradients", "generation", "scoring", "backward", "update", "peak")
    for column in ("case", "parameters", *columns, "error"):
        table.add_column(column, justify="left" if column == "case" else "right")
    missed = []
    for name, result in results.items():
        error = result["predicted"]["peak"] / result["measured"]["peak"] - 1
        cells = [
            f"{result['predicted'][key] / 1e6:.0f} / {result['measured'][key] / 1e6:.0f}"
            if key in result["measured"]
            else "-"
            for key in columns
        ]
        is_off = abs(error) > TOLERANCE
        missed += [name] if is_off else []
        colour = "red" if is_off else "green"
        table.add_row(name, f"{result['parameters'] / 1e6:.0f}M", *cells, f"[{colour}]{error:+.1%}[/]")
    Console(width=190).print(table)
    return missed


if __name__ == "__main__":
    typer.run(main)
