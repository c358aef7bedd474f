"""TreeBench (Wang et al. 2025, arXiv 2507.07999): multiple choice, with the boxes of what must be seen. For evaluation.

`TreeBench.tsv` holds the pictures (base64), `question`, `multi-choice options` (text), the columns A, B, ... of each
option's text, `answer` (a letter), `category` and `target_instances` (a list of [x1, y1, x2, y2] in pixels, as text).
All target instances are answer regions.

The format was read in the authors' inference_treebench.py and in public readers of the file; no record of it was seen.
The options follow the question as in that script. VLMEvalKit leaves them out in the category Perception/OCR, so they
are not repeated where the question holds them already.
"""

from __future__ import annotations

import ast
import base64
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.examples import EmbeddedImage, Example, PrepareError, RejectedError
from data_prep.fields import box_of_xyxy, check_pixels, text
from data_prep.json_records import digest_of, list_files
from data_prep.sources.base import Lookup, RecordSource, choice_answers, optional_text, region_of, with_choices

WHERE = "TreeBench.tsv is at https://huggingface.co/datasets/HaochenWang/TreeBench"
_COLUMNS = ("index", "image", "question", "multi-choice options", "answer", "category", "target_instances")
_LONGEST_FIELD = 1 << 28  # characters of one picture


class TreeBenchSource(RecordSource):
    """Rows in file order.

    Args:
        file: `TreeBench.tsv`.

    Raises:
        PrepareError: the file is missing, lacks a column, or is no such table.
    """

    name, license = "treebench", "Apache-2.0"
    rows_per_shard = 500  # the images of a whole shard wait in memory

    def __init__(self, file: str | Path):
        self.files = list_files(file, "TreeBench table", WHERE, ".tsv")
        self._count = sum(1 for _ in self._records())
        self._settings = {"--file": digest_of(self.files)}

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        csv.field_size_limit(_LONGEST_FIELD)
        for file in self.files:
            with file.open(encoding="utf-8", newline="") as lines:
                reader = csv.DictReader(lines, delimiter="\t")
                try:
                    if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
                        raise PrepareError(f"{file} lacks the columns {', '.join(missing)}: is it TreeBench? {WHERE}")
                    for number, record in enumerate(reader):
                        place = f"{file.name}#{number}"
                        yield f"treebench-{record['index']}" if record["index"] else place, place, record
                except (csv.Error, UnicodeDecodeError) as error:
                    raise PrepareError(f"{file} cannot be read at line {reader.line_num}: {error}") from None

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        question, options, letter = (text(record, name) for name in ("question", "multi-choice options", "answer"))
        letter = letter.strip().upper()
        if len(letter) != 1 or not letter.isalpha():
            raise RejectedError("malformed_record", f"answer is {letter[:50]!r}, expected a letter")
        try:
            image = base64.b64decode(text(record, "image"), validate=True)
        except ValueError as error:
            raise RejectedError("unreadable_image", f"image is not base64: {error}") from None
        regions = [region_of(box) for box in _boxes(text(record, "target_instances"))]
        question = with_choices(question if options in question else f"{question} Options:\n{options}")
        answers, kind = choice_answers(letter, record.get(letter) or ""), optional_text(record, "category")
        return self._example(
            row_id, question, answers, EmbeddedImage(f"{row_id}.jpg", image), regions, question_type=kind
        )


def _boxes(value: str) -> list:
    """The boxes of a list in Python's notation."""
    what = "target_instances"
    try:
        boxes = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        boxes = None
    if not isinstance(boxes, list | tuple) or not boxes:
        raise RejectedError("malformed_record", f"{what} is {value[:200]!r}, expected a list of boxes")
    return [check_pixels(box_of_xyxy(box, what), what) for box in boxes]
