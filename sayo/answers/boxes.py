"""Boxes as answers: reading them in the forms that models write, and how far two agree."""

import re
from collections.abc import Sequence
from typing import Literal

Coordinates = Literal["pixels", "thousand", "unit"]
"""How a response counts: pixels of the original picture, thousandths of its width and height, or shares of them."""

_SCALE = {"thousand": 1000.0, "unit": 1.0}
_NAME = re.compile(r"\b(?:bbox_2d|[xy]_?(?:[12]|min|max))\b[\"']?\s*[:=]?", re.IGNORECASE)
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
    if coordinates != "pixels":
        if size is None:
            raise ValueError(f"boxes in {coordinates!r} coordinates need the column image_sizes, as of `sayo prepare`")
        given = tuple(value / _SCALE[coordinates] * size[at % 2] for at, value in enumerate(given))
    shared = (*map(max, given[:2], gold[:2]), *map(min, given[2:], gold[2:]))
    return _area(shared) / (_area(given) + _area(gold) - _area(shared)) if _area(given) else 0.0


def _area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
