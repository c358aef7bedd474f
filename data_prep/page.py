"""One HTML page of prepared rows: pictures with boxes, masks and token cells, filters, and histograms of all rows."""

from __future__ import annotations

import base64
import io
from collections import Counter
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageOps
from pycocotools import mask as coco

from data_prep.images import bytes_of
from data_prep.inspect import COLORS, layout_of_fingerprint
from data_prep.shards import AREA_BINS, list_shards, read_account

_LONGEST_SIDE = 520  # pixels of an embedded picture
_VIEWS = {0: "thumbnail", 1: "tiles"}


def write_page(folder: Path, rows: list[dict[str, Any]], path: Path, split: str | None = None) -> None:
    """Write a page that needs no other file.

    Args:
        folder: the prepared data, for the histograms over all its rows.
        rows: the rows to show, see `data_prep.inspect.pick_rows`.
        split: histograms of this split only.

    Raises:
        PrepareError: a linked image is gone, or the rows carry tokens of an unknown layout.
    """
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    counts = _count(folder, split)
    sources, types = sorted({row["source"] for row in rows}), sorted({row["question_type"] for row in rows})
    text = template.substitute(
        title=escape(f"Prepared data: {folder.resolve().name}"),
        subtitle=escape(
            f"{sum(counts['regions'].values())} rows, {counts['regions'].get('0', 0)} of them without a region; "
            f"{len(rows)} shown, spread evenly"
        ),
        charts="".join(
            [
                _chart(
                    "Size of a region's box, share of the picture", {name: counts["area"][name] for name in AREA_BINS}
                ),
                _chart("Regions of a question", _sorted_numbers(counts["regions"])),
                _chart("Visual tokens of a picture", _token_bins(counts["tokens"])),
            ]
        ),
        sources="".join(f"<option>{escape(name)}</option>" for name in sources),
        types="".join(f"<option>{escape(name)}</option>" for name in types),
        cards="".join(_card(row) for row in rows),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _count(folder: Path, split: str | None) -> dict[str, Counter]:
    counts: dict[str, Counter] = {"area": Counter(), "regions": Counter(), "tokens": Counter()}
    for path in list_shards(folder, split):
        account = read_account(path)
        counts["area"].update(account["region_area"])
        counts["regions"].update(account["regions_per_question"])
        for values in pq.read_table(path, columns=["num_visual_tokens"])["num_visual_tokens"].to_pylist():
            counts["tokens"].update(values or [])
    return counts


def _sorted_numbers(counts: Counter) -> dict[str, int]:
    """By number; from eight on together."""
    numbers: Counter[str] = Counter()
    for name, count in counts.items():
        numbers[name if int(name) < 8 else "8 and more"] += count
    return dict(sorted(numbers.items(), key=lambda entry: int(entry[0].split()[0])))


def _token_bins(counts: Counter) -> dict[str, int]:
    """Numbers of tokens in at most eight bins of equal width."""
    if not counts:
        return {}
    values = np.array(sorted(counts))
    if len(values) <= 8:
        return {str(value): counts[value] for value in values.tolist()}
    edges = np.linspace(values[0], values[-1] + 1, 9).astype(int)
    return {
        f"{low}–{high - 1}": sum(count for value, count in counts.items() if low <= value < high)
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    }


def _chart(title: str, counts: dict[str, int]) -> str:
    most = max(counts.values(), default=0) or 1
    bars = "".join(
        f'<div class="bar"><span>{escape(name)}</span><i style="width:{100 * count / most:.1f}%"></i>'
        f"<span>{count}</span></div>"
        for name, count in counts.items()
    )
    return f'<div class="chart"><h2>{escape(title)}</h2>{bars or "no tokens: prepared without a processor"}</div>'


def _card(row: dict[str, Any]) -> str:
    facts = [row["source"], row["question_type"], row["id"], row["split"], row["license"]]
    if row["num_visual_tokens"]:
        facts.append(f"{len(row['region_tokens'])} of {sum(row['num_visual_tokens'])} tokens")
    panels = [
        panel for index in range(len(row["images"])) for panel in (_picture(row, index), *_token_panels(row, index))
    ]
    return (
        f'<article data-source="{escape(row["source"])}" data-type="{escape(row["question_type"])}">'
        f'<div class="texts"><h3>{escape(row["question"])}</h3>'
        f'<p class="solution">→ <b>{escape(row["solution"])}</b></p></div>'
        f'<p class="facts">{"".join(f"<span>{escape(str(fact))}</span>" for fact in facts)}</p>'
        f'<div class="panels">{"".join(panels)}</div></article>'
    )


def _picture(row: dict[str, Any], index: int) -> str:
    """The picture with its masks, boxes and labels."""
    regions = [region for region in row["regions"] if region["image"] == index]
    regions.sort(key=lambda region: region["role"] == "answer")  # the answer on top
    size = row["image_sizes"][index]
    drawn = "".join(_mask(region, size) for region in regions if region["rle"])
    boxes = "".join(_box(region, size) for region in regions)
    caption = f"{len(regions)} region{'s' * (len(regions) != 1)}" if regions else "no region"
    return _figure(row, index, f'<g class="masks">{drawn}</g><g class="boxes">{boxes}</g>', caption)


def _token_panels(row: dict[str, Any], index: int) -> list[str]:
    """One panel for each view of the picture that has tokens of a region: tiles and thumbnail apart."""
    if not row["region_tokens"]:
        return []
    layout = layout_of_fingerprint(row["processor_fingerprint"])
    cells = layout.cells(*row["image_sizes"][index], len(row["images"]))
    first = sum(row["num_visual_tokens"][:index])
    weights = {
        token - first: weight
        for token, weight in zip(row["region_tokens"], row["region_weights"], strict=True)
        if first <= token < first + len(cells)
    }
    views = sorted(set(cells.views.tolist()))
    panels = []
    for view in views:
        shapes, outlines = [], []
        for token in np.flatnonzero((cells.views == view) & ~np.isnan(cells.footprints[:, 0])).tolist():
            x, y = (round(float(value), 1) for value in cells.footprints[token, :2])
            w, h = (round(float(value), 1) for value in cells.footprints[token, 2:] - cells.footprints[token, :2])
            if token not in weights:
                outlines.append(f"M{x:g} {y:g}h{w:g}v{h:g}h{-w:g}z")
                continue
            shapes.append(
                f'<rect class="cell" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" '
                f'fill-opacity="{0.15 + 0.6 * weights[token]:.2f}"><title>weight {weights[token]:.2f}</title></rect>'
            )
        name = "tokens" if len(views) == 1 else _VIEWS.get(view, f"view {view}")
        seen = sum(cells.views[token] == view for token in weights)
        count = int((cells.views == view).sum())
        drawn = f'<g class="tokens"><path class="grid" d="{"".join(outlines)}"/>{"".join(shapes)}</g>'
        panels.append(_figure(row, index, drawn, f"{name}: {seen} of {count} · {layout.family}"))
    return panels


def _figure(row: dict[str, Any], index: int, shapes: str, caption: str) -> str:
    width, height = row["image_sizes"][index]
    picture = _embedded(row["images"][index], (width, height))
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">'
        f'<image href="{picture}" width="{width}" height="{height}" preserveAspectRatio="none"/>{shapes}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _embedded(entry: dict[str, Any], size: tuple[int, int]) -> str:
    """A small copy of the picture as a data URI."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(bytes_of(entry)))).convert("RGB")
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _mask(region: dict[str, Any], size: list[int]) -> str:
    """The mask as a transparent picture over the image."""
    width, height = size
    mask = coco.decode({"size": [height, width], "counts": region["rle"].encode()})
    color = tuple(int(COLORS[region["role"]][at : at + 2], 16) for at in (1, 3, 5))
    shade = Image.fromarray(mask * np.uint8(120))
    shade.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    picture = Image.new("RGBA", shade.size, color)
    picture.putalpha(shade)
    data = io.BytesIO()
    picture.save(data, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return f'<image href="{uri}" width="{width}" height="{height}" preserveAspectRatio="none"/>'


def _box(region: dict[str, Any], size: list[int]) -> str:
    x1, y1, x2, y2 = region["box"]
    letter = 0.045 * max(size)  # height of a label, in pixels of the picture
    y = y1 - 0.25 * letter if y1 > 1.3 * letter else min(y1 + letter, size[1] - 2)
    x = min(x1 + 1, size[0] - 0.55 * letter * len(region["label"]))
    role = escape(region["role"])
    return (
        f'<rect class="box {role}" x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"/>'
        f'<text class="tag {role}" x="{max(x, 1):.1f}" y="{y:.1f}" font-size="{letter:.1f}">'
        f"{escape(region['label'])}</text>"
    )
