"""A contact sheet of prepared rows: image, boxes (answer green, evidence orange), visual tokens shaded by weight."""

from __future__ import annotations

import io
import json
import math
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from data_prep.examples import PrepareError
from data_prep.images import bytes_of
from data_prep.shards import list_shards

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sayo.geometry import VisualCells, VisualLayout

COLORS = {"answer": "#1faa55", "evidence": "#f28c18"}
_TOKEN_COLOR = "#2f7bff"
_PANEL, _PICTURE, _HEADER = (4.3, 4.9), (3.95, 3.75), 0.95  # inches: width x height; the texts take the header
_LABEL_ROOM = 0.06  # share of the picture's height that a label above a box needs


def layout_of_fingerprint(fingerprint: str) -> VisualLayout:
    """Build a layout from the `processor_fingerprint` column, without the processor's files.

    Raises:
        PrepareError: a family or a setting that this version does not know.
    """
    from sayo.geometry import VisualLayout
    from sayo.geometry.families import FAMILIES

    settings = json.loads(fingerprint)
    family = settings.pop("family")
    builder = FAMILIES.get(family)
    if builder is None or set(settings) != {field.name for field in fields(builder)}:
        raise PrepareError(f"the data were prepared for a layout that this version does not know: {fingerprint}")
    return VisualLayout(family, builder(**{name: _frozen(value) for name, value in settings.items()}))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value


def pick_rows(
    out: Path, num: int, split: str | None = None, question_type: str | None = None, source: str | None = None
) -> list[dict[str, Any]]:
    """`num` rows spread evenly over the matching rows of all shards, in file order.

    Raises:
        PrepareError: `out` holds no prepared data, or no row matches.
    """
    found: list[tuple[Path, int]] = []
    types: set[str] = set()
    sources: set[str] = set()
    for path in list_shards(out, split):
        columns = pq.read_table(path, columns=["question_type", "source"])
        pairs = list(zip(columns["question_type"].to_pylist(), columns["source"].to_pylist(), strict=True))
        sources.update(name for _, name in pairs)
        types.update(kind for kind, name in pairs if source in (None, name))
        found += [
            (path, row)
            for row, (kind, name) in enumerate(pairs)
            if question_type in (None, kind) and source in (None, name)
        ]
    if not found:
        if source is not None and source not in sources:
            raise PrepareError(f"no row of source {source!r}; there are: {', '.join(sorted(sources)) or 'no rows'}")
        raise PrepareError(f"no row of type {question_type!r}; there are: {', '.join(sorted(types)) or 'no rows'}")
    chosen = np.unique(np.linspace(0, len(found) - 1, min(num, len(found))).round().astype(int))
    return [_read_row(*found[index]) for index in chosen]


def _read_row(path: Path, row: int) -> dict[str, Any]:
    """One row, reading only its row group."""
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if row < size:
            return file.read_row_group(group).slice(row, 1).to_pylist()[0]
        row -= size
    raise IndexError(row)


def draw_sheet(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw one panel per row and save the sheet; the suffix of `path` chooses the format (.png, .pdf, ...)."""
    from matplotlib.figure import Figure

    columns = min(4, math.ceil(math.sqrt(len(rows))))
    lines = math.ceil(len(rows) / columns)
    width, height = max(columns * _PANEL[0], 2 * _PANEL[0]), lines * _PANEL[1] + 0.5
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    for index, row in enumerate(rows):
        left, top = index % columns * _PANEL[0] + 0.2, height - 0.5 - index // columns * _PANEL[1]
        _draw_texts(figure, row, left / width, top / height, 1 / height)
        box = (left, top - _HEADER - _PICTURE[1], *_PICTURE)
        axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height), anchor="NW")
        _draw_picture(axes, row)
    _draw_legend(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path)
    except ValueError as error:  # a suffix that matplotlib cannot write
        raise PrepareError(f"--out {path}: {error}") from None


def _draw_texts(figure: Figure, row: dict[str, Any], x: float, y: float, inch: float) -> None:
    """Question, answer and what the row is, above its picture."""
    question = textwrap.wrap(row["question"], 44, max_lines=2, placeholder=" ...")
    texts = {"va": "top", "parse_math": False}
    figure.text(x, y, "\n".join(question), fontsize=11, fontweight="bold", linespacing=1.15, **texts)
    answer = textwrap.shorten(row["solution"], 44, placeholder=" ...")
    figure.text(x, y - (0.2 * len(question) + 0.02) * inch, f"→ {answer}", fontsize=11, **texts)
    note = f"{row['source']} {row['id']} · {row['question_type']} · {_token_note(row)}"
    figure.text(x, y - (0.2 * len(question) + 0.24) * inch, note, fontsize=8.5, color="#666666", **texts)


def _draw_picture(axes: Axes, row: dict[str, Any]) -> None:
    from PIL import Image, ImageOps

    axes.set_axis_off()
    sizes = row["image_sizes"]
    offsets = np.concatenate([[0], np.cumsum([width for width, _ in sizes])])  # several images: side by side
    for offset, image, (width, height) in zip(offsets, row["images"], sizes, strict=False):
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(bytes_of(image)))).convert("RGB")
        picture.thumbnail((640, 640))
        axes.imshow(np.asarray(picture), extent=(offset, offset + width, height, 0), interpolation="antialiased")
    _draw_tokens(axes, row, offsets)
    for region in sorted(row["regions"], key=lambda region: region["role"] == "answer"):  # the answer on top
        _draw_box(axes, region, offsets[region["image"]])
    axes.set_xlim(0, offsets[-1])
    axes.set_ylim(max(height for _, height in sizes), 0)


def _token_note(row: dict[str, Any]) -> str:
    if not row["has_region"]:
        return "no region"
    if row["region_tokens"] is None:
        return "no processor"
    return f"{len(row['region_tokens'])} of {sum(row['num_visual_tokens'])} tokens"


def _draw_tokens(axes: Axes, row: dict[str, Any], offsets: np.ndarray) -> None:
    """Shade the region's tokens; a tiled model shows an object in two views, drawn over each other."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    if not row["region_tokens"]:
        return
    layout = layout_of_fingerprint(row["processor_fingerprint"])
    cells: list[VisualCells] = [layout.cells(*size, len(row["image_sizes"])) for size in row["image_sizes"]]
    corners = np.concatenate([c.footprints + np.array([x, 0, x, 0]) for c, x in zip(cells, offsets, strict=False)])
    tokens, weights = np.asarray(row["region_tokens"]), np.asarray(row["region_weights"])
    seen = ~np.isnan(corners[tokens, 0])
    patches = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners[tokens[seen]]]
    shades = PatchCollection(patches, facecolor=_TOKEN_COLOR, edgecolor="white", linewidth=0.6)
    shades.set_alpha(0.06 + 0.34 * weights[seen])  # the picture's own colours must stay readable
    axes.add_collection(shades)


def _draw_box(axes: Axes, region: dict[str, Any], offset: float) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = region["box"]
    color = COLORS[region["role"]]
    axes.add_patch(Rectangle((x1 + offset, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=2.2))
    label = axes.annotate(  # above the box, so that a small object is not hidden; inside it at the upper border
        region["label"],
        (x1 + offset, y1),
        xytext=(0, 1) if y1 >= _LABEL_ROOM * max(axes.get_ylim()) else (1, -2),
        textcoords="offset points",
        va="bottom" if y1 >= _LABEL_ROOM * max(axes.get_ylim()) else "top",
        fontsize=8,
        color="white",
        annotation_clip=False,
        parse_math=False,
    )
    label.set_bbox({"facecolor": color, "edgecolor": "none", "pad": 1.5, "alpha": 0.9})


def _draw_legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor="none", edgecolor=color, linewidth=2.2, label=role) for role, color in COLORS.items()]
    handles.append(Patch(facecolor=_TOKEN_COLOR, alpha=0.5, label="visual tokens, darker = heavier"))
    figure.legend(handles=handles, loc="upper left", ncols=3, frameon=False, fontsize=11, bbox_to_anchor=(0.01, 0.998))
