"""COCO's annotations of an image -> the questions about it, as rows of the source's table; it runs in workers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep import masks
from data_prep.examples import Region, RejectError
from data_prep.fields import box_of_xywh, is_integer, number, weight_of
from data_prep.sources.coco_templates import Category, Scene, Thing, questions, siblings_of
from data_prep.store import as_json

Record = tuple[Any, int, int, list[tuple[Any, str]]]
"""An image: id, width, height, and (id, JSON) of each annotation."""


def ask_about(
    images: Sequence[Record], categories: Sequence[Category], seed: int, least_area: float, per_image: int
) -> tuple[list[tuple], list[tuple[Any, RejectError]]]:
    """Questions about some images.

    Returns:
        rows of the question table (image id, digest, template, name, class, answer, JSON of the text and of what
        `region_of` reads), and (annotation id, what is wrong with it).
    """
    by_id, siblings = {one.id: one for one in categories}, siblings_of(categories)
    rows, rejects = [], []
    for image_id, width, height, records in images:
        entries = {key: json.loads(value) for key, value in records}
        things, blocked = _things(entries, (width, height), by_id, rejects)
        scene = Scene(image_id, width, height, list(things.values()), blocked, by_id, siblings, seed, least_area)
        asked = questions(scene, per_image)
        named = {key for _, one in asked for key in one.answer_ids + one.evidence_ids}
        drawn = {key: _mask(entries[key].get("segmentation"), (width, height)) for key in named}
        for digest, one in asked:
            roles = [("answer", key) for key in one.answer_ids] + [("evidence", key) for key in one.evidence_ids]
            regions = [(role, key, things[key].box, things[key].category, *drawn[key]) for role, key in roles]
            value = as_json([one.text, regions])
            rows.append((image_id, digest, one.template, one.name, one.category, one.answer, value))
    return rows, rejects


def region_of(values: Sequence[Any], size: tuple[int, int], categories: Mapping[Any, Category]) -> Region:
    """A region as `ask_about` wrote it down: role, annotation id, clipped box, class, run lengths, segmentation."""
    role, _, box, category, counts, segmentation = values
    mask = segmentation if counts is None else masks.Drawn(counts, size)
    return Region(tuple(box), role, weight_of(role), categories[category].name, mask=mask)


def _mask(segmentation: Any, size: tuple[int, int]) -> tuple[str | None, Any]:
    """(run lengths, None), or (None, a segmentation that cannot be drawn: its rows will be rejected, or None)."""
    try:
        return (masks.encode(segmentation, size), None) if segmentation else (None, None)
    except RejectError:
        return None, segmentation


def _things(
    entries: Mapping[Any, dict],
    size: tuple[int, int],
    categories: Mapping[Any, Category],
    rejects: list[tuple[Any, RejectError]],
) -> tuple[dict[Any, Thing], frozenset[Any]]:
    """(objects of an image, classes that cannot be asked for because of a crowd or an unusable annotation)."""
    things, blocked = {}, set()
    for key, entry in entries.items():
        try:
            if entry.get("iscrowd"):
                blocked.add(key_of(entry, "category_id"))
            else:
                things[key] = _thing(key, entry, size, categories)
        except RejectError as error:
            rejects.append((key, error))
            if is_integer(entry.get("category_id")) or isinstance(entry.get("category_id"), str):
                blocked.add(entry["category_id"])
    return things, frozenset(blocked)


def _thing(key: Any, entry: dict, size: tuple[int, int], categories: Mapping[Any, Category]) -> Thing:
    category = key_of(entry, "category_id")
    key_of(entry)
    if category not in categories:
        raise RejectError("unknown_category", f"category {category!r} is not in the file")
    box = box_of_xywh(entry.get("bbox"), "bbox")
    x1, y1, x2, y2 = clipped = (max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1]))
    if x1 >= x2 or y1 >= y2:
        raise RejectError("box_outside_image", f"bbox {list(box)} lies outside of {size[0]}x{size[1]}")
    area, outline = number(entry.get("area")), (x2 - x1) * (y2 - y1)
    if entry.get("segmentation"):
        around = masks.extent(entry["segmentation"], size)
        if not masks.agree(clipped, around):
            raise RejectError(
                "box_and_mask_differ", f"bbox {list(box)} (as x1, y1, x2, y2); the mask fills {list(around)}"
            )
    return Thing(key, category, clipped, area if 0 < area <= outline * 1.1 else outline)


def key_of(entry: dict, field: str = "id") -> int | str:
    """An id as the file has it: an integer, or text for people's own files."""
    value = entry.get(field)
    if is_integer(value) and abs(value) < 1 << 63:
        return value
    if isinstance(value, str) and value.isprintable() and value.strip() and value.isascii():
        return value
    raise RejectError("malformed_record", f"{field} is {str(value)[:100]!r}, expected a number or a name")
