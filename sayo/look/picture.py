"""The page's content as one picture for papers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sayo.attention.trace import Rows, select_rows
from sayo.draw import COLORMAP, REGION_COLORS, raster, response_map
from sayo.geometry import VisualCells
from sayo.look.look import Look
from sayo.look.payload import panels_of

SHARE_COLORS = {"region": "#d55e00", "image": "#0072b2", "question": "#009e73", "response": "#7c5295"}
LABELS = {"response": "response so far"}
MAX_LINES = 14
TEXT_POINTS, LINE_INCHES = 8.0, 0.17
CHARACTER_INCHES = TEXT_POINTS * 0.602 / 72  # DejaVu Sans Mono


def save_picture(look: Look, path: str | Path, rows: Rows = "deciding", dpi: int = 200) -> Path:
    """Write a PNG (or PDF, by the suffix): the picture, the whole-response map of every view, the three tokens that
    looked most at the target (or the image), the coloured response and the shares over it.

    Args:
        rows: which reading of attention at a token.
    """
    panels = [*picture_panels(look), *view_panels(look, rows), *_token_panels(look, rows)]
    width = max(1.7 * len(panels), 7.0)
    columns = columns_of(width)
    lines = response_lines(look, columns)
    heights = [width / len(panels) + 0.6, LINE_INCHES * len(lines) + 0.3, 2.0]
    figure = new_figure(width, sum(heights), dpi)
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=heights)
    for axes, panel in zip(top.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_panel(axes, look, *panel)
    top.suptitle(plain(look.question, 110), fontsize=9)
    draw_response(middle.subplots(), look, lines, columns, rows)
    _draw_trend(bottom.subplots(), look, rows)
    return save(figure, path)


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """An empty figure in inches, independent of pyplot's state."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write the figure, making its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a response may hold any script, fonts may not
        figure.savefig(path)
    return path


def view_panels(look: Look, rows: Rows) -> list[tuple]:
    """(title, image, cells, values) of the whole-response map of every view, as `draw_panel` takes them."""
    whole, views, panels = response_map(look.trace, rows), list(panels_of(look)), []
    for image, view, place, inside in views:
        several = sum(other[0] == image for other in views) > 1
        title = "whole response" + ("" if not several else ", whole picture" if view == 0 else ", tiles")
        panels.append((title, image, _only(look.cells[image], inside), whole[place][inside]))
    return panels


def picture_panels(look: Look) -> list[tuple]:
    """(title, image, None, None) of every image, as `draw_panel` takes them."""
    several = len(look.images) > 1
    return [(f"image {index + 1}" if several else "image", index, None, None) for index in range(len(look.images))]


def _token_panels(look: Look, rows: Rows, how_many: int = 3) -> list[tuple]:
    """The words that looked most at the target (or the image), where one view shows all of a map."""
    views = list(panels_of(look))
    if len(views) > 1:
        return []
    _, _, place, inside = views[0]
    maps = select_rows(look.maps, rows).mean(axis=0)
    values = select_rows(look.shares[_colored(look)], rows).mean(axis=0)
    words = [index for index, text in enumerate(look.tokens) if text.strip() and not look.special[index]]
    most = sorted(sorted(words, key=lambda index: -values[index])[:how_many])
    titles = [f"token {token + 1} “{plain(look.tokens[token].strip(), 14)}”" for token in most]
    cells = _only(look.cells[0], inside)
    return [(title, 0, cells, maps[token][place][inside]) for title, token in zip(titles, most, strict=True)]


def _colored(look: Look) -> str:
    return "region" if "region" in look.shares else "image"


def _only(cells: VisualCells, inside: np.ndarray) -> VisualCells:
    return VisualCells(cells.footprints[inside], cells.views[inside], cells.image_size)


def draw_panel(
    axes: Axes,
    look: Look,
    title: str,
    index: int,
    cells: VisualCells | None,
    values: np.ndarray | None,
    peak: float | None = None,
) -> None:
    """A picture with its regions; with cells `(n)` and values `(n,)`, in grey below the map.

    `peak` is the value of the brightest colour: that of the map's own maximum, if None.
    """
    image = look.images[index]
    extent = (0, image.width, image.height, 0)
    if cells is None:
        axes.imshow(image, extent=extent)
    else:  # the picture in grey below, so that every colour is attention
        axes.imshow(image.convert("L"), extent=extent, cmap="gray", vmin=0, vmax=255)
        size = tuple(max(side, round(side * 512 / max(image.size))) for side in image.size)
        heat = raster(cells, values, size) / max(peak or float(values.max()), 1e-12)
        axes.imshow(heat, extent=extent, cmap=COLORMAP, alpha=0.4 + 0.35 * np.clip(heat, 0, 1), vmin=0, vmax=1)
    for region in look.regions:
        if region["image"] == index:
            left, top, right, bottom = region["box"]
            box = Rectangle((left, top), right - left, bottom - top, fill=False, lw=1.6, ec=REGION_COLORS["answer"])
            axes.add_patch(box)
    highest = "" if values is None else f"\nmax {values.max():.2%}"
    axes.set_title(f"{title}{highest}", fontsize=7)
    axes.set_axis_off()


def response_lines(look: Look, columns: int) -> list[list[tuple[int, str]]]:
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


def columns_of(width: float) -> int:
    """Characters on a line of `width` inches."""
    return int(0.97 * width / CHARACTER_INCHES)


def draw_response(
    axes: Axes,
    look: Look,
    lines: list[list[tuple[int, str]]],
    columns: int,
    rows: Rows,
    title: str | None = None,
    height: float | None = None,
) -> None:
    """The response as text coloured by attention on the region (or the image).

    Args:
        lines: as of `response_lines`.
        height: of the axes, in lines; None if the lines fill them.
    """
    name = _colored(look)
    values = select_rows(look.shares[name], rows).mean(axis=0)
    peak = max(float(values.max()), 1e-12)
    axes.set(xlim=(0, columns), ylim=(height or len(lines), 0))
    axes.set_axis_off()
    for row, line in enumerate(lines):
        column = 0
        for token, text in line:
            color = to_rgba(SHARE_COLORS[name], 0.72 * values[token] / peak)
            axes.add_patch(Rectangle((column, row + 0.04), len(text), 0.92, color=color, lw=0))
            # Fonts may lack a script, or draw it wider: such characters are placed one by one, each in its cell.
            pieces = [(0, text)] if text.isascii() else enumerate(text)
            for offset, piece in pieces:
                place = (column + offset + len(piece) / 2, row + 0.54, piece.replace("$", r"\$"))
                written = axes.text(*place, family="monospace", fontsize=TEXT_POINTS, ha="center", va="center")
                written.set_in_layout(False)
            column += len(text)
    layers = f"layer {look.layers[0]}" if len(look.layers) == 1 else f"mean of {len(look.layers)} layers"
    legend = f"colour: attention on the {name}, 0 to {peak:.2%} ({rows} rows, {layers})"
    axes.set_title(legend if title is None else f"{title}\n{legend}", fontsize=7, loc="left")


def _draw_trend(axes: Axes, look: Look, rows: Rows) -> None:
    for name, color in SHARE_COLORS.items():
        if name in look.shares:
            values = 100 * select_rows(look.shares[name], rows).mean(axis=0)
            axes.plot(np.arange(1, len(values) + 1), values, color=color, lw=1.4, label=LABELS.get(name, name))
    axes.set_xlabel("response token", fontsize=8)
    axes.set_ylabel("share of attention (%)", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))


def plain(text: str, width: int) -> str:
    """One line of printable characters, cut to `width`."""
    text = "".join(character if character.isprintable() else "�" for character in text.replace("\n", " "))
    return text if len(text) <= width else text[: width - 1] + "…"
