"""Curves of the training log, and which layer of a policy tells right from wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from sayo.viz.plots import COLORS, GREY, Chart, chart, line, short, smooth
from sayo.viz.report.runs import HeldOut, Run

REWARD = ("rewards/{}/mean", "Reward", "Mean of the batch before weights; the band is one standard deviation.")
SHARE = ("gradient_share/{}", "Share of the gradient", "Part of the advantages that a reward makes; together 1.")
TRAINING = (  # key of the log, title, what is shown
    ("reward", "Reward", "Weighted sum of the reward functions, mean of the batch."),
    ("attention/tas", "Target attention score", "0.5: no preference for the region; 1: all attention on it."),
    ("attention/region_ratio", "Attention on the region", "Per region token over per visual token; 1: no preference."),
    ("attention/region_mass", "Attention mass on the region", "Share of all attention that falls on the region."),
    ("attention/image_mass", "Attention mass on the image", "Share of all attention that falls on visual tokens."),
    ("completions/mean_length", "Completion length", "Tokens, mean of the batch."),
    ("entropy", "Entropy", "Nats per token of the completions."),
)
HEALTH = (
    ("frac_reward_zero_std", "Groups without spread", "Share of prompts whose completions all got the same reward."),
    ("completions/clipped_ratio", "Truncated completions", "Share that reached the length limit."),
    ("kl", "KL to the reference", "Nats per token."),
    ("grad_norm", "Gradient norm", "Before clipping."),
    ("loss", "Loss", "Near zero in on-policy GRPO by construction."),
    ("step_time", "Seconds per step", "Rollouts, scoring and update."),
)
Series = tuple[str, Run, str]
"""Label, run and key of a line."""


def training_charts(runs: Sequence[Run]) -> list[Chart]:
    """Reward by part, share of the gradient, attention, length and entropy; several runs share each chart."""
    return _by_part(runs, *REWARD) + _by_part(runs, *SHARE) + _curves(runs, TRAINING)


def health_charts(runs: Sequence[Run]) -> list[Chart]:
    """Whether the run itself was sound."""
    return _curves(runs, HEALTH)


def layer_chart(policies: Mapping[str, HeldOut]) -> Chart | None:
    """How well the TAS of each decoder layer tells right from wrong answers, with intervals; None where not known."""
    layers = {name: (e.summary.get("tas_by_layer") or {}).get("by_layer") or [] for name, e in policies.items()}
    layers = {name: [row for row in rows if row.get("auc") is not None] for name, rows in layers.items()}
    layers = {name: rows for name, rows in layers.items() if rows}
    if not layers:
        return None

    def draw(axes: Any) -> None:
        for index, ((name, rows), color) in enumerate(zip(layers.items(), cycle(COLORS), strict=False)):
            place = np.array([row["layer"] for row in rows]) + 0.12 * (index - (len(layers) - 1) / 2)
            middle = np.array([row["auc"] for row in rows])
            ends = np.array([row.get("auc_interval") or [row["auc"]] * 2 for row in rows])
            options = {"fmt": "o", "markersize": 5, "color": color, "label": short(name)}
            axes.errorbar(place, middle, yerr=np.abs(ends.T - middle), **options)
        axes.axhline(0.5, color=GREY, linewidth=1, linestyle=":")
        axes.set(xlabel="decoder layer", ylabel="AUC")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(layers) > 1:  # below: the points and intervals of several policies leave no free corner
            axes.figure.legend(loc="outside lower center", ncols=2, fontsize=9, columnspacing=1, handletextpad=0.2)

    caption = "Chance that a right answer has the larger TAS, with its 95% interval; 0.5: this layer does not tell."
    return chart("Which layer tells right from wrong", caption, draw)


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
            half = smooth(np.array([spread.get(step, np.nan) for step in steps])) if spread else None
            smoothed = smooth(values)
            if smoothed is not values:
                axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            line(axes, steps, smoothed, color, label, half)
            axes.plot(*run.series(f"eval_{key}"), color=color, linewidth=1.4, linestyle="--", marker="o", markersize=4)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(logged) > 1:
            axes.legend()

    is_held_out = any(len(run.series(f"eval_{key}")[0]) for (_, run, key), _ in logged)
    return [chart(title, caption + (" Dashed: held out, during training." if is_held_out else ""), draw)]
