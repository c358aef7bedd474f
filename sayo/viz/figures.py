"""Pictures for papers: one question to one model, or to several (before and after training)."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.patches import Rectangle

from sayo.draw import DARKEST, draw_picture, new_figure, plain, response_map, spotlight
from sayo.metrics.region import pooled_attention, tas

if TYPE_CHECKING:
    from sayo.viz.look import Look

BRIGHTNESS = LinearSegmentedColormap.from_list("spotlight", [(1 - DARKEST,) * 3, (1.0,) * 3])
TOKEN_COLORS = {"region": "#d55e00", "image": "#0072b2"}
SIDE_INCHES = 1.9
MAX_LINES = 14
TEXT_POINTS, LINE_INCHES = 8.0, 0.17
CHARACTER_INCHES = TEXT_POINTS * 0.602 / 72  # DejaVu Sans Mono


def save_looks(
    looks: Mapping[str, "Look"],
    path: str | Path | IO[bytes],
    dpi: int = 200,
    token: int | None = None,
    values: np.ndarray | None = None,
) -> str | Path | IO[bytes]:
    """Draw the picture, the map of each whole response (all on one scale), and below them the responses.

    Responses are coloured by attention on the region (or the image), each up to its own maximum.

    Args:
        looks: label ("before", "after") -> the same question.
        path: `.png` or another format that matplotlib writes, or an open file.
        token: draw the map of this response token instead.
        values: draw these `(N,)` values of the visual tokens instead.

    Returns:
        `path`.
    """
    first, several = next(iter(looks.values())), len(looks) > 1
    drawn = {label: _map(look, token) if values is None else np.asarray(values) for label, look in looks.items()}
    shown = "whole response" if token is None else f"token {token + 1}: {plain(first.tokens[token], 20)}"
    unit = "values given" if values is not None else "attention on a visual token (%)"
    maps = [(label, view, drawn[label][view.tokens]) for label, look in looks.items() for view in look.views()]
    peak = max(float(seen.max()) for *_, seen in maps)
    images = [
        ("image" if len(first.images) == 1 else f"image {index + 1}", index) for index in range(len(first.images))
    ]
    panels = [(title, first, index, None) for title, index in images]
    for label, view, seen in maps:
        title = ", ".join(filter(None, [shown if values is None else unit, view.title]))
        title = f"{f'{label}: ' if several else ''}{title}\nmax {seen.max():{'.2%' if values is None else '.3g'}}"
        panels.append((title, looks[label], view.image, spotlight(view.cells, seen, peak)))
    width = max(SIDE_INCHES * len(panels) + 0.7, 7.0)
    columns = int(0.97 * width / CHARACTER_INCHES)
    texts = {label: _lines(look, columns) for label, look in looks.items()}
    tallest = max(image.height / image.width for image in first.images)
    heights = [SIDE_INCHES * min(tallest, 1.3) + 0.75, *(LINE_INCHES * len(lines) + 0.4 for lines in texts.values())]
    with new_figure(path, width, sum(heights), dpi) as figure:
        top, *below = figure.subfigures(len(heights), 1, height_ratios=heights)
        top.suptitle(plain(first.question, 110), fontsize=9)
        grid = top.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, look, index, veil) in zip(grid, panels, strict=True):
            regions = [{**region, "role": "answer"} for region in look.regions if region["image"] == index]
            draw_picture(axes, look.images[index], regions, veil)
            axes.set_title(title, fontsize=7)
        scale = ScalarMappable(Normalize(0, peak if values is not None else 100 * peak), BRIGHTNESS)
        top.colorbar(scale, ax=list(grid), fraction=0.03, pad=0.01).set_label(unit, fontsize=7)
        for part, (label, look) in zip(below, looks.items(), strict=True):
            _draw_response(part.subplots(), look, texts[label], columns, label if several else None)
    return path


def _map(look: "Look", token: int | None) -> np.ndarray:
    """`(N,)` attention of a response token, or of the whole response."""
    return response_map(look.trace) if token is None else look.trace.map("deciding").mean(axis=0)[token]


def _lines(look: "Look", columns: int) -> list[list[tuple[int, str]]]:
    """The response cut into lines of (token, text) pieces; at most `MAX_LINES`, with an ellipsis where it is cut."""
    lines: list[list[tuple[int, str]]] = [[]]
    width = 0
    for index, text in enumerate(look.tokens):
        for number, piece in enumerate(text.split("\n")):
            shown = plain(piece, columns)
            if number or width + len(shown) > columns:
                lines.append([])
                width = 0
            lines[-1].append((index, shown))
            width += len(shown)
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], [(lines[MAX_LINES][0][0] if lines[MAX_LINES] else 0, "…")]]
    return lines


def _draw_response(
    axes: Axes, look: "Look", lines: list[list[tuple[int, str]]], columns: int, label: str | None
) -> None:
    values = look.trace.mass(look.colored, "deciding").mean(axis=0)
    peak = max(float(values.max()), 1e-12)
    axes.set(xlim=(0, columns), ylim=(len(lines), 0))
    axes.set_axis_off()
    for row, line in enumerate(lines):
        column = 0
        for token, text in line:
            color = to_rgba(TOKEN_COLORS[look.colored], 0.72 * values[token] / peak)
            axes.add_patch(Rectangle((column, row + 0.04), len(text), 0.92, color=color, lw=0))
            # Fonts may lack a script, or draw it wider: such characters are placed one by one, each in its cell.
            for offset, piece in [(0, text)] if text.isascii() else enumerate(text):
                place = (column + offset + len(piece) / 2, row + 0.54, piece)
                written = axes.text(*place, family="monospace", fontsize=TEXT_POINTS, ha="center", va="center")
                written.set_in_layout(False)
            column += len(text)
    layers = (
        f"layer {look.trace.layers[0]}" if len(look.trace.layers) == 1 else f"mean of {len(look.trace.layers)} layers"
    )
    legend = f"colour: attention on the {look.colored}, 0 to {peak:.2%} (deciding rows, {layers})"
    if label is not None and look.colored == "region":
        pooled = pooled_attention(look.trace, "deciding", "entropy_weighted")
        legend = f"{label}: target attention score {tas(pooled.region, pooled.image):.2f}\n{legend}"
    axes.set_title(legend, fontsize=7, loc="left")
