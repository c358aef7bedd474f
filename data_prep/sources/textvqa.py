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

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.examples import Example, RejectedError
from data_prep.fields import as_record, box_of_xywh, check_normalised, identifier, text
from data_prep.json_records import iter_members
from data_prep.sources.base import Lookup, RecordSource, id_of, list_of, region_of

_SIDES = ("top_left_x", "top_left_y", "width", "height")
_LEAST_PART = 3  # letters: shorter words of an answer stand in too many places
_NO_PARTS = frozenset({"the", "and", "for"})


class TextVqaSource(RecordSource):
    """Questions in file order, of `TextVQA_0.5.1_*.json` and `TextVQA_Rosetta_OCR_v0.2_*.json` of the same split.

    The test split has no answers.
    """

    name, license = "textvqa", "CC-BY-4.0"
    picture_fields = ("image_id",)

    def __init__(self, questions: str | Path, ocr: str | Path):
        self.question_files = self._files(questions, "TextVQA questions")
        self.ocr_files = self._files(ocr, "TextVQA OCR file")
        super().__init__({"--questions": self.question_files, "--ocr": self.ocr_files})

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        for index, record in enumerate(_data(self.question_files)):
            yield id_of(record, f"question#{index}", "question_id"), f"question {index}", record

    def _lookup_records(self) -> Iterator[tuple[str, Any]]:
        """(image id, [word, bounding box] of each OCR word)."""
        for entry in _data(self.ocr_files):
            words = entry.get("ocr_info") if isinstance(entry, dict) else None
            infos = [info for info in words if isinstance(info, dict)] if isinstance(words, list) else []
            pairs = [(info.get("word"), info.get("bounding_box")) for info in infos]
            yield str(entry.get("image_id")) if pairs else "", [pair for pair in pairs if isinstance(pair[0], str)]

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        image_id, question = identifier(record, "image_id"), text(record, "question")
        if not record.get("answers"):
            raise RejectedError("no_answer", "the question has no answers: is it of the test split?")
        answers = [text({"answer": answer}, "answer") for answer in list_of(record, "answers")]
        ranked = [answer for answer, _ in Counter(answers).most_common()]
        ocr, regions = lookup(image_id) or [], []
        for index in words_of_answer(ranked, [word for word, _ in ocr]):
            word, box = ocr[index]
            what = f"box of the OCR word {word!r}"
            xyxy = box_of_xywh([as_record(box).get(side) for side in _SIDES], what)
            regions.append(region_of(check_normalised(xyxy, what), label=word, space="normalised"))
        answers.sort(key=lambda answer: answer != ranked[0])  # the solution first
        return self._example(row_id, question, answers, image_id, regions, question_type="text")


def _data(files: Sequence[Path]) -> Iterator[Any]:
    """The entries of the list `data` of each file."""
    return (entry for file in files for member, entry, _ in iter_members(file) if member == "data")


def words_of_answer(answers: Sequence[str], words: Sequence[str]) -> list[int]:
    """Indices of the OCR words (in reading order) that are an answer (the most frequent first), or a part of one."""
    words = [_plain(word) for word in words]
    for answer in map(_plain, answers):
        if indices := {index for start in range(len(words)) for index in _run(answer, words, start)}:
            return sorted(indices)
    for answer in answers:
        parts = {part for part in map(_plain, answer.split()) if len(part) >= _LEAST_PART} - _NO_PARTS
        if indices := [index for index, word in enumerate(words) if word in parts]:
            return indices
    return []


def _run(answer: str, words: Sequence[str], start: int) -> range:
    """The words from `start` on that spell the answer together; empty if they do not."""
    spelt = ""
    for index in range(start, len(words)):
        spelt += words[index]
        if not spelt or not answer.startswith(spelt):
            break
        if spelt == answer:
            return range(start, index + 1)
    return range(0)


def _plain(value: str) -> str:
    return "".join(character for character in value.casefold() if character.isalnum())
