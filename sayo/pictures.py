"""Attention drawn over the image that it belongs to."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sayo.attention.trace import AttentionTrace, Rows, select_rows
from sayo.geometry import VisualCells

COLORMAP = "inferno"
REGION_COLORS = {"answer": "#22c55e", "evidence": "#f59e0b"}


def response_map(trace: AttentionTrace, rows: Rows = "deciding") -> np.ndarray:
    """`(N,)` attention of the response on each visual token: mean over layers, rows weighted by their entropy.

    The entropy weights follow SAYO's argument: where the model hesitates, looking decides. A response without any
    entropy (greedy and certain) is averaged evenly.

    Raises:
        ValueError: the trace was read without maps, or the response is empty.
    """
    if trace.maps is None or len(trace) == 0:
        raise ValueError("There is no map: read the trace with an image index, and of a non-empty response.")
    weights = trace.entropy if trace.entropy.sum() > 0 else None
    return np.average(select_rows(trace.maps, rows).mean(axis=0), axis=0, weights=weights)


def raster(cells: VisualCells, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Paint one value per visual token onto a `(height, width)` float array; views that overlap are added up.

    Args:
        cells: footprints in original pixels.
        values: `(N,)`.
        size: `(width, height)` of the result.
    """
    width, height = size
    scale = np.array([width / cells.image_size[0], height / cells.image_size[1]] * 2)
    heat = np.zeros((height, width))
    real = ~np.isnan(cells.footprints).any(axis=1)
    boxes = np.rint(cells.footprints[real] * scale).astype(int)
    for (left, top, right, bottom), value in zip(boxes, np.asarray(values)[real], strict=True):
        heat[max(top, 0) : bottom, max(left, 0) : right] += value
    return heat


def save_sheet(panels: Sequence[Mapping], path: str | Path, title: str) -> None:
    """Write a sheet with one column per panel: the picture with its regions, below it where the response looked.

    Args:
        panels: mappings with `image` (PIL), `cells`, `map` (`(N,)`), `regions` (`box` in pixels xyxy, `role`),
            `question`, `completion` and `caption`.
        path: where the PNG goes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.0 * len(panels), 6.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for (above, below), panel in zip(figure.subplots(2, len(panels), squeeze=False).T, panels, strict=True):
        _draw_picture(above, panel)
        _draw_attention(below, panel)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # an untrained policy may say anything, fonts may not
        figure.savefig(path, format="png")


def _draw_picture(axes, panel: Mapping) -> None:
    axes.imshow(panel["image"].convert("RGB"), extent=_extent(panel))
    _draw_regions(axes, panel["regions"])
    axes.set_title(_wrapped(panel["question"], 36), fontsize=8)


def _draw_attention(axes, panel: Mapping) -> None:
    # The picture in grey below, so that every colour is attention.
    axes.imshow(panel["image"].convert("L"), extent=_extent(panel), cmap="gray", vmin=0, vmax=255)
    heat = raster(panel["cells"], panel["map"], panel["image"].size)
    axes.imshow(heat, extent=_extent(panel), cmap=COLORMAP, alpha=0.6, vmin=0, vmax=max(float(heat.max()), 1e-12))
    _draw_regions(axes, panel["regions"])
    axes.text(
        0.5,
        -0.03,
        f"{_wrapped(panel['completion'][:200], 44)}\n{panel['caption']}",
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=7,
    )


def _draw_regions(axes, regions: Sequence[Mapping]) -> None:
    from matplotlib.patches import Rectangle

    for region in regions:
        left, top, right, bottom = region["box"]
        color = REGION_COLORS.get(region["role"], "white")
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=2))
    axes.set_axis_off()


def _extent(panel: Mapping) -> tuple[int, int, int, int]:
    width, height = panel["image"].size
    return 0, width, height, 0


def _wrapped(text: str, width: int) -> str:
    # Model output is text, never mathematics: a dollar sign must not start TeX.
    return textwrap.fill("".join(c if c.isprintable() else " " for c in text), width).replace("$", r"\$")
