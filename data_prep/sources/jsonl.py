"""People's own questions with boxes or masks: JSON lines, one question each.

    {"image": "1.jpg", "question": "What is on the plate?", "answer": "cake", "regions": [{"box": [20, 30, 90, 120]}]}

Fields of a line: `image` (or `images`, a list), `question`, `answer` (text, or a list of accepted answers), and where
wanted `id`, `regions`, `type`, `license`, `width` and `height` (in which the regions were drawn; needed only for
pictures that are stored turned) and `extra` (anything, not read).

Fields of a region: its place, as `mask` (file name of a picture below --masks: every pixel that is not black is the
object), `rle` (COCO run lengths), `polygons` ([[x1, y1, x2, y2, ...]]), `box` ([x1, y1, x2, y2]), `box_xywh`, or
`box_normalised` ([x1, y1, x2, y2] as shares of width and height), all in pixels of the original picture unless said;
and where wanted `role` ("answer", or "evidence" for what only helps to find the answer), `weight` (1 and 0.5 by role),
`label`, `image` (index into `images`). A box beside a mask must fit it. A field with any other name is an error: a
misspelt `region` would otherwise be a question without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep import masks
from data_prep.examples import Box, Example, PrepareError, Region, Reject, RejectError
from data_prep.fields import (
    as_record,
    box_of_xywh,
    box_of_xyxy,
    check_normalised,
    check_pixels,
    image_size,
    is_integer,
    number,
    text,
    weight_of,
)
from data_prep.images import read_image
from data_prep.json_records import digest_of, iter_lines, list_files

_FIELDS = {"id", "image", "images", "question", "answer", "regions", "type", "license", "width", "height", "extra"}
_BOXES = ("box", "box_xywh", "box_normalised")
_MASKS = ("mask", "rle", "polygons")
_REGION_FIELDS = {*_BOXES, *_MASKS, "role", "weight", "label", "image"}


class JsonlSource:
    """Questions in file order.

    Args:
        questions: a .jsonl file, a folder of them or a glob.
        mask_folder: where the files that `mask` names are; None where no region has one.
        license: licence of rows that name none.

    Raises:
        PrepareError: no file is there.
    """

    name = "jsonl"

    def __init__(self, questions: str | Path, mask_folder: Path | None = None, license: str = "unknown"):
        where = "Write one question a line; `sayo prepare jsonl --help` shows how"
        self.files = list_files(questions, "questions", where, ".jsonl")
        if mask_folder is not None and not mask_folder.is_dir():
            raise PrepareError(f"--masks: {mask_folder} is not a folder; give the one that holds the mask pictures")
        self.mask_folder = mask_folder
        self.license = license
        self._count = sum(1 for file in self.files for _ in iter_lines(file))

    def __len__(self) -> int:
        return self._count

    def settings(self) -> dict[str, Any]:
        return {"--questions": digest_of(self.files), "--license": self.license}

    def __iter__(self) -> Iterator[Example | Reject]:
        for file in self.files:
            for line, record in iter_lines(file):
                row_id = _row_id(record, f"{file.name}:{line}")
                try:
                    if isinstance(record, ValueError):
                        raise RejectError("malformed_record", str(record))
                    yield self.build_example(row_id, record)
                except RejectError as error:
                    yield Reject(row_id, error.reason, f"{error.detail} ({file.name}:{line})")

    def build_example(self, row_id: str, record: Any) -> Example:
        """One line as an example.

        Raises:
            RejectError: malformed_record, unknown_field, no_answer, and those of boxes and masks.
        """
        record = as_record(record)
        _no_other(record, _FIELDS)
        images = record["images"] if "images" in record else [record.get("image")]
        if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
            raise RejectError("malformed_record", f"image is {str(images)[:200]}, expected the name of a file")
        answers = record.get("answer") if isinstance(record.get("answer"), list) else [text(record, "answer")]
        if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise RejectError("no_answer" if not answers else "malformed_record", f"answer is {str(answers)[:200]}")
        regions = record.get("regions") or []
        if not isinstance(regions, list):
            raise RejectError("malformed_record", f"regions are {str(regions)[:200]}, expected a list")
        size = image_size(record.get("width"), record.get("height"))
        return Example(
            id=row_id,
            question=text(record, "question"),
            solution=answers[0],
            answers=tuple(answers),
            images=tuple(images),
            annotated_sizes=(size,) * len(images),
            regions=tuple(self._region(region, index) for index, region in enumerate(regions)),
            question_type=text(record, "type") if record.get("type") is not None else "unknown",
            source=self.name,
            license=text(record, "license") if record.get("license") is not None else self.license,
        )

    def _region(self, record: Any, index: int) -> Region:
        what = f"region {index}"
        record = as_record(record)
        _no_other(record, _REGION_FIELDS)
        shapes = [name for name in _MASKS if record.get(name) is not None]
        boxes = [name for name in _BOXES if record.get(name) is not None]
        if len(shapes) > 1 or len(boxes) > 1 or not shapes + boxes:
            given = ", ".join(shapes + boxes) or "nothing"
            raise RejectError("malformed_record", f"{what} needs one box or one mask, found {given}")
        role = record.get("role", "answer")
        if role not in ("answer", "evidence"):
            raise RejectError("malformed_record", f"{what}: role is {str(role)[:50]!r}, expected answer or evidence")
        weight = number(record.get("weight", weight_of(role)))
        if not 0 < weight <= 1:
            raise RejectError("malformed_record", f"{what}: weight {weight} is not in 0..1")
        if record.get("image", 0) is True or not is_integer(record.get("image", 0)):
            raise RejectError("malformed_record", f"{what}: image is {str(record['image'])[:50]}, expected an index")
        return Region(
            box=_box(record, boxes[0], what) if boxes else None,
            role=role,
            weight=weight,
            label=text(record, "label") if record.get("label") else "",
            image=record.get("image", 0),
            mask=self._mask(record, shapes[0]) if shapes else None,
            space="normalised" if boxes == ["box_normalised"] else "pixels",
        )

    def _mask(self, record: dict, name: str) -> Any:
        """The region's mask as a COCO segmentation."""
        if name == "polygons":
            return record[name]
        if name == "rle":
            if not isinstance(record[name], dict):
                raise RejectError("bad_mask", 'rle is no object {"size": [height, width], "counts": ...}')
            return record[name]
        if self.mask_folder is None:
            raise RejectError("missing_mask", "the region names a mask file; give their folder with --masks")
        return _read_mask(self.mask_folder, text(record, name))


def _read_mask(folder: Path, name: str) -> dict[str, Any]:
    """A mask picture as COCO run lengths; whatever is neither black nor transparent is the object.

    Raises:
        RejectError: as for images, under the name of a mask.
    """
    import io

    try:
        picture = Image.open(io.BytesIO(read_image(folder, name).data))
        transparent = picture.getchannel("A") if "A" in picture.getbands() else None
        pixels = np.asarray(picture.convert("RGB")).any(axis=-1)
    except RejectError as error:
        raise RejectError(error.reason.replace("image", "mask"), f"mask {error.detail}") from None
    except Exception as error:  # decoders raise nearly anything
        raise RejectError("unreadable_mask", f"mask {name}: {error}") from None
    if transparent is not None:
        pixels &= np.asarray(transparent) > 0
    return masks.encode_pixels(pixels)


def _box(record: dict, name: str, what: str) -> Box:
    if name == "box_normalised":
        return check_normalised(box_of_xyxy(record[name], f"{what}: box_normalised"), what)
    box = (box_of_xywh if name == "box_xywh" else box_of_xyxy)(record[name], f"{what}: {name}")
    return check_pixels(box, f"{what}: {name}")


def _no_other(record: dict, known: set[str]) -> None:
    if other := sorted(set(record) - known):
        raise RejectError("unknown_field", f"{str(other)[:200]}; the fields are {', '.join(sorted(known))}")


def _row_id(record: Any, default: str) -> str:
    given = record.get("id") if isinstance(record, dict) else None
    return str(given) if (isinstance(given, str) and given.strip()) or is_integer(given) else default
