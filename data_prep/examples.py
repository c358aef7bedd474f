"""What every source yields: an `Example` with its regions, or a `Rejected` that says why not."""

from dataclasses import dataclass
from typing import NamedTuple

from sayo.errors import RejectedError, SayoError
from sayo.geometry.regions import Box, Region

__all__ = ["Box", "EmbeddedImage", "Example", "PrepareError", "Region", "Rejected", "RejectedError"]

ANSWER_WEIGHT = 1.0
EVIDENCE_WEIGHT = 0.5


class PrepareError(SayoError):
    """The command cannot continue; the message tells the user what to do next."""


class EmbeddedImage(NamedTuple):
    """An image file that lies inside another file (ReFocus_Data): its name and its untouched bytes."""

    name: str
    data: bytes


class Example(NamedTuple):
    """One question about one or more images, before any file of an image was opened.

    Attributes:
        images: file names inside the image folder; the suffix may be left out (GQA knows images by id only).
        drawn_size: (W, H) in pixels in which the regions were drawn on each image; None where unknown.
        answers: every accepted answer, the solution first.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    images: tuple[str | EmbeddedImage, ...]
    drawn_size: tuple[int, int] | None
    regions: tuple[Region, ...]
    question_type: str
    source: str
    license: str


@dataclass(frozen=True)
class Rejected:
    """A row that is left out, counted under `reason` and listed in rejected.jsonl."""

    id: str
    reason: str
    detail: str
