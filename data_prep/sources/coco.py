"""COCO instances (Lin et al. 2014, https://cocodataset.org), or any file in that format -> questions with masks.

The annotations lie in no useful order and are too many for memory, so they go into a temporary database. The questions
of `coco_templates` are made image by image and then balanced: as many no as yes for each class, and no number of a
class more frequent than its second most frequent one.
"""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_prep.examples import Example, Rejected, RejectedError
from data_prep.fields import as_record, image_size, text
from data_prep.json_records import digest_of, iter_members, list_files
from data_prep.sources.base import RecordSource
from data_prep.sources.coco_scenes import SceneRecord, ask_about, key_of
from data_prep.sources.coco_templates import LEAST_AREA, Category
from data_prep.store import as_json, database
from data_prep.workers import run_jobs

WHERE = (
    "annotations_trainval2017.zip (instances_train2017.json, instances_val2017.json) and train2017.zip, val2017.zip "
    "are at https://cocodataset.org/#download"
)
_SCENES_PER_JOB = 500
_TABLES = """
CREATE TABLE image (id PRIMARY KEY, file_name, width, height, license);
CREATE TABLE annotation (id PRIMARY KEY, image_id, value);
CREATE TABLE scene (id INTEGER PRIMARY KEY, examples);
CREATE TABLE question (scene_id, number, template, category, answer, digest);
CREATE TABLE answer_limit (template, category, most);
CREATE TABLE rejected (id, reason, detail);
"""
_BY_IMAGE = """
SELECT image.id, file_name, width, height, license, annotation.id, value
FROM image LEFT JOIN annotation ON image_id = image.id ORDER BY image.id, annotation.id
"""
_WITHOUT_IMAGE = "SELECT id, image_id FROM annotation WHERE image_id NOT IN (SELECT id FROM image) ORDER BY id"
_QUESTIONS = """
SELECT scene_id, number, examples FROM question JOIN scene ON scene.id = scene_id ORDER BY question.rowid
"""
_FREQUENCIES = "SELECT template, category, count(*) FROM question GROUP BY template, category, answer"
# An answer may be as frequent as the second most frequent one of its template and class; this many of it stay where
# there is no second one.
_ALONE = {"exist": 0, "count": 1}
# Those with the lowest digests stay.
_BALANCE = """
DELETE FROM question WHERE rowid IN (
  SELECT row_id FROM (
    SELECT rowid AS row_id, template, category,
      row_number() OVER (PARTITION BY template, category, answer ORDER BY digest) AS rank FROM question)
  JOIN answer_limit USING (template, category) WHERE rank > most)
"""


class CocoSource(RecordSource):
    """Rejected annotations first, then questions by image.

    Args:
        instances: instances JSON file.
        seed: another seed asks other questions.
        per_image: most questions about one image.
        least_area: pixels that an object must have to be asked for.
        license: licence of the annotations; each image's own is put beside it.
        num_proc: processes that make the questions, which do not depend on it.

    Raises:
        PrepareError: the file is missing or not JSON.
    """

    name = "coco"

    def __init__(
        self,
        instances: str | Path,
        seed: int = 0,
        per_image: int = 6,
        least_area: float = LEAST_AREA,
        license: str = "CC-BY-4.0",
        num_proc: int = 1,
    ):
        (self.file, *_) = list_files(instances, "COCO instances file", WHERE)
        self.license = license
        self._stack = ExitStack()
        self._db: sqlite3.Connection = self._stack.enter_context(database())
        self._categories: dict[Any, Category] = {}
        self._licenses: dict[Any, str] = {}
        self._read_file()
        self._ask(seed, least_area, per_image, num_proc)
        self._balance()
        self._count = self._rows_of("question") + self._rows_of("rejected")
        options = {"--seed": seed, "--per-image": per_image, "--least-area": least_area, "--license": license}
        self._settings = {"--instances": digest_of([self.file]), **options}

    def _rows_of(self, table: str) -> int:
        return self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]

    def __iter__(self) -> Iterator[Example | Rejected]:
        for row in self._db.execute("SELECT id, reason, detail FROM rejected ORDER BY rowid"):
            yield Rejected(*row)
        for _, rows in groupby(self._db.execute(_QUESTIONS), key=itemgetter(0)):
            examples: list[Example] = []
            for _, number, pickled in rows:
                examples = examples or pickle.loads(pickled)  # of this process's own temporary file
                yield examples[number]

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
            except RejectedError as error:
                self._reject(f"{member}#{index}", error)
        self._db.execute("CREATE INDEX by_image ON annotation (image_id, id)")

    def _add_image(self, entry: dict) -> None:
        size = image_size(entry.get("width"), entry.get("height"))
        if size is None:
            raise RejectedError("malformed_record", f"image {entry.get('id')!r} has no width and height")
        self._insert("image", key_of(entry), as_json(text(entry, "file_name")), *size, as_json(entry.get("license")))

    def _add_annotation(self, entry: dict, written: str, index: int) -> None:
        image_id = key_of(entry, "image_id")
        try:
            key = key_of(entry)
        except RejectedError:
            key = f"annotations#{index}"
        self._insert("annotation", key, image_id, written)

    def _insert(self, table: str, *row: Any) -> None:
        marks = ", ".join("?" * len(row))
        if not self._db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row).rowcount:
            raise RejectedError("duplicate_id", f"an earlier {table} has the id {row[0]!r}; the first one is kept")

    def _ask(self, seed: int, least_area: float, per_image: int, num_proc: int) -> None:
        """Make the questions of all images."""
        jobs = ((scenes, list(self._categories.values()), seed, least_area, per_image) for scenes in self._scenes())
        processes = num_proc if self._rows_of("image") > _SCENES_PER_JOB else 1
        for scenes, rejected in run_jobs(ask_about, jobs, processes):
            for examples, asked in scenes:
                scene_id = self._db.execute("INSERT INTO scene VALUES (NULL, ?)", [examples]).lastrowid
                rows = ((scene_id, number, *question) for number, question in enumerate(asked))
                self._db.executemany("INSERT INTO question VALUES (?, ?, ?, ?, ?, ?)", rows)
            for key, error in rejected:
                self._reject(f"annotation {key}", error)
        for key, image_id in self._db.execute(_WITHOUT_IMAGE).fetchall():
            self._reject(f"annotation {key}", RejectedError("unknown_image", f"image {image_id!r} is not in the file"))

    def _scenes(self) -> Iterator[list[SceneRecord]]:
        """The images with their annotations, some hundred at a time."""
        images = groupby(self._db.execute(_BY_IMAGE), key=itemgetter(slice(0, 5)))
        while scenes := [self._scene(*image, rows) for image, rows in islice(images, _SCENES_PER_JOB)]:
            yield scenes

    def _scene(self, key: Any, file_name: str, width: int, height: int, license: str, rows: Any) -> SceneRecord:
        license_id = json.loads(license)
        known = self._licenses.get(license_id, "unknown") if isinstance(license_id, int | str) else "unknown"
        entries = [(key, value) for *_, key, value in rows if value]
        return SceneRecord(key, json.loads(file_name), (width, height), f"{self.license}, image: {known}", entries)

    def _balance(self) -> None:
        groups: dict[tuple, list[int]] = {}
        for template, category, frequency in self._db.execute(_FREQUENCIES):
            if template in _ALONE:
                groups.setdefault((template, category), [_ALONE[template]]).append(frequency)
        limits = [(*group, sorted(frequencies)[-2]) for group, frequencies in groups.items()]
        self._db.executemany("INSERT INTO answer_limit VALUES (?, ?, ?)", limits)
        self._db.execute(_BALANCE)

    def _reject(self, row_id: str, error: RejectedError) -> None:
        values = (value.encode("ascii", "backslashreplace").decode() for value in (row_id, error.reason, error.detail))
        self._db.execute("INSERT INTO rejected VALUES (?, ?, ?)", tuple(values))
