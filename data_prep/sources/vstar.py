"""V*Bench (Wu and Xie 2023, arXiv 2312.14135): small objects in large pictures, with boxes. For evaluation.

`test_questions.jsonl` puts the options in a fixed order into the `text` of each question, with the letter of the right
one as `label`; the .json beside each picture holds `target_object` and `bbox`, a list of [x, y, width, height] in
pixels. All target objects are answer regions: the questions about a relative position need both alike.

The format was read in penghao-wu/vstar (vstar_bench_eval.py, visual_search.py), in public readers of
test_questions.jsonl and in published records (sa_4690, sa_6183). The data set's licence could not be found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.examples import Example, RejectedError
from data_prep.fields import as_record, box_of_xywh, check_pixels, text
from data_prep.images import find_image
from data_prep.json_records import digest_of, iter_lines, list_files
from data_prep.sources.base import (
    Lookup,
    RecordSource,
    choice_answers,
    list_of,
    optional_text,
    region_of,
    with_choices,
)

WHERE = (
    "test_questions.jsonl, direct_attributes/ and relative_position/ (pictures, each with a .json) are at "
    "https://huggingface.co/datasets/craigwu/vstar_bench"
)
_OPTION = re.compile(r"^\(([A-Z])\)\s*(.*\S)", re.MULTILINE)
_INSTRUCTION = re.compile(r"\s*Answer with the option's letter[^\n]*$")


class VstarSource(RecordSource):
    """Questions in file order; the row id is the picture's name, such as direct_attributes/sa_4690.

    Args:
        questions: `test_questions.jsonl`.
        images: the folder with direct_attributes/ and relative_position/: pictures and annotations.

    Raises:
        PrepareError: no question file is there.
    """

    name, license = "vstar", "unknown"

    def __init__(self, questions: str | Path, images: Path):
        self.files, self.images = list_files(questions, "V*Bench questions", WHERE, ".jsonl"), images
        self._count = sum(1 for file in self.files for _ in iter_lines(file))
        self._settings = {"--questions": digest_of([*self.files, *sorted(images.glob("*/*.json"))])}

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        for file in self.files:
            for line, record in iter_lines(file):
                place = f"{file.name}:{line}"
                image = record.get("image") if isinstance(record, dict) else None
                yield str(PurePosixPath(image).with_suffix("")) if _is_name(image) else place, place, record

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        image, asked, letter = (text(record, field) for field in ("image", "text", "label"))
        options = dict(_OPTION.findall(asked))
        if letter not in options:
            raise RejectedError("malformed_record", f"label {letter[:50]!r} is no option of {asked[:200]!r}")
        annotation = self._annotation(image)
        boxes, names = list_of(annotation, "bbox", least=1), list_of(annotation, "target_object")
        labels = [*names, *[""] * len(boxes)]
        regions = [
            region_of(check_pixels(box_of_xywh(box, "bbox"), "bbox"), label=label)
            for box, label in zip(boxes, labels, strict=False)
        ]
        question = with_choices(_INSTRUCTION.sub("", asked))
        answers, kind = choice_answers(letter, options[letter]), optional_text(record, "category")
        return self._example(row_id, question, answers, image, regions, question_type=kind)

    def _annotation(self, image: str) -> dict[str, Any]:
        """The .json beside a picture."""
        try:
            path = find_image(self.images, str(PurePosixPath(image).with_suffix(".json")))
            return as_record(json.loads(path.read_bytes()))
        except RejectedError as error:
            raise RejectedError(error.reason.replace("missing_image", "missing_annotation"), error.detail) from None
        except (OSError, ValueError, RecursionError) as error:
            raise RejectedError("malformed_record", f"annotation of {image}: {error}") from None


def _is_name(image: Any) -> bool:
    return isinstance(image, str) and bool(PurePosixPath(image).name)
