"""Boxes as foreign files spell them, checked: each wrong value is a `RegionError` under its own name."""

import math
from collections.abc import Sequence
from typing import Any

from sayo.errors import RejectedError, SayoError

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2, origin at the top left corner; in pixels of the original image unless a `space` says otherwise."""

_FAR = 1e7  # no picture is that wide: a coordinate beyond it is an error, and pixel arithmetic stays exact below it
_NUMBERS = frozenset({int, float})


class RegionError(RejectedError, SayoError, ValueError):
    """A box or mask that cannot be used; `reason` names the kind of error, such as `"nan_box"`."""


def is_integer(value: Any) -> bool:
    """True for an integer that is not a bool (for Python, JSON's `true` is one)."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: Any) -> float:
    """The value as a float; NaN for anything that is not a number."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def numbers(values: Sequence[Any]) -> Sequence[float]:
    """The values as numbers, by `number`; unchanged where all are numbers already."""
    return values if _NUMBERS.issuperset(map(type, values)) else [number(value) for value in values]


def box_of_xyxy(values: Any, name: str = "box") -> Box:
    """Check a box [x1, y1, x2, y2]; `name` stands for it in messages.

    Raises:
        RegionError: malformed_record (not four values), nan_box, reversed_box or zero_area_box.
    """
    x1, y1, x2, y2 = box = _four(values, name)
    if x1 < x2 and y1 < y2:
        return box
    detail = f"{name} is [x1, y1, x2, y2] = {list(box)}"
    if x2 < x1 or y2 < y1:
        raise RegionError("reversed_box", f"{detail}; was it [x, y, width, height]?")
    raise RegionError("zero_area_box", detail)


def box_of_xywh(values: Any, name: str = "box") -> Box:
    """Turn a box [x, y, width, height] into xyxy; raises as `box_of_xyxy`."""
    x, y, w, h = _four(values, name)
    if x < x + w and y < y + h:
        return x, y, x + w, y + h
    detail = f"{name} is [x, y, width, height] = {[x, y, w, h]}"
    raise RegionError("reversed_box" if w < 0 or h < 0 else "zero_area_box", detail)


def _four(values: Any, name: str) -> Box:
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise RegionError("malformed_record", f"{name} is {str(values)[:200]}, expected four numbers")
    x1, y1, x2, y2 = numbers(values)
    if not (abs(x1) < _FAR and abs(y1) < _FAR and abs(x2) < _FAR and abs(y2) < _FAR):  # false for NaN too
        raise RegionError("nan_box", f"{name} is {str(values)[:200]}")
    return float(x1), float(y1), float(x2), float(y2)


def check_pixels(box: Box, name: str) -> Box:
    """The box; RegionError box_looks_normalised if all of it lies in 0..1: nobody draws one pixel in the corner."""
    if all(0 <= value <= 1 for value in box):
        raise RegionError("box_looks_normalised", f"{name} is {list(box)}, but pixels are expected here")
    return box


def check_normalised(box: Box, name: str) -> Box:
    """The box; RegionError box_looks_like_pixels if it can only be in pixels."""
    if any(not -0.5 <= value <= 1.5 for value in box):
        raise RegionError("box_looks_like_pixels", f"{name} is {list(box)}, but shares of the sides are expected here")
    return box


def clip_box(box: Box, size: tuple[int, int], name: str = "box") -> Box:
    """The part of the box inside an image of `size` (W, H); RegionError box_outside_image if there is none."""
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(size[0])), min(box[3], float(size[1]))
    if x1 >= x2 or y1 >= y2:
        raise RegionError("box_outside_image", f"{name} {[*box]} lies outside of the image ({size[0]}x{size[1]})")
    return x1, y1, x2, y2


def turn_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Turn a box on the stored pixels (W, H) into the shown image, for EXIF orientations that swap W and H."""
    (x1, y1, x2, y2), (w, h) = box, size
    return {
        5: (y1, x1, y2, x2),
        6: (h - y2, x1, h - y1, x2),
        7: (h - y2, w - x2, h - y1, w - x1),
        8: (y1, w - x2, y2, w - x1),
    }[orientation]
