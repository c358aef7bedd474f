"""Visual-CoT (Shao et al. 2024, https://huggingface.co/datasets/deepcs233/Visual-CoT) in its three forms.

1. `*_cot_train.jsonl`: question, answer, `bboxs` in pixels xyxy.
2. `viscot_benchmark/benchmark_det/*.jsonl`: `expression` (the question) and `bbox` in pixels xyxy, the answer.
3. LLaVA conversations (`viscot_363k.json`; held out: `viscot_benchmark/benchmark/*.json`): the second image is named
   `path###[x1, y1, x2, y2]`, in whole pixels. The first answer, the same box normalised on the image padded to a
   square, is not read.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.examples import Example, RejectedError
from data_prep.fields import as_record, box_text, image_size, text, written_list
from data_prep.json_records import iter_lines, iter_records
from data_prep.sources.base import Lookup, RecordSource, list_of, optional_text, pixel_box, region_of

_REQUEST = re.compile(r"\s*Please provide the bounding box coordinate.*$", re.IGNORECASE | re.DOTALL)


class VisualCotSource(RecordSource):
    """Rows in file order; `questions` is a .jsonl or .json file, a folder of them or a glob."""

    name, license = "visual_cot", "Apache-2.0"
    picture_fields = ("image", "img_path")

    def __init__(self, questions: str | Path):
        self.files = self._files(questions, "Visual-CoT questions", ".json*")
        super().__init__({"--questions": self.files})

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
            box, image = pixel_box(record.get("bbox"), "bbox"), text(record, "img_path")
            question = f'Give the box of what answers "{text(record, "expression")}" as [x1, y1, x2, y2].'
            return self._example(row_id, question, [box_text(box)], image, [region_of(box)], size, "locate")
        else:
            regions = [region_of(pixel_box(box, "bboxs")) for box in list_of(record, "bboxs", least=1)]
            question, answer, image = (text(record, field) for field in ("question", "answer", "image"))
        return self._example(row_id, question, [answer], image, regions, size, optional_text(record, "dataset"))


def _of_conversation(record: dict) -> tuple[str, str, str, list]:
    """(question, answer, image, regions)."""
    turns = list_of(record, "conversations", least=4)
    asked, answer = (text(as_record(turns[index]), "value") for index in (0, 3))
    question = _REQUEST.sub("", asked.replace("<image>", "")).strip()
    if not question:
        raise RejectedError("malformed_record", "the first turn holds no question")
    names = list_of(record, "image", least=2)
    path, mark, pixels = str(names[1]).partition("###")
    if not mark:
        raise RejectedError("no_box", f"the second image is {path[:200]!r}, without ###[x1, y1, x2, y2]")
    box = pixel_box(written_list(pixels, "box behind ###"), "box behind ###")
    return question, answer, str(names[0]), [region_of(box)]
