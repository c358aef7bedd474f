"""COCO instances (Lin et al. 2014, https://cocodataset.org), or any file in that format -> questions with masks.

The annotations lie in no useful order and are too many for memory, so they go into a temporary database. The questions
of `coco_templates` are made image by image and then balanced: as many no as yes for each class, and no number of a
class more frequent than its second most frequent one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from data_prep import masks
from data_prep.examples import Box, Example, Region, Reject, RejectError
from data_prep.fields import as_record, box_of_xywh, image_size, is_integer, number, text, weight_of
from data_prep.json_records import digest_of, iter_members, list_files
from data_prep.sources.coco_templates import LEAST_AREA, Category, Question, Scene, Thing, questions, siblings_of
from data_prep.store import as_json, database

LICENSE = "CC-BY-4.0"
WHERE = (
    "annotations_trainval2017.zip (instances_train2017.json, instances_val2017.json) and train2017.zip, val2017.zip "
    "are at https://cocodataset.org/#download"
)
_TABLES = """
CREATE TABLE image (id PRIMARY KEY, file_name, width, height, license);
CREATE TABLE annotation (id PRIMARY KEY, image_id, value);
CREATE TABLE question (image_id, digest, template, name, category, answer, value);
CREATE TABLE reject (id, reason, detail);
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
    SELECT rowid AS number, row_number() OVER (PARTITION BY answer ORDER BY digest) AS rank
    FROM question WHERE template = 'count' AND category IS ?)
  WHERE rank > ?)
"""


class CocoSource:
    """Rejected annotations first, then questions by image.

    Args:
        instances: instances JSON file.
        seed: another seed asks other questions.
        per_image: most questions about one image.
        least_area: pixels that an object must have to be asked for.
        license: licence of the annotations; each image's own is put beside it.

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
    ):
        (self.file, *_) = list_files(instances, "COCO instances file", WHERE)
        self.seed, self.per_image, self.least_area, self.license = seed, per_image, least_area, license
        self._stack = ExitStack()
        self._db: sqlite3.Connection = self._stack.enter_context(database())
        self._categories: dict[Any, Category] = {}
        self._licenses: dict[Any, str] = {}
        self._read_file()
        self._ask()

    def __len__(self) -> int:
        """Number of questions and rejected records."""
        ((asked, rejected),) = self._db.execute(
            "SELECT (SELECT count(*) FROM question), (SELECT count(*) FROM reject)"
        ).fetchall()
        return asked + rejected

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
        images = self._db.execute(
            "SELECT * FROM image WHERE id IN (SELECT image_id FROM question) ORDER BY id"
        ).fetchall()
        for image in images:
            annotation = lru_cache(maxsize=None)(self._annotation)  # the same object each time: a mask is encoded once

            @cache
            def region(key: Any, role: str, annotation: Any = annotation) -> Region:
                return self._region(annotation(key), role)

            for question in self._questions_of(image[0]):
                yield self._example(image, question, region)

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
                    self._categories[_key(entry)] = Category(_key(entry), *names)
                elif member == "licenses":
                    self._licenses[_key(as_record(value))] = text(value, "name")
            except RejectError as error:
                self._reject(f"{member}#{index}", error)
        self._db.execute("CREATE INDEX by_image ON annotation (image_id)")

    def _add_image(self, entry: dict) -> None:
        size = image_size(entry.get("width"), entry.get("height"))
        if size is None:
            raise RejectError("malformed_record", f"image {entry.get('id')!r} has no width and height")
        row = (_key(entry), as_json(text(entry, "file_name")), *size, as_json(entry.get("license")))
        if not self._db.execute("INSERT OR IGNORE INTO image VALUES (?, ?, ?, ?, ?)", row).rowcount:
            raise RejectError("duplicate_id", f"an earlier image has the id {row[0]!r}; the first one is kept")

    def _add_annotation(self, entry: dict, written: str, index: int) -> None:
        image_id = _key(entry, "image_id")
        try:
            key = _key(entry)
        except RejectError:
            key = f"annotations#{index}"
        row = (key, image_id, written)
        if not self._db.execute("INSERT OR IGNORE INTO annotation VALUES (?, ?, ?)", row).rowcount:
            raise RejectError("duplicate_id", f"an earlier annotation has the id {key!r}; the first one is kept")

    def _ask(self) -> None:
        """Make the questions of all images, and balance them."""
        shared = self._categories, siblings_of(self._categories.values()), self.seed, self.least_area
        for image_id, _, width, height, _ in self._db.execute("SELECT * FROM image ORDER BY id").fetchall():
            scene = Scene(image_id, width, height, *self._things(image_id, (width, height)), *shared)
            rows = (
                (image_id, digest, one.template, one.name, one.category, one.answer, _packed(one))
                for digest, one in questions(scene, self.per_image)
            )
            self._db.executemany("INSERT INTO question VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
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
        for category, frequencies in counts.items():
            self._db.execute(_BALANCE_COUNT, (category, sorted([1, *frequencies])[-2]))
        self._db.execute("CREATE INDEX questions_by_image ON question (image_id)")

    def _things(self, image_id: Any, size: tuple[int, int]) -> tuple[list[Thing], frozenset[Any]]:
        """(objects of an image, classes that cannot be asked for because of a crowd or an unusable annotation)."""
        things, blocked = [], set()
        for key, value in self._db.execute(
            "SELECT id, value FROM annotation WHERE image_id = ? ORDER BY id", (image_id,)
        ).fetchall():
            entry = json.loads(value)
            try:
                if entry.get("iscrowd"):
                    blocked.add(_key(entry, "category_id"))
                else:
                    things.append(self._thing(key, entry, size))
            except RejectError as error:
                self._reject(f"annotation {key}", error)
                if is_integer(entry.get("category_id")) or isinstance(entry.get("category_id"), str):
                    blocked.add(entry["category_id"])
        return things, frozenset(blocked)

    def _thing(self, key: Any, entry: dict, size: tuple[int, int]) -> Thing:
        category = _key(entry, "category_id")
        _key(entry)
        if category not in self._categories:
            raise RejectError("unknown_category", f"category {category!r} is not in the file")
        box = box_of_xywh(entry.get("bbox"), "bbox")
        x1, y1, x2, y2 = clipped = (max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1]))
        if x1 >= x2 or y1 >= y2:
            raise RejectError("box_outside_image", f"bbox {list(box)} lies outside of {size[0]}x{size[1]}")
        area, outline = number(entry.get("area")), (x2 - x1) * (y2 - y1)
        if entry.get("segmentation"):
            around = masks.extent(entry["segmentation"], size)
            if not masks.agree(clipped, around):
                raise RejectError(
                    "box_and_mask_differ", f"bbox {list(box)} (as x1, y1, x2, y2); the mask fills {list(around)}"
                )
        return Thing(key, category, clipped, area if 0 < area <= outline * 1.1 else outline)

    def _questions_of(self, image_id: Any) -> list[Question]:
        rows = self._db.execute(
            "SELECT template, name, category, answer, value FROM question WHERE image_id = ? ORDER BY digest",
            (image_id,),
        )
        return [_unpacked(*row) for row in rows.fetchall()]

    def _annotation(self, key: Any) -> dict:
        ((value,),) = self._db.execute("SELECT value FROM annotation WHERE id = ?", (key,)).fetchall()
        return json.loads(value)

    def _example(self, image: tuple, question: Question, region_of: Callable[[Any, str], Region]) -> Example:
        image_id, file_name, width, height, license_id = image
        roles = [("answer", one) for one in question.answer_ids] + [("evidence", one) for one in question.evidence_ids]
        license_id = json.loads(license_id)
        own = self._licenses.get(license_id, "unknown") if isinstance(license_id, int | str) else "unknown"
        return Example(
            id=f"{image_id}-{question.name}",
            question=question.text,
            solution=question.answer,
            answers=(question.answer,),
            images=(json.loads(file_name),),
            annotated_sizes=((width, height),),
            regions=tuple(region_of(one, role) for role, one in roles),
            question_type=question.template,
            source=self.name,
            license=f"{self.license}, image: {own}",
        )

    def _region(self, entry: dict, role: Any) -> Region:
        box: Box = box_of_xywh(entry["bbox"], "bbox")
        label = self._categories[entry["category_id"]].name
        return Region(box, role, weight_of(role), label, mask=entry.get("segmentation") or None)

    def _reject(self, row_id: str, error: RejectError) -> None:
        values = (value.encode("ascii", "backslashreplace").decode() for value in (row_id, error.reason, error.detail))
        self._db.execute("INSERT INTO reject VALUES (?, ?, ?)", tuple(values))


def _key(entry: dict, field: str = "id") -> int | str:
    """An id as the file has it: an integer, or text for people's own files."""
    value = entry.get(field)
    if is_integer(value) and abs(value) < 1 << 63:
        return value
    if isinstance(value, str) and value.isprintable() and value.strip() and value.isascii():
        return value
    raise RejectError("malformed_record", f"{field} is {str(value)[:100]!r}, expected a number or a name")


def _packed(question: Question) -> str:
    return as_json([question.text, question.answer_ids, question.evidence_ids])


def _unpacked(template: str, name: str, category: Any, answer: str, value: str) -> Question:
    asked, answers, evidence = json.loads(value)
    return Question(template, name, category, asked, answer, tuple(answers), tuple(evidence))
