"""TextVQA v0.5.1 (Singh et al. 2019, arXiv 1904.08920, https://textvqa.org), with the boxes of Rosetta's OCR.

TextVQA annotates no region. An answer region is the box of an OCR word that is an accepted answer or part of one: of
the answers, the most frequent first, the first one that stands in the picture as one or several words in a row is
marked wherever it stands. If none does, words of the first answer of which a part is there are. Case, blanks and signs
do not count. A question without such a word keeps no region.

`answers` are those of all ten annotators, repetitions included, as VQA accuracy needs them.

The format was read in public readers of both files and in a published record of the OCR file. The boxes are shares of
the picture's sides. Their angles (rotation, roll, pitch, yaw) are not read, as in those readers; how far a turned
word's box is off could not be verified.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.examples import Example, RejectedError
from data_prep.fields import box_of_xywh, check_normalised, identifier, text
from data_prep.json_records import digest_of, iter_members, list_files
from data_prep.sources.base import Lookup, RecordSource, list_of, region_of

WHERE = (
    "TextVQA_0.5.1_val.json, TextVQA_Rosetta_OCR_v0.2_val.json and train_val_images.zip (and the same of train) are at "
    "https://textvqa.org/dataset"
)
_SIDES = ("top_left_x", "top_left_y", "width", "height")
_LEAST_PART = 3  # letters: shorter words of an answer stand in too many places
_NO_PARTS = frozenset({"the", "and", "for"})


class TextVqaSource(RecordSource):
    """Questions in file order.

    Args:
        questions: `TextVQA_0.5.1_{train,val}.json`; the test questions have no answers.
        ocr: `TextVQA_Rosetta_OCR_v0.2_{train,val}.json`.

    Raises:
        PrepareError: a file is missing or not JSON.
    """

    name, license = "textvqa", "CC-BY-4.0"

    def __init__(self, questions: str | Path, ocr: str | Path):
        self.question_files = list_files(questions, "TextVQA questions", WHERE)
        self.ocr_files = list_files(ocr, "TextVQA OCR file", WHERE)
        self._count = sum(1 for _ in self._records())
        self._settings = {"--questions": digest_of(self.question_files), "--ocr": digest_of(self.ocr_files)}

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        for file in self.question_files:
            records = (entry for member, entry, _ in iter_members(file) if member == "data")
            for index, record in enumerate(records):
                given = record.get("question_id") if isinstance(record, dict) else None
                yield str(given) if isinstance(given, int | str) else f"{file.name}#{index}", file.name, record

    def _lookup_records(self) -> Iterator[tuple[str, Any]]:
        """(image id, [word, [x, y, width, height]] of each OCR word)."""
        for member, entry, _ in (member for file in self.ocr_files for member in iter_members(file)):
            if member == "data" and isinstance(entry, dict):
                found = entry.get("ocr_info") if isinstance(entry.get("ocr_info"), list) else []
                pairs = [(info["word"], info.get("bounding_box")) for info in found if _has_word(info)]
                boxes = [box if isinstance(box, dict) else {} for _, box in pairs]
                words = [word for word, _ in pairs]
                yield str(entry.get("image_id")), [words, [[box.get(side) for side in _SIDES] for box in boxes]]

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        image_id, question = identifier(record, "image_id"), text(record, "question")
        if not record.get("answers"):
            raise RejectedError("no_answer", "the question has no answers: is it of the test split?")
        answers = [text({"answer": answer}, "answer") for answer in list_of(record, "answers")]
        ranked = [answer for answer, _ in Counter(answers).most_common()]
        words, boxes = lookup(image_id) or ([], [])
        regions = []
        for index in words_of_answer(ranked, words):
            what = f"box of the OCR word {words[index]!r}"
            box = check_normalised(box_of_xywh(boxes[index], what), what)
            regions.append(region_of(box, label=words[index], space="normalised"))
        answers.sort(key=lambda answer: answer != ranked[0])  # stable: the solution first
        return self._example(row_id, question, answers, image_id, regions, question_type="text")


def words_of_answer(answers: Sequence[str], words: Sequence[str]) -> list[int]:
    """Indices of the OCR words that are an answer, or part of one, by the rule at the top of this file.

    Args:
        answers: the accepted answers, the most frequent first.
        words: the OCR words in reading order.
    """
    plain = [_plain(word) for word in words]
    for answer in map(_plain, answers):
        runs = [run for start in range(len(plain)) if (run := _run(answer, plain, start))]
        if runs:
            return sorted({index for run in runs for index in run})
    for answer in answers:
        parts = {part for part in map(_plain, answer.split()) if len(part) >= _LEAST_PART} - _NO_PARTS
        if indices := [index for index, word in enumerate(plain) if word in parts]:
            return indices
    return []


def _run(answer: str, words: Sequence[str], start: int) -> range:
    """The words from `start` on that spell the answer together; empty if they do not."""
    spelt = ""
    for index in range(start, len(words)):
        spelt += words[index]
        if not words[start] or not answer.startswith(spelt):
            break
        if spelt == answer:
            return range(start, index + 1)
    return range(0)


def _plain(value: str) -> str:
    return "".join(character for character in value.casefold() if character.isalnum())


def _has_word(info: Any) -> bool:
    return isinstance(info, dict) and isinstance(info.get("word"), str)
