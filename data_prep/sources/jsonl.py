"""People's own questions with boxes or masks: JSON lines, one question each.

    {"image": "1.jpg", "question": "What is on the plate?", "answer": "cake", "regions": [{"box": [20, 30, 90, 120]}]}

Fields of a line: `image` (or `images`, a list), `question`, `answer` (text, or a list of accepted answers), and where
wanted `id`, `regions`, `type`, `license`, `width` and `height` (in which the regions were drawn; needed only for
pictures that are stored turned) and `extra` (anything, not read).

Fields of a region: its place, as `mask` (file name of a picture below --masks: every pixel that is not black is the
object), `rle` (COCO run lengths), `polygons` ([[x1, y1, x2, y2, ...]]), `box` ([x1, y1, x2, y2]), `box_xywh`, or
`box_normalised` ([x1, y1, x2, y2] as shares of width and height), all in pixels of the original picture unless said;
and where wanted `role` ("answer", or "evidence" for what only helps to find the answer), `weight` (1 and 0.5 by role;
the row's heaviest region is scaled to 1), `label`, `image` (index into `images`). A box beside a mask must fit it. A
field with any other name is an error: a misspelt `region` would otherwise be a question without one.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.examples import Box, Example, PrepareError, Region, RejectedError
from data_prep.fields import as_record, box_of_xywh, box_of_xyxy, check_normalised, image_size, number, text, weight_of
from data_prep.images import read_image
from data_prep.sources.base import Lookup, RecordSource, list_of, optional_text, pixel_box, records_of_lines
from sayo.geometry import masks

_FIELDS = {"id", "image", "images", "question", "answer", "regions", "type", "license", "width", "height", "extra"}
_BOXES = ("box", "box_xywh", "box_normalised")
_MASKS = ("mask", "rle", "polygons")
_REGION_FIELDS = {*_BOXES, *_MASKS, "role", "weight", "label", "image"}


class JsonlSource(RecordSource):
    """Questions in file order; `questions` is a .jsonl file, a folder of them or a glob.

    `mask_folder` holds the files that `mask` names; `license` is that of rows that name none.
    """

    name = "jsonl"
    picture_fields = ("images", "image")

    def __init__(self, questions: str | Path, mask_folder: Path | None = None, license: str = "unknown"):
        self.files = self._files(questions, "questions", ".jsonl")
        if mask_folder is not None and not mask_folder.is_dir():
            raise PrepareError(f"--masks: {mask_folder} is not a folder; give the one that holds the mask pictures")
        self.mask_folder, self.license = mask_folder, license
        super().__init__({"--questions": self.files}, {"--license": license})

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        return records_of_lines(self.files, "id")

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        _no_other(record, _FIELDS)
        images = record["images"] if "images" in record else [record.get("image")]
        if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
            raise RejectedError("malformed_record", f"image is {str(images)[:200]}, expected the name of a file")
        answers = record.get("answer") if isinstance(record.get("answer"), list) else [text(record, "answer")]
        if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise RejectedError("no_answer" if not answers else "malformed_record", f"answer is {str(answers)[:200]}")
        listed, question = list_of(record, "regions"), text(record, "question")
        regions = [self._region(region, index) for index, region in enumerate(listed)]
        size = image_size(record.get("width"), record.get("height"))
        example = self._example(row_id, question, answers, images, regions, size, optional_text(record, "type"))
        return example._replace(license=optional_text(record, "license", self.license))

    def _region(self, record: Any, index: int) -> Region:
        what = f"region {index}"
        record = as_record(record)
        _no_other(record, _REGION_FIELDS)
        shapes = [name for name in _MASKS if record.get(name) is not None]
        boxes = [name for name in _BOXES if record.get(name) is not None]
        if len(shapes) > 1 or len(boxes) > 1 or not shapes + boxes:
            given = ", ".join(shapes + boxes) or "nothing"
            raise RejectedError("malformed_record", f"{what} needs one box or one mask, found {given}")
        role = record.get("role", "answer")
        if role not in ("answer", "evidence"):
            raise RejectedError("malformed_record", f"{what}: role is {str(role)[:50]!r}, expected answer or evidence")
        weight = number(record.get("weight", weight_of(role)))
        if not 0 < weight <= 1:
            raise RejectedError("malformed_record", f"{what}: weight {weight} is not in 0..1")
        image = record.get("image", 0)
        if type(image) is not int:
            raise RejectedError("malformed_record", f"{what}: image is {str(image)[:50]}, expected an index")
        return Region(
            box=_box(record, boxes[0], what) if boxes else None,
            role=role,
            weight=weight,
            label=text(record, "label") if record.get("label") else "",
            image=image,
            mask=self._mask(record, shapes[0]) if shapes else None,
            space="normalised" if boxes == ["box_normalised"] else "pixels",
        )

    def _mask(self, record: dict, name: str) -> Any:
        """The region's mask as a COCO segmentation."""
        if name == "rle" and not isinstance(record[name], dict):
            raise RejectedError("bad_mask", 'rle is not an object {"size": [height, width], "counts": ...}')
        if name != "mask":
            return record[name]
        if self.mask_folder is None:
            raise RejectedError("missing_mask", "the region names a mask file; give their folder with --masks")
        return _read_mask(self.mask_folder, text(record, name))


def _read_mask(folder: Path, name: str) -> dict[str, Any]:
    """A mask picture as COCO run lengths; whatever is neither black nor transparent is the object."""
    try:
        picture = Image.open(io.BytesIO(read_image(folder, name).data))
        transparent = picture.getchannel("A") if "A" in picture.getbands() else None
        pixels = np.asarray(picture.convert("RGB")).any(axis=-1)
    except RejectedError as error:
        raise RejectedError(error.reason.replace("image", "mask"), f"mask {error.detail}") from None
    except Exception as error:  # decoders raise nearly anything
        raise RejectedError("unreadable_mask", f"mask {name}: {error}") from None
    if transparent is not None:
        pixels &= np.asarray(transparent) > 0
    return masks.encode_pixels(pixels)


def _box(record: dict, name: str, what: str) -> Box:
    if name == "box_normalised":
        return check_normalised(box_of_xyxy(record[name], f"{what}: box_normalised"), what)
    return pixel_box(record[name], f"{what}: {name}", box_of_xywh if name == "box_xywh" else box_of_xyxy)


def _no_other(record: dict, known: set[str]) -> None:
    if other := sorted(set(record) - known):
        raise RejectedError("unknown_field", f"{str(other)[:200]}; the fields are {', '.join(sorted(known))}")
