"""Visual-CoT (Shao et al. 2024, https://huggingface.co/datasets/deepcs233/Visual-CoT) in its three forms.

1. `*_cot_train.jsonl`: question, answer, `bboxs` in pixels xyxy.
2. `viscot_benchmark/benchmark_det/*.jsonl`: `expression` (the question) and `bbox` in pixels xyxy, the answer.
3. LLaVA conversations (`viscot_363k.json`; held out: `viscot_benchmark/benchmark/*.json`): the first answer is a box
   normalised on the image padded to a square, and the second image is named `path###[x1, y1, x2, y2]` with the same
   box in whole pixels. The pixels are taken; a conversation without them is turned back from the padded square.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.examples import Example, RejectedError
from data_prep.fields import as_record, box_of_xyxy, box_text, check_normalised, check_pixels, image_size, text
from data_prep.json_records import count_and_digest, digest_of, iter_lines, iter_records, list_files
from data_prep.sources.base import Lookup, RecordSource, list_of, optional_text, region_of

WHERE = (
    "viscot_dataset/*_cot_train.jsonl, viscot_363k.json and the images are at "
    "https://huggingface.co/datasets/deepcs233/Visual-CoT, viscot_benchmark/ at https://github.com/deepcs233/Visual-CoT"
)
_REQUEST = re.compile(r"\s*Please provide the bounding box coordinate.*$", re.IGNORECASE | re.DOTALL)


class VisualCotSource(RecordSource):
    """Rows in file order.

    Args:
        questions: a .jsonl or .json file, a folder of them or a glob.

    Raises:
        PrepareError: a file is missing or not JSON.
    """

    name, license = "visual_cot", "Apache-2.0"

    def __init__(self, questions: str | Path):
        self.files = list_files(questions, "Visual-CoT questions", WHERE, ".json*")
        lines = [file for file in self.files if file.suffix == ".jsonl"]
        self._count = sum(1 for file in lines for _ in iter_lines(file))
        self._count += count_and_digest(file for file in self.files if file.suffix != ".jsonl")[0]
        self._settings = {"--questions": digest_of(self.files)}

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        for file in self.files:
            records = iter_lines(file) if file.suffix == ".jsonl" else enumerate(r for _, r in iter_records(file))
            for index, record in records:
                yield f"{file.stem}-{index}", f"{file.name}, record {index}", record

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        size = image_size(record.get("width"), record.get("height"))
        if "conversations" in record:
            question, answer, image, regions = _of_conversation(record)
        elif "expression" in record:
            box, image = _pixels(record.get("bbox"), "bbox"), text(record, "img_path")
            question = (
                f'Give the box of what answers "{text(record, "expression")}" '
                "as [x1, y1, x2, y2] in pixels of the image."
            )
            return self._example(row_id, question, [box_text(box)], image, [region_of(box)], size, "locate")
        else:
            regions = [region_of(_pixels(box, "bboxs")) for box in list_of(record, "bboxs", least=1)]
            question, answer, image = (text(record, field) for field in ("question", "answer", "image"))
        return self._example(row_id, question, [answer], image, regions, size, optional_text(record, "dataset"))


def _of_conversation(record: dict) -> tuple[str, str, str, list]:
    """(question, answer, image, regions)."""
    turns = list_of(record, "conversations", least=4)
    asked, boxed, answer = (text(as_record(turns[index]), "value") for index in (0, 1, 3))
    question = _REQUEST.sub("", asked.replace("<image>", "")).strip()
    if not question:
        raise RejectedError("malformed_record", "the first turn holds no question")
    names = [record["image"]] if isinstance(record.get("image"), str) else list_of(record, "image", least=1)
    if not all(isinstance(name, str) for name in names):
        raise RejectedError("malformed_record", f"image is {str(names)[:200]}, expected names")
    path, _, pixels = names[-1].partition("###")
    if pixels:
        region = region_of(_pixels(_list(pixels), "box behind ###"))
        path = names[0].partition("###")[0]
    else:
        what = "box of the conversation"
        region = region_of(check_normalised(box_of_xyxy(_list(boxed), what), what), space="padded_square")
    return question, answer, path, [region]


def _pixels(values: Any, what: str) -> tuple:
    return check_pixels(box_of_xyxy(values, what), what)


def _list(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RejectedError("malformed_record", f"expected a box in brackets, got {value[:200]!r}") from None
