"""Boxes as answers: reading them in the forms that models write, and how far two agree."""

import re
from collections.abc import Sequence
from typing import Literal

Coordinates = Literal["pixels", "thousand", "unit"]
"""How a response counts: pixels of the original picture, thousandths of its width and height, or shares of them."""

_SCALE = {"thousand": 1000.0, "unit": 1.0}
_NAME = re.compile(r"\b(?:bbox_2d|[xy]_?(?:[12]|min|max))\b[\"']?\s*[:=]?", re.IGNORECASE)
_LABEL = re.compile(r'"label"\s*:\s*"([^"]*)"')
_NUMBER = r"-?\d+(?:\.\d+)?"
_BOX = re.compile(rf"(?<![\w.,-]){_NUMBER}(?:[\s,;()\[\]\"']+{_NUMBER}){{3}}(?![\w%]|[.,]\d|\s*,\s*-?\d)")

Box = tuple[float, float, float, float]


def box_in(text: str) -> Box | None:
    """`(x1, y1, x2, y2)` of the one box in a text; None if there is none, or several that differ.

    Read are `[x1, y1, x2, y2]`, Qwen's `{"bbox_2d": [...]}` and `(x1,y1),(x2,y2)`, `<box>[[...]]</box>`,
    `x1=.., y1=..` and four bare numbers.
    """
    found = {tuple(map(float, re.findall(_NUMBER, match[0]))) for match in _BOX.finditer(_NAME.sub(" ", text))}
    return found.pop() if len(found) == 1 else None


def labelled_boxes_in(text: str) -> list[tuple[Box, str]]:
    """The boxes of a list such as Qwen's `[{"bbox_2d": [..], "label": ".."}, ..]`, each with its label or ""."""
    entries = re.findall(r"\{[^{}]*\}", text) or re.findall(r"\[[^\[\]]*\]", text) or [text]
    found = ((box_in(entry), _LABEL.search(entry)) for entry in entries)
    return [(box, label[1] if label else "") for box, label in found if box]


def box_iou(
    answer: str, solution: str, coordinates: Coordinates = "pixels", size: Sequence[int] | None = None
) -> float | None:
    """Intersection over union, in [0, 1], of an answer's box and a solution's, which is in pixels.

    0 for an answer that is not one box with x1 < x2 and y1 < y2; None if the solution is not one.

    Args:
        size: `(width, height)` of the picture in pixels.

    Raises:
        ValueError: without `size`, coordinates that are not pixels.
    """
    gold, given = box_in(solution), box_in(answer)
    if gold is None or _area(gold) == 0:
        return None
    if given is None:
        return 0.0
    return iou(in_pixels(given, coordinates, size), gold)


def in_pixels(box: Box, coordinates: Coordinates, size: Sequence[int] | None) -> Box:
    """The box in pixels of a picture of `size` (W, H); ValueError for other coordinates without a size."""
    if coordinates == "pixels":
        return box
    if size is None:
        raise ValueError(f"boxes in {coordinates!r} coordinates need the column image_sizes, as of `sayo prepare`")
    x1, y1, x2, y2 = (value / _SCALE[coordinates] * size[at % 2] for at, value in enumerate(box))
    return x1, y1, x2, y2


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes in the same coordinates, in [0, 1]; 0 for a box without an area."""
    shared = _area((*map(max, a[:2], b[:2]), *map(min, a[2:], b[2:])))
    return shared / (_area(a) + _area(b) - shared) if shared else 0.0


def _area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
