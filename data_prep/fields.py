"""Fields of foreign records, checked: each wrong value becomes a `RejectedError` under its own name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from data_prep.examples import ANSWER_WEIGHT, EVIDENCE_WEIGHT, Box, RejectedError

_FAR = 1e7  # no picture is that wide: a coordinate beyond it is an error, and pixel arithmetic stays exact below it
_NUMBERS = frozenset({int, float})


def as_record(value: Any) -> dict[str, Any]:
    """The value, if it is a JSON object.

    Raises:
        RejectedError: malformed_record.
    """
    if not isinstance(value, dict):
        raise RejectedError("malformed_record", f"expected an object with fields, found {type(value).__name__}")
    return value


def text(record: dict, field: str) -> str:
    """A text that is not blank.

    Raises:
        RejectedError: no_answer (the field `answer` is missing) or malformed_record.
    """
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        reason = "no_answer" if field == "answer" and value is None else "malformed_record"
        raise RejectedError(reason, f"field {field!r} is {str(value)[:200]!r}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a character: "\\ud800"
        raise RejectedError("malformed_record", f"field {field!r} is no Unicode text: {error}") from None
    return value


def identifier(record: dict, field: str) -> str:
    """An id that is written as text or as an integer.

    Raises:
        RejectedError: malformed_record.
    """
    value = record.get(field)
    return str(value) if is_integer(value) and abs(value) < 1 << 63 else text(record, field)


def is_integer(value: Any) -> bool:
    """True for an integer that is no bool (JSON's `true` is one for Python)."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: Any) -> float:
    """The value as a float; NaN for what is no number."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def numbers(values: Sequence[Any]) -> Sequence[float]:
    """The values as numbers, by `number`; as they are, where all are numbers already."""
    return values if _NUMBERS.issuperset(map(type, values)) else [number(value) for value in values]


def image_size(width: Any, height: Any) -> tuple[int, int] | None:
    """(W, H) in pixels, or None where either is no sensible integer; the image file itself is asked then."""
    sides = [int(side) if is_integer(side) and 0 < side < _FAR else 0 for side in (width, height)]
    return (sides[0], sides[1]) if all(sides) else None


def box_of_xyxy(values: Any, what: str) -> Box:
    """A box [x1, y1, x2, y2].

    Raises:
        RejectedError: malformed_record (not four values), nan_box, reversed_box or zero_area_box.
    """
    x1, y1, x2, y2 = box = _four(values, what)
    if x1 < x2 and y1 < y2:
        return box
    found = f"{what} is [x1, y1, x2, y2] = {list(box)}"
    if x2 < x1 or y2 < y1:
        raise RejectedError("reversed_box", f"{found}; was it [x, y, width, height]?")
    raise RejectedError("zero_area_box", found)


def box_of_xywh(values: Any, what: str) -> Box:
    """A box [x, y, width, height], turned into xyxy.

    Raises:
        RejectedError: as for `box_of_xyxy`.
    """
    x, y, w, h = _four(values, what)
    if x < x + w and y < y + h:
        return x, y, x + w, y + h
    found = f"{what} is [x, y, width, height] = {[x, y, w, h]}"
    raise RejectedError("reversed_box" if w < 0 or h < 0 else "zero_area_box", found)


def check_pixels(box: Box, what: str) -> Box:
    """The box, unless all its coordinates lie in 0..1: nobody draws a box of one pixel in the corner.

    Raises:
        RejectedError: box_looks_normalised.
    """
    if all(0 <= value <= 1 for value in box):
        raise RejectedError("box_looks_normalised", f"{what} is {list(box)}, but pixels are expected here")
    return box


def check_normalised(box: Box, what: str) -> Box:
    """The box, unless it can only be in pixels.

    Raises:
        RejectedError: box_looks_like_pixels.
    """
    if any(not -0.5 <= value <= 1.5 for value in box):
        raise RejectedError(
            "box_looks_like_pixels", f"{what} is {list(box)}, but shares of the sides are expected here"
        )
    return box


def _four(values: Any, what: str) -> Box:
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise RejectedError("malformed_record", f"{what} is {str(values)[:200]}, expected four numbers")
    x1, y1, x2, y2 = numbers(values)
    if not (abs(x1) < _FAR and abs(y1) < _FAR and abs(x2) < _FAR and abs(y2) < _FAR):  # false for NaN too
        raise RejectedError("nan_box", f"{what} is {str(values)[:200]}")
    return float(x1), float(y1), float(x2), float(y2)


def weight_of(role: str) -> float:
    """The usual weight of a region of that role."""
    return ANSWER_WEIGHT if role == "answer" else EVIDENCE_WEIGHT


def box_text(box: Box) -> str:
    """A box as an answer: whole pixels, "[12, 30, 200, 180]"."""
    return str([round(value) for value in box])
