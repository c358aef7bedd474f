"""Visual Genome questions (Krishna et al. 2017, https://homes.cs.washington.edu/~ranjay/visualgenome).

`question_answers.json` lists for each image its `qas`; `a_objects` are answer regions and `q_objects` evidence (most
questions name neither and keep no region). `image_data.json` says how large each picture is and in which folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.examples import Example, Region, Reject, RejectError
from data_prep.fields import as_record, box_of_xywh, identifier, image_size, text, weight_of
from data_prep.json_records import digest_of, iter_records, list_files
from data_prep.store import RecordStore, database

LICENSE = "CC-BY-4.0"
WHERE = (
    "question_answers.json.zip, image_data.json.zip and the images (VG_100K, VG_100K_2) are at "
    "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"
)


class VisualGenomeSource:
    """Questions in file order.

    Args:
        questions: `question_answers.json`.
        image_data: `image_data.json`.
        images: the image folder; with VG_100K/ and VG_100K_2/ below it, or all pictures in it.

    Raises:
        PrepareError: a file is missing or not JSON.
    """

    name = "visual_genome"

    def __init__(self, questions: str | Path, image_data: str | Path, images: Path):
        self.question_files = list_files(questions, "Visual Genome question_answers.json", WHERE)
        self.image_files = list_files(image_data, "Visual Genome image_data.json", WHERE)
        self._nested = (images / "VG_100K").is_dir() or (images / "VG_100K_2").is_dir()
        self._count = sum(1 for _ in self._questions())

    def __len__(self) -> int:
        return self._count

    def settings(self) -> dict[str, Any]:
        return {"--questions": digest_of(self.question_files), "--image-data": digest_of(self.image_files)}

    def __iter__(self) -> Iterator[Example | Reject]:
        with database() as connection:
            images = RecordStore(connection, (entry for file in self.image_files for entry in _images(file)))
            for row_id, record in self._questions():
                try:
                    yield self._example(row_id, as_record(record), images)
                except RejectError as error:
                    yield Reject(row_id, error.reason, error.detail)

    def _questions(self) -> Iterator[tuple[str, Any]]:
        """(id, qa) of every question; an entry without a list of them comes as it is, to be rejected."""
        for file in self.question_files:
            for index, (_, entry) in enumerate(iter_records(file)):
                place = f"{file.name}#{index}"
                qas = entry.get("qas") if isinstance(entry, dict) else None
                if not isinstance(qas, list):
                    yield place, None
                    continue
                for at, record in enumerate(qas):
                    given = record.get("qa_id") if isinstance(record, dict) else None
                    yield (str(given) if isinstance(given, int | str) else f"{place}.{at}"), record

    def _example(self, row_id: str, record: dict, images: RecordStore) -> Example:
        image_id = identifier(record, "image_id")
        image = images.get(image_id)
        if image is None:
            raise RejectError("unknown_image", f"image {image_id} is not in image_data.json")
        size, folder = image
        regions = [_region(entry, "answer") for entry in _listed(record, "a_objects")]
        regions += [_region(entry, "evidence") for entry in _listed(record, "q_objects")]
        answer = text(record, "answer").strip()
        solution = answer.rstrip(".") or answer  # "Blue." and "Blue" are one answer
        question = text(record, "question")
        return Example(
            id=row_id,
            question=question,
            solution=solution,
            answers=tuple(dict.fromkeys((solution, answer))),
            images=(f"{folder}/{image_id}" if self._nested and folder else image_id,),
            annotated_sizes=(tuple(size) if size else None,),  # type: ignore[arg-type]
            regions=tuple(regions),
            question_type=(question.split() or ["unknown"])[0].strip("?,.").lower() or "unknown",
            source=self.name,
            license=LICENSE,
        )


def _images(file: Path) -> Iterator[tuple[str, Any]]:
    """(image id, [size, folder])."""
    for _, entry in iter_records(file):
        if isinstance(entry, dict):
            key = entry.get("image_id", entry.get("id"))
            folder = PurePosixPath(entry["url"]).parent.name if isinstance(entry.get("url"), str) else ""
            known = folder if folder in ("VG_100K", "VG_100K_2") else ""
            yield str(key)[:100], [image_size(entry.get("width"), entry.get("height")), known]


def _listed(record: dict, field: str) -> list:
    value = record.get(field) or []
    if not isinstance(value, list):
        raise RejectError("malformed_record", f"{field} is {str(value)[:200]}, expected a list of objects")
    return value


def _region(entry: Any, role: Any) -> Region:
    """An object; its size is spelt `w`, `h` in some of Visual Genome's files and `width`, `height` in others."""
    entry = as_record(entry)
    xywh = [entry.get("x"), entry.get("y"), entry.get("w", entry.get("width")), entry.get("h", entry.get("height"))]
    names = entry.get("names") or [entry.get("name")]
    label = names[0] if isinstance(names, list) and isinstance(names[0], str) else ""
    return Region(box_of_xywh(xywh, f"object {str(entry.get('object_id'))[:50]}"), role, weight_of(role), label)
