"""The one way to draw: a picture, the outlines of its regions, and the attention that lies on it."""

import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sayo.geometry import VisualCells

if TYPE_CHECKING:  # `sayo inspect` draws without torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sayo.attention.trace import AttentionTrace, Rows

DARKEST = 0.85  # of a veil: what is not looked at keeps 15% of its brightness
REGION_COLORS = {"answer": "#22c55e", "evidence": "#f59e0b"}
VIEW_TITLES = ("whole picture", "tiles")  # of `VisualCells.views`
PANEL_INCHES, PANELS_PER_LINE = 3.0, 6
LONGEST_SIDE = 512  # pixels of a veil
SMALL_SIDE = 400  # pixels of a picture whose own pixels are shown, not smoothed
STYLE = Path(__file__).with_name("draw.mplstyle")


def response_map(trace: "AttentionTrace", rows: "Rows" = "deciding") -> np.ndarray:
    """`(N,)` attention of the response on each visual token: mean over layers, rows weighted by their entropy.

    The entropy weights follow SAYO's argument: where the model hesitates, looking decides. A response without any
    entropy (greedy and certain) is averaged evenly.

    Raises:
        ValueError: the trace was read without maps, or the response is empty.
    """
    if trace.maps is None or len(trace) == 0:
        raise ValueError("There is no map: read the trace with an image index, and of a non-empty response.")
    weights = trace.entropy if trace.entropy.sum() > 0 else None
    return np.average(trace.map(rows).mean(axis=0), axis=0, weights=weights)


def raster(cells: VisualCells, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Paint `(N,)` values of visual tokens onto a `(height, width)` float array; views that overlap are added up.

    `size` is `(width, height)`; the footprints of `cells` are in original pixels.
    """
    width, height = size
    scale = np.array([width / cells.image_size[0], height / cells.image_size[1]] * 2)
    heat = np.zeros((height, width))
    real = ~np.isnan(cells.footprints).any(axis=1)
    boxes = np.rint(cells.footprints[real] * scale).astype(int)
    for (left, top, right, bottom), value in zip(boxes, np.asarray(values)[real], strict=True):
        heat[max(top, 0) : bottom, max(left, 0) : right] += value
    return heat


def spotlight(cells: VisualCells, values: np.ndarray, peak: float | None = None) -> Image.Image:
    """A black RGBA veil to lay over the picture, which keeps its own colours: the more, the brighter.

    Args:
        values: `(N,)`, one per visual token, non-negative.
        peak: the value that leaves the picture as it is; the largest of `values` if None.
    """
    width, height = cells.image_size
    scale = LONGEST_SIDE / max(width, height)
    heat = raster(cells, values, (max(1, round(width * scale)), max(1, round(height * scale))))
    heat = np.clip(heat / max(peak or float(heat.max()), 1e-12), 0, 1)
    veil = Image.new("RGBA", heat.shape[::-1])
    veil.putalpha(Image.fromarray(np.rint(255 * DARKEST * (1 - heat)).astype(np.uint8)))
    return veil


def draw_picture(
    axes: "Axes",
    image: Image.Image,
    regions: Sequence[Mapping[str, Any]] = (),
    veil: Image.Image | None = None,
    linewidth: float = 1.8,
) -> None:
    """The picture, below a `spotlight` if there is one, with its regions outlined in the colour of their role.

    Regions are mappings with `box` (xyxy in pixels of the image) and `role` (white if there is none).
    """
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    extent = (0, image.width, image.height, 0)
    axes.imshow(image.convert("RGB"), extent=extent, interpolation="nearest" if max(image.size) < SMALL_SIDE else None)
    if veil is not None:
        axes.imshow(veil, extent=extent, interpolation="nearest")
    for region in sorted(regions, key=lambda region: region.get("role") == "answer"):  # the answer on top
        left, top, right, bottom = region["box"]
        color = REGION_COLORS.get(region.get("role"), "white")
        outline = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=linewidth)
        stroke = withStroke(linewidth=1.9 * linewidth, foreground="white")  # seen on things of the same colour, too
        outline.set_path_effects([stroke])
        axes.add_patch(outline)
    axes.set_axis_off()


def save_sheet(panels: Sequence[Mapping[str, Any]], path: str | Path, title: str) -> Path:
    """Write a sheet with one column per panel: the picture with its regions, below it where the response looked.

    Args:
        panels: mappings with `image` (PIL), `cells` and `map` (`(N,)`; None draws the picture alone), `regions` (see
            `draw_picture`), `question`, `completion` and `caption`. More than `PANELS_PER_LINE` fill several lines.
        path: where the picture goes; its suffix decides the format.
    """
    columns, num_rows = min(len(panels), PANELS_PER_LINE), 1 + any(panel["map"] is not None for panel in panels)
    lines, tallest = math.ceil(len(panels) / columns), max(p["image"].height / p["image"].width for p in panels)
    height = lines * (PANEL_INCHES * min(tallest, 1.5) * num_rows + 1.3)
    with new_figure(path, PANEL_INCHES * columns, height, dpi=110) as figure:
        figure.suptitle(plain(title, wrap=45 * columns), fontsize=10)
        grid = figure.subplots(num_rows * lines, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for index, panel in enumerate(panels):
            above, below = grid[num_rows * (index // columns) :, index % columns][[0, num_rows - 1]]
            draw_picture(above, panel["image"], panel["regions"])
            above.set_title(plain(panel["question"], wrap=36))
            if panel["map"] is not None:
                draw_picture(below, panel["image"], panel["regions"], spotlight(panel["cells"], panel["map"]))
            text = f"{plain(panel['completion'][:200], wrap=44)}\n{panel['caption']}"
            y = -0.03 if num_rows == 1 or panel["map"] is not None else 1  # right below the lowest picture
            below.text(0.5, y, text, transform=below.transAxes, ha="center", va="top", fontsize=7)
    return Path(path)


@contextmanager
def new_figure(
    file: str | Path | IO[bytes],
    width: float,
    height: float,
    dpi: int = 200,
    styles: Sequence[Path] = (),
    **options: Any,
) -> Iterator["Figure"]:
    """An empty figure in inches, independent of pyplot's state, that is written to `file` when the block ends.

    Args:
        file: a path, whose folder is made and whose suffix decides the format, or an open file.
        styles: style sheets on top of `STYLE`.
        options: of `Figure.savefig`.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context([STYLE, *styles]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a response may hold any script, fonts may not
        figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
        yield figure
        if isinstance(file, (str, Path)):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, **options)


def plain(text: str, width: int | None = None, wrap: int | None = None) -> str:
    """Printable characters only, in one line; cut to `width` characters, or broken into lines of `wrap`."""
    text = "".join(character if character.isprintable() else "�" for character in text.replace("\n", " "))
    if width is not None and len(text) > width:
        text = text[: width - 1] + "…"
    return text if wrap is None else textwrap.fill(text, wrap)
