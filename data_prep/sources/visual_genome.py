"""Visual Genome questions (Krishna et al. 2017, https://homes.cs.washington.edu/~ranjay/visualgenome).

`question_answers.json` lists for each image its `qas`; `a_objects` are answer regions and `q_objects` evidence (most
questions name neither and keep no region). `image_data.json` says how large each picture is and in which folder.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.examples import Example, Region, RejectedError
from data_prep.fields import as_record, box_of_xywh, identifier, image_size, text
from data_prep.json_records import iter_records
from data_prep.sources.base import Lookup, RecordSource, id_of, list_of, region_of

_FOLDERS = ("VG_100K", "VG_100K_2")


class VisualGenomeSource(RecordSource):
    """Questions in file order, of `question_answers.json` and `image_data.json`.

    The image folder has VG_100K/ and VG_100K_2/ below it, or all pictures in it.
    """

    name, license = "visual_genome", "CC-BY-4.0"

    def __init__(self, questions: str | Path, image_data: str | Path, images: Path):
        self.question_files = self._files(questions, "Visual Genome question_answers.json")
        self.image_files = self._files(image_data, "Visual Genome image_data.json")
        self._nested = any((images / folder).is_dir() for folder in _FOLDERS)
        super().__init__({"--questions": self.question_files, "--image-data": self.image_files})

    def _lookup_records(self) -> Iterator[tuple[str, Any]]:
        """(image id, [size, folder])."""
        for _, entry in (pair for file in self.image_files for pair in iter_records(file)):
            if isinstance(entry, dict):
                key, url = entry.get("image_id", entry.get("id")), entry.get("url")
                folder = PurePosixPath(url).parent.name if isinstance(url, str) else ""
                size = image_size(entry.get("width"), entry.get("height"))
                yield str(key)[:100], [size, folder if folder in _FOLDERS else ""]

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        for file in self.question_files:
            for index, (_, entry) in enumerate(iter_records(file)):
                place = f"{file.name}#{index}"
                qas = entry.get("qas") if isinstance(entry, dict) else None
                if not isinstance(qas, list):
                    yield place, place, None  # to be rejected
                    qas = []
                for at, record in enumerate(qas):
                    yield id_of(record, f"{place}.{at}", "qa_id"), place, record

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        image_id = identifier(record, "image_id")
        image = lookup(image_id)
        if image is None:
            raise RejectedError("unknown_image", f"image {image_id} is not in image_data.json")
        size, folder = image
        regions = [_region(entry, "answer") for entry in list_of(record, "a_objects")]
        regions += [_region(entry, "evidence") for entry in list_of(record, "q_objects")]
        answer = text(record, "answer").strip()
        solution = answer.rstrip(".") or answer  # "Blue." and "Blue" are one answer
        question = text(record, "question")
        name = f"{folder}/{image_id}" if self._nested and folder else image_id
        kind = (question.split() or [""])[0].strip("?,.").lower() or "unknown"
        return self._example(row_id, question, list(dict.fromkeys((solution, answer))), name, regions, size, kind)


def _region(entry: Any, role: str) -> Region:
    """An object; its size is spelt `w`, `h` in some of Visual Genome's files and `width`, `height` in others."""
    entry = as_record(entry)
    xywh = [entry.get("x"), entry.get("y"), entry.get("w", entry.get("width")), entry.get("h", entry.get("height"))]
    names = entry.get("names") or [entry.get("name")]
    label = names[0] if isinstance(names, list) else ""
    return region_of(box_of_xywh(xywh, f"object {str(entry.get('object_id'))[:50]}"), role, label)
