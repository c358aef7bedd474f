"""Fields of foreign records, checked: each wrong value becomes a `RejectedError` under its own name."""

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


def identifier(record: dict, field: str) -> str:
    """An id that is written as text or as an integer; else malformed_record."""
    value = record.get(field)
    return str(value) if is_integer(value) and abs(value) < 1 << 63 else text(record, field)


def image_size(width: Any, height: Any) -> tuple[int, int] | None:
    """(W, H) in pixels, or None where either is not a sensible integer; the size then comes from the image file."""
    sides = [int(side) if is_integer(side) and 0 < side < _WIDEST else 0 for side in (width, height)]
    return (sides[0], sides[1]) if all(sides) else None


def weight_of(role: str) -> float:
    """The usual weight of a region of that role."""
    return ANSWER_WEIGHT if role == "answer" else EVIDENCE_WEIGHT


def box_text(box: Box) -> str:
    """A box as an answer: whole pixels, "[12, 30, 200, 180]"."""
    return str([round(value) for value in box])
