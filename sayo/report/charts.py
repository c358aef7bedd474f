"""Curves of the training log as SVG pictures (data URIs: no script, no outside resource, no clash of ids)."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sayo.report.evaluation import Evaluation
from sayo.report.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")  # Okabe and Ito's palette
SIZE = (4.7, 3.0)  # inches; read on a phone at three quarters of it
STYLE = {
    "font.size": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#475569",
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "svg.fonttype": "path",
    "text.parse_math": False,  # names are the user's: a dollar sign is no mathematics
}


@dataclass(frozen=True)
class Chart:
    """A picture of the page: `uri` is an SVG data URI, `caption` plain text."""

    title: str
    uri: str
    caption: str = ""


CURVES = (  # key of the log, title, what is shown
    ("reward", "Reward", "Weighted sum of the reward functions, mean of the batch."),
    ("attention/tas", "Target attention score", "0.5: no preference for the region; 1: all attention on it."),
    (
        "attention/region_ratio",
        "Attention on the region",
        "Per token of the region over per visual token; 1: no preference.",
    ),
    (
        "attention/region_mass",
        "Attention mass on the region",
        "Share of all attention that falls on the region's tokens.",
    ),
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


def training_charts(runs: Sequence[Run]) -> list[Chart]:
    """Reward by part, accuracy, attention, length and entropy; several runs share each chart."""
    charts = _reward_charts(runs) + _share_charts(runs)
    charts += [_curve(runs, *curve) for curve in CURVES if _logged(runs, curve[0])]
    return charts + _looking_and_answering(runs)


def health_charts(runs: Sequence[Run]) -> list[Chart]:
    """Whether the run itself was sound."""
    return [_curve(runs, *curve) for curve in HEALTH if _logged(runs, curve[0])]


def ablation_chart(title: str, arms: Sequence[str], values: Sequence[Sequence[float]]) -> Chart:
    """One dot per seed and a bar at the mean, arms below each other."""

    def draw(axes: Axes) -> None:
        for row, seeds in enumerate(values):
            color = COLORS[row % len(COLORS)]
            axes.scatter(seeds, np.full(len(seeds), row), color=color, alpha=0.75, s=34, linewidths=0, zorder=3)
            axes.plot([np.mean(seeds)] * 2, [row - 0.26, row + 0.26], color=color, linewidth=2.5, zorder=4)
        axes.set_yticks(range(len(arms)), [_label(arm) for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)

    return Chart(title, _svg(draw), "A dot is one seed, a bar the mean.")


def layer_chart(policies: Mapping[str, Evaluation | None]) -> Chart | None:
    """How well the TAS of each decoder layer tells right from wrong answers, with intervals; None where not known."""
    found = {name: e.summary.get("tas_by_layer") for name, e in policies.items() if e is not None}
    found = {name: figures["by_layer"] for name, figures in found.items() if figures}
    found = {name: [row for row in rows if row.get("auc") is not None] for name, rows in found.items()}
    if not any(found.values()):
        return None

    def draw(axes: Axes) -> None:
        for index, (name, rows) in enumerate(found.items()):
            layers = np.array([row["layer"] for row in rows]) + 0.12 * (index - (len(found) - 1) / 2)
            middle = np.array([row["auc"] for row in rows])
            ends = np.array([row["auc_interval"] or [row["auc"]] * 2 for row in rows])
            spread = np.abs(ends.T - middle) if len(rows) else None
            color = COLORS[index % len(COLORS)]
            axes.errorbar(layers, middle, yerr=spread, fmt="o", color=color, markersize=5, label=_label(name))
        axes.axhline(0.5, color="#94a3b8", linewidth=1, linestyle=":")
        axes.set_xlabel("decoder layer")
        axes.set_ylabel("AUC")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(found) > 1:  # below: several policies' points and intervals leave no free corner
            axes.figure.legend(loc="outside lower center", ncols=2, fontsize=9, columnspacing=1, handletextpad=0.2)

    caption = "Chance that a right answer has the larger TAS, with its 95% interval; 0.5: this layer does not tell."
    return Chart("Which layer tells right from wrong", _svg(draw), caption)


def _logged(runs: Sequence[Run], key: str) -> bool:
    return any(len(run.series(key)[0]) for run in runs)


def _curve(runs: Sequence[Run], key: str, title: str, caption: str) -> Chart:
    def draw(axes: Axes) -> None:
        for index, run in enumerate(runs):
            _line(axes, *run.series(key), COLORS[index % len(COLORS)], run.name)
            _held_out(axes, run, key, COLORS[index % len(COLORS)])
        _finish(axes, legend=len(runs) > 1)

    return Chart(title, _svg(draw), caption + _dashes(runs, [key]))


def _held_out(axes: Axes, run: Run, key: str, color: str) -> None:
    """What the trainer's own evaluations during training logged under the same name."""
    steps, values = run.series(f"eval_{key}")
    axes.plot(steps, values, color=color, linewidth=1.4, linestyle="--", marker="o", markersize=4)


def _dashes(runs: Sequence[Run], keys: Sequence[str]) -> str:
    return " Dashed: held out, during training." if any(_logged(runs, f"eval_{key}") for key in keys) else ""


def _share_charts(runs: Sequence[Run]) -> list[Chart]:
    """How much of the gradient each reward makes: all parts of a single run, or one chart per part of several."""
    key, title = "gradient_share/", "Share of the gradient"
    parts = list(dict.fromkeys(part for run in runs for part in run.reward_parts()))  # in the colours of the rewards
    parts = [part for part in parts if _logged(runs, f"{key}{part}")]
    if len(runs) > 1:
        caption = "Part of the advantages that this reward makes."
        return [_curve(runs, f"{key}{part}", f"{title}: {part}", caption) for part in parts]

    def draw(axes: Axes) -> None:
        for index, part in enumerate(parts):
            _line(axes, *runs[0].series(f"{key}{part}"), COLORS[index % len(COLORS)], part)
        axes.set_ylim(0, 1)
        _finish(axes, legend=True)

    caption = "Part of the advantages that each reward makes; together 1."
    return [Chart(title, _svg(draw), caption)] if parts else []


def _reward_charts(runs: Sequence[Run]) -> list[Chart]:
    """One chart of all parts for a single run; one chart per part, with the runs in it, for several."""
    parts = list(dict.fromkeys(part for run in runs for part in run.reward_parts()))
    if len(runs) == 1 and len(parts) > 1:
        accuracy = runs[0].accuracy_part()
        own = [_curve(runs, f"rewards/{accuracy}/mean", "Accuracy", "Of the sampled completions.")] if accuracy else []
        return [_parts_of_one_run(runs[0], parts), *own]
    charts = []
    for part in parts:

        def draw(axes: Axes, part: str = part) -> None:
            for index, run in enumerate(runs):
                _with_spread(axes, run, part, COLORS[index % len(COLORS)], run.name)
            _finish(axes, legend=len(runs) > 1)

        caption = "Mean of the batch; the band is one standard deviation." + _dashes(runs, [f"rewards/{part}/mean"])
        charts.append(Chart(f"Reward: {part}", _svg(draw), caption))
    return charts


def _parts_of_one_run(run: Run, parts: Sequence[str]) -> Chart:
    def draw(axes: Axes) -> None:
        for index, part in enumerate(parts):
            _with_spread(axes, run, part, COLORS[index % len(COLORS)], part)
        _finish(axes, legend=True)

    caption = "Mean of the batch before weights; the bands are one standard deviation."
    return Chart("Reward by part", _svg(draw), caption + _dashes([run], [f"rewards/{part}/mean" for part in parts]))


def _with_spread(axes: Axes, run: Run, part: str, color: str, label: str) -> None:
    steps, means = run.series(f"rewards/{part}/mean")
    spread = dict(zip(*run.series(f"rewards/{part}/std"), strict=True))
    if len(steps) and spread:
        width = smooth(np.array([spread.get(step, np.nan) for step in steps]))
        middle = smooth(means)
        axes.fill_between(steps, middle - width, middle + width, color=color, alpha=0.1, linewidth=0)
    _line(axes, steps, means, color, label)
    _held_out(axes, run, f"rewards/{part}/mean", color)


def _looking_and_answering(runs: Sequence[Run]) -> list[Chart]:
    """Attention on the region against accuracy, step by step: does looking right go with answering right?"""
    key = "attention/tas" if _logged(runs, "attention/tas") else "attention/region_ratio"
    paths = []
    for run in runs:
        accuracy = dict(zip(*run.series(f"rewards/{run.accuracy_part()}/mean"), strict=True))
        steps, looks = run.series(key)
        both = [(look, accuracy[step]) for step, look in zip(steps, looks, strict=True) if step in accuracy]
        if len(both) > 1:
            paths.append((run.name, *(smooth(np.array(values)) for values in zip(*both, strict=True))))
    if not paths:
        return []

    def draw(axes: Axes) -> None:
        for index, (name, looks, right) in enumerate(paths):
            color = COLORS[index % len(COLORS)]
            axes.plot(looks, right, color=color, linewidth=1.4, label=_label(name))
            axes.scatter(looks[:1], right[:1], facecolor="white", edgecolor=color, s=36, zorder=3)
            axes.scatter(looks[-1:], right[-1:], color=color, s=36, zorder=3)
        axes.set_xlabel("target attention score" if key.endswith("tas") else "attention on the region")
        axes.set_ylabel("accuracy")
        if len(paths) > 1:
            axes.legend()

    return [Chart("Looking and answering", _svg(draw), "The path of training, from the open circle to the full one.")]


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a twentieth of the series (at least 1 value); NaN is skipped, the ends are shorter."""
    half = len(values) // 40
    if half == 0:
        return values
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.nanmean(window) if np.isfinite(window).any() else np.nan for window in windows])


def _line(axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    if not len(steps):
        return
    smoothed = smooth(values)
    if smoothed is not values:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, smoothed, color=color, linewidth=1.8, marker=marker, label=_label(label))


def _label(text: str) -> str:
    """matplotlib hides labels that begin with an underscore."""
    text = text if len(text) <= 28 else f"{text[:27]}…"
    return f" {text}" if text.startswith("_") else text


def _finish(axes: Axes, legend: bool) -> None:
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend()


def _svg(draw: Callable[[Axes], None]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
