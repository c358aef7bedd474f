"""Attention drawn over the image that it belongs to."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

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
    """Write a sheet of panels, each the image with its attention, its regions and the words said about it.

    Args:
        panels: mappings with `image` (PIL), `cells`, `map` (`(N,)`), `regions` (`box` in pixels xyxy, `role`),
            `question`, `completion` and `caption`.
        path: where the PNG goes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(panels), 4.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel)
    figure.savefig(path, format="png")


def _draw(axes, panel: Mapping) -> None:
    from matplotlib.patches import Rectangle

    image: Image.Image = panel["image"].convert("RGB")
    extent = (0, image.width, image.height, 0)
    axes.imshow(image, extent=extent)
    heat = raster(panel["cells"], panel["map"], image.size)
    axes.imshow(heat, extent=extent, cmap=COLORMAP, alpha=0.55, vmin=0, vmax=max(float(heat.max()), 1e-12))
    for region in panel["regions"]:
        left, top, right, bottom = region["box"]
        color = REGION_COLORS.get(region["role"], "white")
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=2))
    axes.set_axis_off()
    axes.set_title(textwrap.fill(panel["question"], 38), fontsize=8)
    words = "\n".join(textwrap.fill(part, 46) for part in (panel["completion"][:300], panel["caption"]))
    # Model output is text, never mathematics: a dollar sign must not start TeX.
    axes.text(0.5, -0.03, words.replace("$", r"\$"), transform=axes.transAxes, ha="center", va="top", fontsize=7)
