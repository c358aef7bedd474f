"""Before and after: the same question to two models, and how far their attention drifts over a response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.layers import LayerSpec
from sayo.attention.trace import Rows
from sayo.evaluation.rollouts import completion_mask, processor_inputs, read_attention, sample_completions
from sayo.look.look import Look
from sayo.look.picture import (
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

MODEL_COLORS = ("#64748b", "#d55e00", "#0072b2", "#009e73")
FEWEST = 5  # responses that a mean needs to be drawn


def save_comparison(looks: Mapping[str, Look], path: str | Path, rows: Rows = "deciding", dpi: int = 200) -> Path:
    """One row per model: picture, whole-response map of each view, response coloured by attention on the target.

    Args:
        looks: label ("before", "after") -> the same question and image, with regions.
    """
    first = next(iter(looks.values()))
    panels = {label: [*picture_panels(look), *view_panels(look, rows)] for label, look in looks.items()}
    side, text_width = 1.7, 4.8
    width = text_width + side * len(panels[next(iter(looks))])
    columns = columns_of(text_width)
    figure = new_figure(width, (side + 0.35) * len(looks) + 0.4, dpi)
    figure.suptitle(plain(first.question, 100), fontsize=9)
    ratios = [side] * len(panels[next(iter(looks))]) + [text_width]
    grid = figure.subplots(len(looks), len(ratios), squeeze=False, width_ratios=ratios)
    for axes, (label, look) in zip(grid, looks.items(), strict=True):
        for ax, panel in zip(axes, panels[label], strict=False):
            draw_panel(ax, look, *panel)
        pooled = pooled_attention(look.trace, rows)
        title = f"{label}: target attention score {tas(pooled.target, pooled.image):.2f}"
        lines = response_lines(look, columns)
        # The panel beside it is `side` inches high: keep the lines as high as they are in any other picture.
        draw_response(axes[-1], look, lines, columns, rows, title=title, height=max(len(lines), side / 0.17))
    return save(figure, path)


def greedy_traces(
    model: nn.Module,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    layers: LayerSpec = "all",
    max_new_tokens: int = 256,
    batch_size: int = 32,
) -> list[AttentionTrace]:
    """Traces of greedy responses to prepared rows, with the rows' regions as targets."""
    capture = AttentionCapture(model, layers=layers)
    traces: list[AttentionTrace] = []
    for start in range(0, len(rows), batch_size):
        batch = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
        inputs = processor_inputs(processor, batch, model.device)
        ids = sample_completions(model, processor, inputs, max_new_tokens, temperature=0.0)
        mask = completion_mask(ids, model.generation_config.eos_token_id)
        traces += read_attention(model, capture, inputs, ids, mask, batch)
    return traces


def drift(traces: Sequence[AttentionTrace], rows: Rows = "deciding") -> dict[str, np.ndarray]:
    """Means over responses at each response token, as long as at least `FEWEST` responses last.

    Returns:
        name -> `(tokens, 2)`: mean and half a 95% interval (1.96 standard errors). "image": share of all attention on
        the image; "target": attention per target token relative to a mean visual token (1 = no preference).
    """
    curves: dict[str, list[np.ndarray]] = {"image": [], "target": []}
    for trace in traces:
        curves["image"].append(trace.mass("image", rows).mean(axis=0))
        if trace.has_region:
            target, image = (trace.mean(name, rows).mean(axis=0) for name in ("target", "image"))
            curves["target"].append(target / image)
    return {name: _mean_curve(parts) for name, parts in curves.items()}


def save_drift(curves: Mapping[str, Mapping[str, np.ndarray]], path: str | Path, dpi: int = 200) -> Path:
    """Attention on the image and on the target over the response, one line per model.

    Args:
        curves: label -> result of `drift`.
    """
    figure = new_figure(7.5, 2.7, dpi)
    titles = {"image": "share of attention on the image (%)", "target": "target token / mean visual token"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        factor = 100 if name == "image" else 1
        for (label, curve), color in zip(curves.items(), MODEL_COLORS, strict=False):
            tokens, (mean, half) = np.arange(1, len(curve[name]) + 1), factor * curve[name].T
            axes.plot(tokens, mean, color=color, lw=1.6, label=label)
            axes.fill_between(tokens, mean - half, mean + half, color=color, alpha=0.18, lw=0)
        if name == "target":
            axes.axhline(1, color="#94a3b8", lw=1, ls=":")
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=8, loc="left")
        axes.set_xlabel("response token", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    return save(figure, path)


def _mean_curve(parts: Sequence[np.ndarray]) -> np.ndarray:
    longest = max((len(part) for part in parts), default=0)
    points = []
    for token in range(longest):
        values = np.array([part[token] for part in parts if len(part) > token])
        if len(values) < FEWEST:
            break
        points.append((values.mean(), 1.96 * values.std(ddof=1) / np.sqrt(len(values))))
    if not points:
        raise ValueError(f"fewer than {FEWEST} responses to average: ask more questions (--num-questions)")
    return np.array(points)
