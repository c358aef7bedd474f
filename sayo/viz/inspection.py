"""Prepared rows to look at: a contact sheet, or a page with filters and histograms of all rows."""

import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from sayo.draw import REGION_COLORS, VIEW_TITLES, save_sheet, spotlight
from sayo.errors import SayoError
from sayo.geometry import VisualCells, VisualLayout, masks
from sayo.viz.pages import picture, render_page, write_text

LONGEST_SIDE = 520  # pixels of an embedded picture
MOST_BARS = 9
HISTOGRAMS = {  # counter of summary.json: title
    "region_area": "Size of a region's box, share of the picture",
    "regions_per_question": "Regions of a question",
    "question_types": "Types of questions",
    "rejected_by_reason": "Rejected rows",
}


class InspectError(SayoError):
    """There are no such rows; the message says what there is."""


def prepared_files(folder: Path, split: str | None = None) -> list[Path]:
    """The parquet files of a folder that `sayo prepare` wrote; InspectError where there are none."""
    files = sorted(folder.glob(f"data/{split or '*'}-*.parquet"))
    if not files:
        splits = sorted({path.name.rsplit("-", 3)[0] for path in folder.glob("data/*.parquet")})
        there = f"; there are: {', '.join(splits)}" if splits else ""
        raise InspectError(f"{folder} holds no prepared data" + (f" of split {split!r}{there}" if split else ""))
    return files


def pick_rows(
    files: Sequence[Path], num: int, question_type: str | None = None, source: str | None = None
) -> list[dict[str, Any]]:
    """`num` rows spread evenly over the matching rows of all files, in order; InspectError where no row matches."""
    places, kinds = [], Counter()
    for path in files:
        columns = pq.read_table(path, columns=["source", "question_type"]).to_pylist()
        kinds.update((row["source"], row["question_type"]) for row in columns)
        places += [
            (path, index)
            for index, row in enumerate(columns)
            if source in (None, row["source"]) and question_type in (None, row["question_type"])
        ]
    if not places:
        there = ", ".join(sorted(f"{name} {kind}" for name, kind in kinds)) or "no rows"
        raise InspectError(f"no row of source {source!r} and type {question_type!r}; there are: {there}")
    chosen = np.unique(np.linspace(0, len(places) - 1, min(num, len(places))).round().astype(int))
    return [_read_row(*places[index]) for index in chosen]


def _read_row(path: Path, row: int) -> dict[str, Any]:
    """One row, reading only its row group."""
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if row < size:
            return file.read_row_group(group).slice(row, 1).to_pylist()[0]
        row -= size
    raise IndexError(row)


def save_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw a sheet with one panel per picture of the rows; InspectError for a suffix that matplotlib cannot write."""
    panels = []
    for row in rows:
        note = f"{row['source']} {row['id']} · {row['question_type']} · {_note(row)}"
        for index, (cells, weights) in enumerate(_weights(row)):
            image, regions = _image(row, index).convert("RGBA"), _regions(row, index)
            for shade in (_shade(region, image.size) for region in regions if region["rle"]):
                image.alpha_composite(shade.resize(image.size))
            panel = {"image": image.convert("RGB"), "cells": cells, "map": weights, "regions": regions}
            texts = {"question": row["question"], "completion": f"→ {row['solution']}", "caption": note}
            panels.append(panel | texts)
    try:
        return save_sheet(panels, path, "regions (green: answer, orange: evidence), and their visual tokens by weight")
    except ValueError as error:
        raise InspectError(f"--out {path}: {error}") from None


def write_page(folder: Path, rows: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """Write a page with `rows`, and the counts of all rows that `sayo prepare` left in `folder`."""
    cards = [
        {
            **{name: row[name] for name in ("question", "solution", "source", "question_type")},
            "facts": [row["source"], row["question_type"], row["id"], row["split"], row["license"], _note(row)],
            "panels": [panel for index in range(len(row["images"])) for panel in _panels(row, index)],
        }
        for row in rows
    ]
    summary = folder / "summary.json"
    counts = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    histograms = {title: _ordered(counts[key]) for key, title in HISTOGRAMS.items() if counts.get(key)}
    page = render_page("inspection", name=folder.resolve().name, cards=cards, histograms=histograms, counts=counts)
    return write_text(page, out)


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    """The bars of a histogram: by the numbers in their names, then by size; at most `MOST_BARS`."""

    def place(name: str) -> tuple:
        return [int(number) for number in re.findall(r"\d+", name)], -counts[name]

    return {name: counts[name] for name in sorted(counts, key=place)[:MOST_BARS]}


def _panels(row: Mapping[str, Any], index: int) -> list[dict[str, Any]]:
    """The picture with its regions and masks, and one panel for each view of it that has tokens of a region."""
    image, regions = _image(row, index), _regions(row, index)
    masks = [_shade(region, image.size) for region in regions if region["rle"]]
    caption = f"{len(regions)} region{'s' * (len(regions) != 1)}" if regions else "no region"
    panels = [{**picture(image, regions, masks=masks, longest=LONGEST_SIDE), "caption": caption}]
    cells, weights = _weights(row)[index]
    if weights is None:
        return panels
    views = np.unique(cells.views).tolist()
    for view in views:
        inside = cells.views == view
        name = "tokens" if len(views) == 1 else VIEW_TITLES[view]
        veil = spotlight(cells, np.where(inside, weights, 0), peak=1.0)
        caption = f"{name}: {(weights[inside] > 0).sum()} of {inside.sum()}"
        panels.append({**picture(image, regions, veil, longest=LONGEST_SIDE), "caption": caption})
    return panels


def _weights(row: Mapping[str, Any]) -> list[tuple[VisualCells | None, np.ndarray | None]]:
    """Per image its cells and the weight of each in the row's regions; None where the row has no tokens."""
    if not row["region_tokens"]:
        return [(None, None)] * len(row["images"])
    layout = VisualLayout.from_fingerprint(row["processor_fingerprint"])
    cells = [layout.cells(*size, len(row["images"])) for size in row["image_sizes"]]
    weights = np.zeros(sum(map(len, cells)))
    weights[row["region_tokens"]] = row["region_weights"]
    parts = np.split(weights, np.cumsum([len(image) for image in cells])[:-1])
    return list(zip(cells, parts, strict=True))


def _image(row: Mapping[str, Any], index: int) -> Image.Image:
    """The upright picture, embedded in the row or linked; an OSError names a file that is gone."""
    entry = row["images"][index]
    data = io.BytesIO(entry["bytes"]) if entry["bytes"] is not None else entry["path"]
    return ImageOps.exif_transpose(Image.open(data)).convert("RGB")


def _regions(row: Mapping[str, Any], index: int) -> list[dict[str, Any]]:
    return [region for region in row["regions"] if region["image"] == index]


def _shade(region: Mapping[str, Any], size: tuple[int, int]) -> Image.Image:
    """The mask as a half transparent picture over the image."""
    mask = Image.fromarray(masks.decode(masks.encode(region["rle"], size)) * np.uint8(120))
    mask.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    shade = Image.new("RGBA", mask.size, REGION_COLORS[region["role"]])
    shade.putalpha(mask)
    return shade


def _note(row: Mapping[str, Any]) -> str:
    if not row["has_region"]:
        return "no region"
    found = f"by {found['by']} {found['scores']}, " if (found := json.loads(row.get("grounding") or "null")) else ""
    if row["region_tokens"] is None:
        return f"{found}no processor"
    return f"{found}{len(row['region_tokens'])} of {sum(row['num_visual_tokens'])} tokens"
