"""Visual-CoT (Shao et al. 2024, https://huggingface.co/datasets/deepcs233/Visual-CoT) in its three forms.

1. `*_cot_train.jsonl`: question, answer, `bboxs` in pixels xyxy.
2. `benchmark_det/*.jsonl`: `expression` (the question) and `bbox` in pixels xyxy; the box is the answer.
3. LLaVA conversations (`viscot_363k.json`, ...): the first answer is a box normalised on the image padded to a square
   and the second image is named `path###[x1, y1, x2, y2]` with the same box in whole pixels. The pixels are taken; a
   conversation without them is turned back from the padded square.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.examples import ANSWER_WEIGHT, Box, Example, Region, Reject, RejectError
from data_prep.fields import as_record, box_of_xyxy, box_text, check_normalised, check_pixels, image_size, text
from data_prep.json_records import count_and_digest, digest_of, iter_lines, iter_records, list_files

LICENSE = "Apache-2.0"
WHERE = (
    "viscot_dataset/*_cot_train.jsonl, viscot_363k.json and benchmark_det/*.jsonl, with the images, are at "
    "https://huggingface.co/datasets/deepcs233/Visual-CoT and https://github.com/deepcs233/Visual-CoT"
)
_REQUEST = re.compile(r"\s*Please provide the bounding box coordinate.*$", re.IGNORECASE | re.DOTALL)


class VisualCotSource:
    """Rows in file order.

    Args:
        questions: a .jsonl or .json file, a folder of .jsonl files or a glob.

    Raises:
        PrepareError: a file is missing or not JSON.
    """

    name = "visual_cot"

    def __init__(self, questions: str | Path):
        self.files = list_files(questions, "Visual-CoT questions", WHERE, ".jsonl")
        lines = [file for file in self.files if file.suffix == ".jsonl"]
        self._count = sum(1 for file in lines for _ in iter_lines(file))
        self._count += count_and_digest(file for file in self.files if file.suffix != ".jsonl")[0]

    def __len__(self) -> int:
        return self._count

    def settings(self) -> dict[str, Any]:
        return {"--questions": digest_of(self.files)}

    def __iter__(self) -> Iterator[Example | Reject]:
        for file in self.files:
            records = iter_lines(file) if file.suffix == ".jsonl" else enumerate(r for _, r in iter_records(file))
            for index, record in records:
                row_id = f"{file.stem}-{index}"
                try:
                    yield build_example(row_id, record)
                except RejectError as error:
                    yield Reject(row_id, error.reason, f"{error.detail} ({file.name}, record {index})")


def build_example(row_id: str, record: Any) -> Example:
    """One record of any of the three forms.

    Raises:
        RejectError: malformed_record, no_answer, and those of boxes.
    """
    if isinstance(record, ValueError):
        raise RejectError("malformed_record", str(record))
    record = as_record(record)
    if "conversations" in record:
        return _of_conversation(row_id, record)
    size = image_size(record.get("width"), record.get("height"))
    if "expression" in record:
        box = check_pixels(box_of_xyxy(record.get("bbox"), "bbox"), "bbox")
        question = (
            f'Give the box of what answers "{text(record, "expression")}" as [x1, y1, x2, y2] in pixels of the image.'
        )
        return _example(row_id, question, box_text(box), text(record, "img_path"), size, [_region(box)], "locate")
    boxes = record.get("bboxs")
    if not isinstance(boxes, list) or not boxes:
        raise RejectError("malformed_record", f"bboxs is {str(boxes)[:200]}, expected a list of boxes")
    regions = [_region(check_pixels(box_of_xyxy(box, "bboxs"), "bboxs")) for box in boxes]
    kind = text(record, "dataset") if record.get("dataset") is not None else "unknown"
    question, answer = text(record, "question"), text(record, "answer")
    return _example(row_id, question, answer, text(record, "image"), size, regions, kind)


def _of_conversation(row_id: str, record: dict) -> Example:
    turns = record["conversations"]
    if not isinstance(turns, list) or len(turns) < 4:
        raise RejectError("malformed_record", f"conversations are {str(turns)[:200]}, expected four turns")
    asked, boxed, answered = (text(as_record(turns[index]), "value") for index in (0, 1, 3))
    question = _REQUEST.sub("", asked.replace("<image>", "")).strip()
    if not question:
        raise RejectError("malformed_record", "the first turn holds no question")
    image = record.get("image")
    names = [image] if isinstance(image, str) else image
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise RejectError("malformed_record", f"image is {str(image)[:200]}, expected names")
    path, _, pixels = names[-1].partition("###")
    size = image_size(record.get("width"), record.get("height"))
    if pixels:
        region = _region(check_pixels(box_of_xyxy(_list(pixels), "box behind ###"), "box behind ###"))
        path = names[0].partition("###")[0]
    else:
        padded = check_normalised(box_of_xyxy(_list(boxed), "box of the conversation"), "box of the conversation")
        region = Region(padded, "answer", ANSWER_WEIGHT, "", space="padded_square")
    kind = text(record, "dataset") if record.get("dataset") is not None else "unknown"
    return _example(row_id, question, answered, path, size, [region], kind)


def _list(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RejectError("malformed_record", f"expected a box in brackets, found {value[:200]!r}") from None


def _region(box: Box) -> Region:
    return Region(box, "answer", ANSWER_WEIGHT, "")


def _example(
    row_id: str,
    question: str,
    answer: str,
    image: str,
    size: tuple[int, int] | None,
    regions: list[Region],
    kind: str,
) -> Example:
    return Example(
        id=row_id,
        question=question,
        solution=answer,
        answers=(answer,),
        images=(image,),
        annotated_sizes=(size,),
        regions=tuple(regions),
        question_type=kind,
        source="visual_cot",
        license=LICENSE,
    )
