"""V*Bench (Wu and Xie 2023, arXiv 2312.14135): small objects in large pictures, with boxes. For evaluation.

`test_questions.jsonl` holds in `text` a question and its options in a fixed order, and as `label` the right letter.
The .json beside each picture holds the target objects and their boxes [x, y, width, height] in pixels. All of them are
answer regions: a question about a relative position needs both alike.

The format was read in penghao-wu/vstar (vstar_bench_eval.py, visual_search.py), in public readers of
test_questions.jsonl and in published records (sa_4690, sa_6183). No licence of the data set could be found.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.examples import Example, RejectedError
from data_prep.fields import as_record, box_of_xywh, text
from data_prep.images import find_image
from data_prep.sources.base import (
    Lookup,
    RecordSource,
    list_of,
    multiple_choice,
    pixel_box,
    records_of_lines,
    region_of,
)

_OPTION = re.compile(r"^\(([A-Z])\)\s*(.*\S)", re.MULTILINE)
_INSTRUCTION = re.compile(r"\s*Answer with the option's letter[^\n]*$")


class VstarSource(RecordSource):
    """Questions in file order, under the names of their pictures.

    The image folder holds direct_attributes/ and relative_position/ with the pictures and their annotations.
    """

    name, license = "vstar", "unknown"

    def __init__(self, questions: str | Path, images: Path):
        self.files, self.images = self._files(questions, "V*Bench questions", ".jsonl"), images
        super().__init__({"--questions": [*self.files, *sorted(images.glob("*/*.json"))]})

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        return records_of_lines(self.files, "image")

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        image, asked, letter = (text(record, field) for field in ("image", "text", "label"))
        options = dict(_OPTION.findall(asked))
        if letter not in options:
            raise RejectedError("malformed_record", f"label {letter[:50]!r} is not among the options {options}")
        annotation = self._annotation(image.rpartition(".")[0] + ".json")
        boxes, names = list_of(annotation, "bbox", least=1), list_of(annotation, "target_object", least=1)
        if len(boxes) != len(names):
            raise RejectedError("malformed_record", f"{len(boxes)} boxes of the objects {str(names)[:200]}")
        regions = [
            region_of(pixel_box(box, "bbox", box_of_xywh), label=name) for box, name in zip(boxes, names, strict=True)
        ]
        question, answers = multiple_choice(_INSTRUCTION.sub("", asked), letter, options[letter])
        return self._example(row_id, question, answers, image, regions, question_type=text(record, "category"))

    def _annotation(self, name: str) -> dict[str, Any]:
        try:
            return as_record(json.loads(find_image(self.images, name).read_bytes()))
        except RejectedError as error:
            raise RejectedError(error.reason.replace("missing_image", "missing_annotation"), error.detail) from None
        except (OSError, ValueError, RecursionError) as error:
            raise RejectedError("malformed_record", f"{name}: {error}") from None
