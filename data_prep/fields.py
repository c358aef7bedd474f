"""Fields of foreign records, checked: each wrong value becomes a `RejectedError` under its own name."""

import ast
from typing import Any

from data_prep.examples import ANSWER_WEIGHT, EVIDENCE_WEIGHT, RejectedError
from sayo.geometry.boxes import (  # noqa: F401  the fields of a region, for the sources
    Box,
    box_of_xywh,
    box_of_xyxy,
    check_normalised,
    check_pixels,
    is_integer,
    number,
)

_LEAST_INSIDE = 0.5  # share of a box's area
_WIDEST = 1e7  # pixels: no picture is wider


def as_record(value: Any) -> dict[str, Any]:
    """The value, if it is a JSON object; else malformed_record."""
    if not isinstance(value, dict):
        raise RejectedError("malformed_record", f"expected an object with fields, found {type(value).__name__}")
    return value


def text(record: dict, field: str) -> str:
    """A text that is not blank; else no_answer (the field `answer` is missing) or malformed_record."""
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        reason = "no_answer" if field == "answer" and value is None else "malformed_record"
        raise RejectedError(reason, f"field {field!r} is {str(value)[:200]!r}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a character: "\\ud800"
        raise RejectedError("malformed_record", f"field {field!r} is not Unicode text: {error}") from None
    return value


def written_list(value: Any, what: str) -> list:
    """A list that is written as text, such as "[1, 2, 3, 4]", as JSON or Python write it; else malformed_record."""
    try:
        listed = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        listed = None
    if not isinstance(listed, list | tuple) or not listed:
        raise RejectedError("malformed_record", f"{what} is {str(value)[:200]!r}, expected a list")
    return list(listed)


def identifier(record: dict, field: str) -> str:
    """An id that is written as text or as an integer; else malformed_record."""
    value = record.get(field)
    return str(value) if is_integer(value) and abs(value) < 1 << 63 else text(record, field)


def image_size(width: Any, height: Any) -> tuple[int, int] | None:
    """(W, H) in pixels, or None where either is not a sensible integer; the size then comes from the image file."""
    sides = [int(side) if is_integer(side) and 0 < side < _WIDEST else 0 for side in (width, height)]
    return (sides[0], sides[1]) if all(sides) else None


def is_crowd(annotation: dict) -> bool:
    """A COCO annotation's `iscrowd`, which is 0, 1 or left out; else malformed_record ("0" would count as true)."""
    value = annotation.get("iscrowd")
    if value is not None and not (isinstance(value, int) and value in (0, 1)):
        raise RejectedError("malformed_record", f"iscrowd is {str(value)[:50]!r}, expected 0 or 1")
    return bool(value)


def check_inside(box: Box, size: tuple[int, int]) -> None:
    """Raise RejectedError for a box (xyxy, pixels) of which most lies outside of a picture of `size` (W, H).

    Annotators overshoot a border; half a box outside means another form (xyxy for xywh) or another picture's size.
    """
    x1, y1, x2, y2 = box
    width, height = min(x2, size[0]) - max(x1, 0), min(y2, size[1]) - max(y1, 0)
    if min(width, height) > 0 and width * height < _LEAST_INSIDE * (x2 - x1) * (y2 - y1):
        raise RejectedError("box_leaves_image", f"most of the box {list(box)} lies outside of {size[0]}x{size[1]}")


def weight_of(role: str) -> float:
    """The usual weight of a region of that role."""
    return ANSWER_WEIGHT if role == "answer" else EVIDENCE_WEIGHT


def box_text(box: Box) -> str:
    """A box as an answer: whole pixels, "[12, 30, 200, 180]"."""
    return str([round(value) for value in box])
