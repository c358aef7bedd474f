"""The picture of one response, for papers."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.patches import Rectangle

from sayo.draw import COLORMAP, draw_picture, heat_map, new_figure, plain, response_map
from sayo.viz.look import Look

TOKEN_COLORS = {"region": "#d55e00", "image": "#0072b2"}
SIDE_INCHES = 1.9
MAX_LINES = 14
TEXT_POINTS, LINE_INCHES = 8.0, 0.17
CHARACTER_INCHES = TEXT_POINTS * 0.602 / 72  # DejaVu Sans Mono


def save_look(look: Look, path: str | Path, dpi: int = 200) -> Path:
    """Draw the pictures, the map of the whole response, and below them the response.

    The response is coloured by attention on the region (or the image), up to its own maximum.

    Args:
        path: `.png` or another format that matplotlib writes.
    """
    whole = response_map(look.trace)
    maps = [(view, whole[view.tokens]) for view in look.views()]
    peak = max(float(values.max()) for _, values in maps)
    one = len(look.images) == 1
    panels = [("image" if one else f"image {index + 1}", index, None) for index in range(len(look.images))]
    for view, values in maps:
        title = f"{', '.join(filter(None, ['whole response', view.title]))}\nmax {values.max():.2%}"
        panels.append((title, view.image, heat_map(view.cells, values, peak)))
    width = max(SIDE_INCHES * len(panels) + 0.7, 7.0)
    columns = int(0.97 * width / CHARACTER_INCHES)
    lines = _lines(look, columns)
    tallest = max(image.height / image.width for image in look.images)
    heights = [SIDE_INCHES * min(tallest, 1.3) + 0.75, LINE_INCHES * len(lines) + 0.4]
    with new_figure(path, width, sum(heights), dpi) as figure:
        top, below = figure.subfigures(2, 1, height_ratios=heights)
        top.suptitle(plain(look.question, 110), fontsize=9)
        grid = top.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, index, heat) in zip(grid, panels, strict=True):
            regions = [{**region, "role": "answer"} for region in look.regions if region["image"] == index]
            draw_picture(axes, look.images[index], regions, heat)
            axes.set_title(title, fontsize=7)
        bar = top.colorbar(ScalarMappable(Normalize(0, 100 * peak), COLORMAP), ax=list(grid), fraction=0.03, pad=0.01)
        bar.set_label("attention on a visual token (%)", fontsize=7)
        _draw_response(below.subplots(), look, lines, columns)
    return Path(path)


def _lines(look: Look, columns: int) -> list[list[tuple[int, str]]]:
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


def _draw_response(axes: Axes, look: Look, lines: list[list[tuple[int, str]]], columns: int) -> None:
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
    axes.set_title(legend, fontsize=7, loc="left")
