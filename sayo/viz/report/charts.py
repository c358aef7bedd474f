"""Curves of the training log."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sayo.viz.plots import COLORS, Chart, chart, line, smooth
from sayo.viz.report.runs import Run

_FILE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
Series = tuple[str, Run, str]
"""Label, run and key of a line."""


def training_charts(runs: Sequence[Run]) -> list[Chart]:
    """Reward by part, share of the gradient, and the curves of charts.yaml; several runs share each chart."""
    by_part, curves = ([(key, *texts) for key, texts in _FILE[kind].items()] for kind in ("by_part", "curves"))
    return [chart for entry in by_part for chart in _by_part(runs, *entry)] + _curves(runs, curves)


def _by_part(runs: Sequence[Run], key: str, title: str, caption: str) -> list[Chart]:
    """All rewards of a single run in one chart; of several runs one chart per reward, with the runs in it."""
    parts = list(dict.fromkeys(part for run in runs for part in run.reward_parts()))
    if len(runs) > 1:
        return _curves(runs, [(key.format(part), f"{title}: {part}", caption) for part in parts])
    return _chart_of(f"{title} by part", caption, [(part, runs[0], key.format(part)) for part in parts])


def _curves(runs: Sequence[Run], curves: Sequence[tuple[str, str, str]]) -> list[Chart]:
    charts = (_chart_of(title, caption, [(run.name, run, key) for run in runs]) for key, title, caption in curves)
    return [chart for some in charts for chart in some]


def _chart_of(title: str, caption: str, series: Sequence[Series]) -> list[Chart]:
    """A chart with those of the series that were logged; none if there is none."""
    logged = [
        (entry, color)
        for entry, color in zip(series, cycle(COLORS), strict=False)
        if len(entry[1].series(entry[2])[0])
    ]
    if not logged:
        return []

    def draw(axes: Any) -> None:
        for (label, run, key), color in logged:
            steps, values = run.series(key)
            spread = dict(zip(*run.series(f"{key[:-5]}/std"), strict=True)) if key.endswith("/mean") else {}
            deviations = np.array([spread.get(step, np.nan) for step in steps])
            half = smooth(deviations) if spread else None
            smoothed = smooth(values)
            if smoothed is not values:
                axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            line(axes, steps, smoothed, color, label, half, bounds=_bounds(values, deviations))
            axes.plot(*run.series(f"eval_{key}"), color=color, linewidth=1.4, linestyle="--", marker="o", markersize=4)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(logged) > 1:
            axes.legend()

    is_held_out = any(len(run.series(f"eval_{key}")[0]) for (_, run, key), _ in logged)
    return [chart(title, caption + (" Dashed: held out, during training." if is_held_out else ""), draw)]


def _bounds(means: np.ndarray, deviations: np.ndarray) -> tuple[float, float]:
    """[0, 1], else [-1, 1], where values with such means and standard deviations can lie in it (Bhatia and Davis)."""
    for low in (0.0, -1.0):
        if (means >= low).all() and (deviations**2 <= 1.2 * (1 - means) * (means - low) + 1e-6).all():
            return low, 1.0
    return -np.inf, np.inf
