"""Draw when the objective helps and when it costs: training curves of the toy bench, from a good and a weak start.

python -m benchmarks.toy_curves     # after benchmarks.toy
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness import ROOT

METHODS = {  # arm (after "weak " or not), label, colour (Okabe and Ito's), line
    "accuracy": ("accuracy reward", "#0072b2", "-"),
    "both": ("accuracy + attention reward", "#d55e00", "--"),
    "objective": ("accuracy reward + objective", "#009e73", "-."),
}
STARTS = {"good start": {"objective": "accuracy objective"}, "weak start": {name: f"weak {name}" for name in METHODS}}
METRICS = {"rewards/accuracy/mean": "accuracy of the samples", "attention/tas": "target attention score"}
WINDOW = 5


def smooth(values: list[float]) -> np.ndarray:
    """Means over the last `WINDOW` steps: a step of 64 completions has only 8 questions."""
    return np.array([np.mean(values[max(0, end - WINDOW) : end]) for end in range(1, len(values) + 1)])


def draw(axes: Any, rows: dict[str, Any], names: dict[str, str], metric: str) -> None:
    for method, (label, color, line) in METHODS.items():
        row = rows.get(names.get(method, method))
        if row is None:
            continue
        curves = np.array([smooth(curve[metric]) for curve in row["curve"]["by_seed"]])
        steps, mean, spread = np.arange(1, curves.shape[1] + 1), curves.mean(axis=0), curves.std(axis=0, ddof=1)
        axes.plot(steps, mean, color=color, ls=line, lw=1.7, label=label)
        axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.15, lw=0)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Accuracy and target attention score over the steps of GRPO; bands are standard deviations over seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks/results/toy_bench.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/figures/objective.png")
    options = parser.parse_args()
    rows = {row["arm"]: row for row in json.loads(options.table.read_text())["rows"]}
    figure = Figure(figsize=(7.5, 4.6), dpi=200, layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, (start, names) in zip(grid.T, STARTS.items(), strict=True):
        for axes, (metric, label) in zip(column, METRICS.items(), strict=True):
            draw(axes, rows, names, metric)
            axes.yaxis.set_tick_params(labelleft=True)
            axes.set_ylabel(label, fontsize=8)
        column[0].set_title(start, fontsize=9)
        column[-1].set_xlabel(f"GRPO step (mean of the last {WINDOW})", fontsize=8)
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
