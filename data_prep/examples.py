"""What every source yields: an `Example` with its regions, or a `Reject` that says why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sayo.errors import SayoError

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2, origin at the top left corner; in pixels of the original image unless a `space` says otherwise."""

Space = Literal["pixels", "normalised", "padded_square"]
"""What box coordinates count: pixels; shares of width and height; or shares of the square that the image was padded to
(both sides evenly, as in Visual-CoT's conversations)."""

ANSWER_WEIGHT = 1.0
EVIDENCE_WEIGHT = 0.5


class PrepareError(SayoError):
    """The command cannot go on; the message tells the user what to do next."""


class RejectError(Exception):
    """One row cannot be used.

    Args:
        reason: the short name under which such rows are counted, e.g. `"missing_image"`.
        detail: what was found, with enough to find the row again.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return RejectError, (self.reason, self.detail)


class Region(NamedTuple):
    """One place in one image that matters for the answer.

    Attributes:
        box: xyxy in `space`; may leave the image, the pipeline clips it. None: the mask's own box.
        role: `"answer"` (the object that is or carries the answer) or `"evidence"` (needed to find or compare it).
        weight: 0..1, how much a visual token that the region covers counts.
        label: the object's name.
        image: index into `Example.images`.
        mask: COCO `segmentation` (polygons, or a run-length dict with `size` and `counts`), a `masks.Drawn`, or None
            where only the box is known.
    """

    box: Box | None
    role: Literal["answer", "evidence"]
    weight: float
    label: str
    image: int = 0
    mask: Any = None
    space: Space = "pixels"


@dataclass(frozen=True)
class EmbeddedImage:
    """An image file that lies inside another file (ReFocus_Data): its name and its untouched bytes."""

    name: str
    data: bytes


class Example(NamedTuple):
    """One question about one or more images, before any file of an image was opened.

    Attributes:
        images: file names inside the image folder; the suffix may be left out (GQA knows images by id only).
        annotated_sizes: (W, H) in pixels in which the regions were drawn, per image; None where unknown.
        answers: every accepted answer, `solution` first.
    """

    id: str
    question: str
    solution: str
    answers: tuple[str, ...]
    images: tuple[str | EmbeddedImage, ...]
    annotated_sizes: tuple[tuple[int, int] | None, ...]
    regions: tuple[Region, ...]
    question_type: str
    source: str
    license: str


@dataclass(frozen=True)
class Reject:
    """A row that is left out, counted under `reason` and listed in rejects.jsonl."""

    id: str
    reason: str
    detail: str
