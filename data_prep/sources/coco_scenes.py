"""COCO's annotations of an image -> examples with the questions about it; this runs in workers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.examples import Example, Region, RejectedError
from data_prep.fields import box_of_xywh, is_integer, number
from data_prep.sources.base import region_of
from data_prep.sources.coco_templates import Category, Scene, Thing, questions, siblings_of
from sayo.geometry import masks


class SceneRecord(NamedTuple):
    """An image, and (id, JSON) of each of its annotations."""

    image_id: Any
    file_name: str
    size: tuple[int, int]
    license: str
    annotations: list[tuple[Any, str]]


def ask_about(
    images: Sequence[SceneRecord], categories: Sequence[Category], seed: int, least_area: float, per_image: int
) -> tuple[list[tuple[bytes, list[tuple]]], list[tuple[Any, RejectedError]]]:
    """Questions about some images.

    Returns:
        for each image its pickled examples, and (template, class, answer, digest) of each; then (annotation id, what
        is wrong with it).
    """
    by_id, siblings = {category.id: category for category in categories}, siblings_of(categories)
    scenes: list[tuple[bytes, list[tuple]]] = []
    rejected: list[tuple[Any, RejectedError]] = []
    for image in images:
        entries = {key: json.loads(value) for key, value in image.annotations}
        things, blocked = _things(entries, image.size, by_id, rejected)
        scene = Scene(image.image_id, *image.size, things, blocked, by_id, siblings, seed, least_area)
        regions: dict[tuple, Region] = {}  # the same object each time, so that it is placed in the picture once
        examples, asked = [], []
        for digest, question in questions(scene, per_image):
            shown = [("answer", thing) for thing in question.answer_things]
            shown += [("evidence", thing) for thing in question.evidence_things]
            for role, thing in shown:
                if (role, thing.id) not in regions:
                    mask = _mask(entries[thing.id].get("segmentation"), image.size)
                    regions[role, thing.id] = region_of(thing.box, role, scene.name_of(thing), mask=mask)
            asked.append((question.template, question.category, question.answer, digest))
            examples.append(
                Example(
                    id=f"{image.image_id}-{question.name}",
                    question=question.text,
                    solution=question.answer,
                    answers=(question.answer,),
                    images=(image.file_name,),
                    annotated_sizes=(image.size,),
                    regions=tuple(regions[role, thing.id] for role, thing in shown),
                    question_type=question.template,
                    source="coco",
                    license=image.license,
                )
            )
        scenes.append((pickle.dumps(examples), asked))
    return scenes, rejected


def _mask(segmentation: Any, size: tuple[int, int]) -> Any:
    """The mask as run lengths; a segmentation that cannot be drawn stays as it is: its rows will be rejected."""
    try:
        return masks.Rle(masks.encode(segmentation, size), size) if segmentation else None
    except RejectedError:
        return segmentation


def _things(
    entries: Mapping[Any, dict], size: tuple[int, int], categories: Mapping[Any, Category], rejected: list
) -> tuple[list[Thing], frozenset[Any]]:
    """(objects of an image, classes that cannot be asked for because of a crowd or an unusable annotation)."""
    things, blocked = [], set()
    for key, entry in entries.items():
        try:
            if entry.get("iscrowd"):
                blocked.add(key_of(entry, "category_id"))
            else:
                things.append(_thing(key, entry, size, categories))
        except RejectedError as error:
            rejected.append((key, error))
            if is_integer(entry.get("category_id")) or isinstance(entry.get("category_id"), str):
                blocked.add(entry["category_id"])
    return things, frozenset(blocked)


def _thing(key: Any, entry: dict, size: tuple[int, int], categories: Mapping[Any, Category]) -> Thing:
    category = key_of(entry, "category_id")
    key_of(entry)
    if category not in categories:
        raise RejectedError("unknown_category", f"category {category!r} is not in the file")
    box = box_of_xywh(entry.get("bbox"), "bbox")
    x1, y1, x2, y2 = clipped = (max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1]))
    if x1 >= x2 or y1 >= y2:
        raise RejectedError("box_outside_image", f"bbox {list(box)} lies outside of {size[0]}x{size[1]}")
    area, outline = number(entry.get("area")), (x2 - x1) * (y2 - y1)
    if entry.get("segmentation"):
        around = masks.extent(entry["segmentation"], size)
        if not masks.agree(clipped, around):
            detail = f"bbox {list(box)} (as x1, y1, x2, y2); the mask fills {list(around)}"
            raise RejectedError("box_and_mask_differ", detail)
    return Thing(key, category, clipped, area if 0 < area <= outline * 1.1 else outline)


def key_of(entry: dict, field: str = "id") -> int | str:
    """An id as the file has it: an integer, or text for people's own files."""
    value = entry.get(field)
    if is_integer(value) and abs(value) < 1 << 63:
        return value
    if isinstance(value, str) and value.isprintable() and value.strip() and value.isascii():
        return value
    raise RejectedError("malformed_record", f"{field} is {str(value)[:100]!r}, expected a number or a name")
