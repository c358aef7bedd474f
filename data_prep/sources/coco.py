"""COCO instances (Lin et al. 2014, https://cocodataset.org), or any file in that format -> questions with masks.

The annotations lie in no useful order and are too many for memory, so they go into a temporary database. The questions
of `coco_templates` are made image by image and then balanced: as many no as yes for each class, and no number of a
class more frequent than its second most frequent one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_prep.examples import Example, Region, Reject, RejectError
from data_prep.fields import as_record, image_size, text
from data_prep.json_records import digest_of, iter_members, list_files
from data_prep.sources.coco_scenes import Record, ask_about, key_of, region_of
from data_prep.sources.coco_templates import LEAST_AREA, Category
from data_prep.store import as_json, database
from data_prep.workers import run_jobs

LICENSE = "CC-BY-4.0"
WHERE = (
    "annotations_trainval2017.zip (instances_train2017.json, instances_val2017.json) and train2017.zip, val2017.zip "
    "are at https://cocodataset.org/#download"
)
_SCENES_PER_JOB = 500
_TABLES = """
CREATE TABLE image (id PRIMARY KEY, file_name, width, height, license);
CREATE TABLE annotation (id PRIMARY KEY, image_id, value);
CREATE TABLE question (image_id, digest, template, name, category, answer, value);
CREATE TABLE count_limit (category PRIMARY KEY, most);
CREATE TABLE reject (id, reason, detail);
"""
_BY_IMAGE = """
SELECT image.id, width, height, annotation.id, value FROM image LEFT JOIN annotation ON image_id = image.id
ORDER BY image.id, annotation.id
"""
# Written by image and digest, and read in that order.
_QUESTIONS = """
SELECT image.*, template, name, answer, value FROM question JOIN image ON image.id = image_id
ORDER BY question.rowid
"""
# One class has as many no as yes: of the more frequent answer, those with the lowest digests stay.
_BALANCE_EXIST = """
DELETE FROM question WHERE rowid IN (
  SELECT number FROM (
    SELECT rowid AS number, category, row_number() OVER (PARTITION BY category, answer ORDER BY digest) AS rank
    FROM question WHERE template = 'exist')
  JOIN (SELECT category AS key, min(sum(answer = 'yes'), sum(answer = 'no')) AS most
    FROM question WHERE template = 'exist' GROUP BY category) ON key = category
  WHERE rank > most)
"""
_BALANCE_COUNT = """
DELETE FROM question WHERE rowid IN (
  SELECT number FROM (
    SELECT rowid AS number, category, row_number() OVER (PARTITION BY category, answer ORDER BY digest) AS rank
    FROM question WHERE template = 'count') AS ranked
  JOIN count_limit ON count_limit.category = ranked.category
  WHERE rank > most)
"""


class CocoSource:
    """Rejected annotations first, then questions by image.

    Args:
        instances: instances JSON file.
        seed: another seed asks other questions.
        per_image: most questions about one image.
        least_area: pixels that an object must have to be asked for.
        license: licence of the annotations; each image's own is put beside it.
        num_proc: processes that make the questions, which do not depend on it.

    Raises:
        PrepareError: the file is missing or no JSON.
    """

    name = "coco"

    def __init__(
        self,
        instances: str | Path,
        seed: int = 0,
        per_image: int = 6,
        least_area: float = LEAST_AREA,
        license: str = LICENSE,
        num_proc: int = 1,
    ):
        (self.file, *_) = list_files(instances, "COCO instances file", WHERE)
        self.seed, self.per_image, self.least_area, self.license = seed, per_image, least_area, license
        self._stack = ExitStack()
        self._db: sqlite3.Connection = self._stack.enter_context(database())
        self._categories: dict[Any, Category] = {}
        self._licenses: dict[Any, str] = {}
        self._read_file()
        self._ask(num_proc)

    def __len__(self) -> int:
        """Number of questions and rejected records."""
        return self._count("question") + self._count("reject")

    def _count(self, table: str) -> int:
        ((rows,),) = self._db.execute(f"SELECT count(*) FROM {table}").fetchall()
        return rows

    def settings(self) -> dict[str, Any]:
        return {
            "--instances": digest_of([self.file]),
            "--seed": self.seed,
            "--per-image": self.per_image,
            "--least-area": self.least_area,
            "--license": self.license,
        }

    def __iter__(self) -> Iterator[Example | Reject]:
        for row in self._db.execute("SELECT id, reason, detail FROM reject ORDER BY rowid"):
            yield Reject(*row)
        for image, rows in groupby(self._db.execute(_QUESTIONS), key=itemgetter(0, 1, 2, 3, 4)):
            known: dict[tuple, Region] = {}  # the same object each time, so that it is placed in the picture once
            for *_, template, name, answer, value in rows:
                yield self._example(image, template, name, answer, value, known)

    def _read_file(self) -> None:
        """Put images and annotations into the database."""
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN")
        for index, (member, value, written) in enumerate(iter_members(self.file)):
            try:
                if member == "images":
                    self._add_image(as_record(value))
                elif member == "annotations":
                    self._add_annotation(as_record(value), written, index)
                elif member == "categories":
                    entry = as_record(value)
                    names = text(entry, "name"), text({"supercategory": "", **entry}, "supercategory")
                    self._categories[key_of(entry)] = Category(key_of(entry), *names)
                elif member == "licenses":
                    self._licenses[key_of(as_record(value))] = text(value, "name")
            except RejectError as error:
                self._reject(f"{member}#{index}", error)
        self._db.execute("CREATE INDEX by_image ON annotation (image_id, id)")

    def _add_image(self, entry: dict) -> None:
        size = image_size(entry.get("width"), entry.get("height"))
        if size is None:
            raise RejectError("malformed_record", f"image {entry.get('id')!r} has no width and height")
        row = (key_of(entry), as_json(text(entry, "file_name")), *size, as_json(entry.get("license")))
        if not self._db.execute("INSERT OR IGNORE INTO image VALUES (?, ?, ?, ?, ?)", row).rowcount:
            raise RejectError("duplicate_id", f"an earlier image has the id {row[0]!r}; the first one is kept")

    def _add_annotation(self, entry: dict, written: str, index: int) -> None:
        image_id = key_of(entry, "image_id")
        try:
            key = key_of(entry)
        except RejectError:
            key = f"annotations#{index}"
        row = (key, image_id, written)
        if not self._db.execute("INSERT OR IGNORE INTO annotation VALUES (?, ?, ?)", row).rowcount:
            raise RejectError("duplicate_id", f"an earlier annotation has the id {key!r}; the first one is kept")

    def _ask(self, num_proc: int) -> None:
        """Make the questions of all images, and balance them."""
        shared = list(self._categories.values()), self.seed, self.least_area, self.per_image
        jobs = ((scenes, *shared) for scenes in self._scenes())
        processes = num_proc if self._count("image") > _SCENES_PER_JOB else 1
        for asked, rejected in run_jobs(ask_about, jobs, processes, on_rows=lambda rows: None):
            self._db.executemany("INSERT INTO question VALUES (?, ?, ?, ?, ?, ?, ?)", asked)
            for key, error in rejected:
                self._reject(f"annotation {key}", error)
        for key, image_id in self._db.execute(
            "SELECT id, image_id FROM annotation WHERE image_id NOT IN (SELECT id FROM image) ORDER BY id"
        ).fetchall():
            self._reject(f"annotation {key}", RejectError("unknown_image", f"image {image_id!r} is not in the file"))
        self._db.execute(_BALANCE_EXIST)
        counts: dict[Any, list[int]] = {}
        for category, frequency in self._db.execute(
            "SELECT category, count(*) FROM question WHERE template = 'count' GROUP BY category, answer"
        ):
            counts.setdefault(category, []).append(frequency)
        limits = [(category, sorted([1, *frequencies])[-2]) for category, frequencies in counts.items()]
        self._db.executemany("INSERT INTO count_limit VALUES (?, ?)", limits)
        self._db.execute(_BALANCE_COUNT)

    def _scenes(self) -> Iterator[list[Record]]:
        """The images with their annotations, some hundred at a time."""
        rows = self._db.execute(_BY_IMAGE)
        images = (
            (*image, [(key, value) for *_, key, value in annotations if value])
            for image, annotations in groupby(rows, key=itemgetter(0, 1, 2))
        )
        while scenes := list(islice(images, _SCENES_PER_JOB)):
            yield scenes

    def _example(
        self, image: tuple, template: str, name: str, answer: str, value: str, known: dict[tuple, Region]
    ) -> Example:
        image_id, file_name, width, height, license_id = image
        text, named = json.loads(value)
        regions = []
        for values in named:
            key = values[0], values[1]
            if key not in known:
                known[key] = region_of(values, (width, height), self._categories)
            regions.append(known[key])
        license_id = json.loads(license_id)
        own = self._licenses.get(license_id, "unknown") if isinstance(license_id, int | str) else "unknown"
        return Example(
            id=f"{image_id}-{name}",
            question=text,
            solution=answer,
            answers=(answer,),
            images=(json.loads(file_name),),
            annotated_sizes=((width, height),),
            regions=tuple(regions),
            question_type=template,
            source=self.name,
            license=f"{self.license}, image: {own}",
        )

    def _reject(self, row_id: str, error: RejectError) -> None:
        values = (value.encode("ascii", "backslashreplace").decode() for value in (row_id, error.reason, error.detail))
        self._db.execute("INSERT INTO reject VALUES (?, ?, ?)", tuple(values))
