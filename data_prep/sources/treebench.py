"""TreeBench (Wang et al. 2025, arXiv 2507.07999): multiple choice, with boxes of what must be seen. For evaluation.

`TreeBench.tsv` holds the pictures (base64), `question`, `multi-choice options` (text), the columns A, B, ... of each
option's text, `answer` (a letter), `category` and `target_instances` (a list of [x1, y1, x2, y2] in pixels, as text).
All target instances are answer regions.

The format was read in the authors' inference_treebench.py and in public readers of the file; no record of it was seen.
The options follow the question as in that script. VLMEvalKit leaves them out in the category Perception/OCR, so they
are not repeated where the question holds them already.
"""

import base64
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.examples import EmbeddedImage, Example, PrepareError, RejectedError
from data_prep.fields import text, written_list
from data_prep.sources.base import Lookup, RecordSource, id_of, multiple_choice, pixel_box, region_of

_COLUMNS = ("index", "image", "question", "multi-choice options", "answer", "category", "target_instances")
_LONGEST_FIELD = 1 << 28  # characters of one picture


class TreeBenchSource(RecordSource):
    """Rows of `TreeBench.tsv` in file order."""

    name, license = "treebench", "Apache-2.0"
    rows_per_shard = 500  # the images of a whole shard wait in memory

    def __init__(self, file: str | Path):
        self.file = self._file(file, "TreeBench table", ".tsv")
        super().__init__({"--file": [self.file]})

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        csv.field_size_limit(_LONGEST_FIELD)
        with self.file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t")
            try:
                if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
                    raise PrepareError(f"{self.file} lacks the columns {', '.join(missing)}: is it TreeBench.tsv?")
                for number, record in enumerate(reader):
                    yield id_of(record, f"row#{number}", "index"), f"row {number}", record
            except (csv.Error, UnicodeDecodeError) as error:
                raise PrepareError(f"{self.file} cannot be read at line {reader.line_num}: {error}") from None

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        question, options, category = (text(record, name) for name in ("question", "multi-choice options", "category"))
        letter = text(record, "answer").strip().upper()
        if len(letter) != 1 or not letter.isalpha():
            raise RejectedError("malformed_record", f"answer is {letter[:50]!r}, expected a letter")
        try:
            image = EmbeddedImage(f"{row_id}.jpg", base64.b64decode(text(record, "image"), validate=True))
        except ValueError as error:
            raise RejectedError("unreadable_image", f"image is not base64: {error}") from None
        boxes = written_list(text(record, "target_instances"), "target_instances")
        regions = [region_of(pixel_box(box, "target_instances")) for box in boxes]
        question = question if options in question else f"{question} Options:\n{options}"
        question, answers = multiple_choice(question, letter, record.get(letter) or "")
        return self._example(row_id, question, answers, image, regions, question_type=category)
