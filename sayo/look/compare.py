"""Before and after: the same question to two models, and how far their attention drifts over a response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import nn

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.layers import LayerSpec
from sayo.attention.trace import Rows
from sayo.draw import COLORMAP
from sayo.evaluation.rollouts import completion_mask, processor_inputs, read_attention, sample_completions
from sayo.look.look import Look
from sayo.look.picture import (
    LINE_INCHES,
    columns_of,
    draw_panel,
    draw_response,
    new_figure,
    picture_panels,
    plain,
    response_lines,
    save,
    view_panels,
)
from sayo.metrics.region import pooled_attention, tas

GREY = "#64748b"
MODEL_COLORS = ("#0072b2", "#d55e00", "#009e73", GREY)  # Okabe and Ito's palette, and grey
MARKERS = "os^D"
FEWEST = 5  # responses that a mean needs to be drawn


def save_comparison(looks: Mapping[str, Look], path: str | Path, rows: Rows = "deciding", dpi: int = 200) -> Path:
    """The picture, the whole-response map of every model on one scale, and below their responses.

    Responses are coloured by attention on the region, each up to its own maximum.

    Args:
        looks: label ("before", "after") -> the same question and image, with regions.
    """
    first = next(iter(looks.values()))
    maps = [(label, look, panel) for label, look in looks.items() for panel in view_panels(look, rows)]
    peak = max(float(values.max()) for _, _, (_, _, _, values) in maps)
    panels = [(None, first, panel) for panel in picture_panels(first)] + maps
    side, width = 1.9, max(1.9 * len(panels) + 0.7, 7.0)
    columns = columns_of(width)
    lines = {label: response_lines(look, columns) for label, look in looks.items()}
    heights = [side + 0.75, *(LINE_INCHES * len(own) + 0.35 for own in lines.values())]
    figure = new_figure(width, sum(heights), dpi)
    top, *below = figure.subfigures(len(heights), 1, height_ratios=heights)
    top.suptitle(plain(first.question, 110), fontsize=9)
    grid = top.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, look, panel) in zip(grid, panels, strict=True):
        draw_panel(axes, look, *panel, peak=peak)
        if label is not None:
            axes.set_title(f"{label}: {panel[0]}", fontsize=8)
    scale = ScalarMappable(Normalize(0, 100 * peak), COLORMAP)
    bar = top.colorbar(scale, ax=list(grid), fraction=0.03, pad=0.01)
    bar.set_label("attention on a visual token (%)", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    for part, (label, look) in zip(below, looks.items(), strict=True):
        pooled = pooled_attention(look.trace, rows)
        title = f"{label}: target attention score {tas(pooled.region, pooled.image):.2f}"
        draw_response(part.subplots(), look, lines[label], columns, rows, title=title)
    return save(figure, path)


def sampled_traces(
    model: nn.Module,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    layers: LayerSpec = "all",
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    batch_size: int = 32,
) -> list[AttentionTrace]:
    """Traces of one sampled response to each prepared row (greedy at temperature 0), without their maps.

    The rows' regions are the targets.
    """
    capture = AttentionCapture(model, layers=layers)
    traces: list[AttentionTrace] = []
    for start in range(0, len(rows), batch_size):
        batch = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
        inputs = processor_inputs(processor, batch, model.device)
        ids = sample_completions(model, processor, inputs, max_new_tokens, temperature)
        mask = completion_mask(ids, model.generation_config.eos_token_id)
        # Without the maps, which for a real model are gigabytes that no curve needs.
        read = read_attention(model, capture, inputs, ids, mask, batch, temperature)
        traces += [replace(trace, maps=None) for trace in read]
    return traces


def drift(
    traces: Sequence[AttentionTrace], rows: Rows = "deciding", tokens_per_point: int = 1
) -> dict[str, np.ndarray]:
    """Means over responses along the response, as long as at least `FEWEST` responses last.

    Args:
        tokens_per_point: consecutive tokens of a response that are averaged first.

    Returns:
        name -> `(points, 3)`: response token (from 1; the middle of those averaged), mean and half a 95% interval
        (1.96 standard errors over responses). "image": share of all attention on the image; "region": attention per
        target token relative to a mean visual token (1 = no preference).

    Raises:
        ValueError: too few responses to average.
    """
    curves: dict[str, list[np.ndarray]] = {"image": [], "region": []}
    for trace in traces:
        curves["image"].append(trace.mass("image", rows).mean(axis=0))
        if trace.has_region:
            region, image = (trace.mean(name, rows).mean(axis=0) for name in ("region", "image"))
            curves["region"].append(region / image)
    return {name: _mean_curve(parts, tokens_per_point) for name, parts in curves.items()}


def points_of(traces: Sequence[AttentionTrace], most: int = 20) -> int:
    """Tokens per point for curves of at most `most` points over the longest response."""
    return max(1, -(-max(map(len, traces), default=1) // most))


def save_drift(curves: Mapping[str, Mapping[str, np.ndarray]], path: str | Path, dpi: int = 200) -> Path:
    """Attention on the image and on the target over the response, one line per model.

    Args:
        curves: label -> result of `drift`.
    """
    figure = new_figure(7.5, 2.9, dpi)
    titles = {"image": "attention on the image (% of a row)", "region": "region token / mean visual token"}
    panels = figure.subplots(1, 2)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        factor = 100 if name == "image" else 1
        for (label, curve), color, marker in zip(curves.items(), MODEL_COLORS, MARKERS, strict=False):
            tokens, mean, half = curve[name].T * np.array([[1], [factor], [factor]])
            axes.plot(tokens, mean, color=color, lw=1.6, marker=marker, ms=3.5, label=label)
            axes.fill_between(tokens, mean - half, mean + half, color=color, alpha=0.2, lw=0)
        if name == "region":
            axes.axhline(1, color=GREY, lw=1, ls=":")
            axes.text(1, 0.02, "dotted: no preference", transform=axes.transAxes, fontsize=7, ha="right", color=GREY)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(title, fontsize=8)
        axes.set_xlabel("position in the response (token)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(curves))
    return save(figure, path)


def _mean_curve(parts: Sequence[np.ndarray], width: int) -> np.ndarray:
    longest = max((len(part) for part in parts), default=0)
    points = []
    for start in range(0, longest, width):
        values = np.array([part[start : start + width].mean() for part in parts if len(part) > start])
        if len(values) < FEWEST:
            break
        points.append((start + (1 + width) / 2, values.mean(), 1.96 * values.std(ddof=1) / np.sqrt(len(values))))
    if not points:
        raise ValueError(f"fewer than {FEWEST} responses to average: ask more questions (--num-questions)")
    return np.array(points)
