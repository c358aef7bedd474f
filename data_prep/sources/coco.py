"""COCO instances (Lin et al. 2014, https://cocodataset.org), or any file in that format -> questions with masks.

The annotations lie in no useful order and are too many for memory, so they go into a temporary database. The questions
of `coco_templates` are made image by image and then balanced: as many no as yes for each class, no number of a class
more frequent than its third most frequent one, and no more than a third of all with yes or no for an answer.
"""

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from data_prep.examples import Example, PrepareError, Rejected, RejectedError
from data_prep.fields import as_record, box_of_xywh, check_inside, image_size, is_crowd, is_integer, number, text
from data_prep.json_records import digest_of, iter_members
from data_prep.sources.base import RecordSource, region_of
from data_prep.sources.coco_templates import AnnotatedImage, Category, Thing, questions, siblings_of
from data_prep.sources.coco_words import accepted, spoken
from data_prep.store import as_json, database
from data_prep.workers import run_jobs
from sayo.geometry import masks

_SCENES_PER_JOB = 500
_LEAVES = "box_leaves_image"
_FEW, _MOST_LEAVING = 10, 0.02  # boxes: more than both are no slips but another form
_SQL: dict[str, str] = yaml.safe_load(Path(__file__).with_name("coco_sql.yaml").read_text(encoding="utf-8"))
# An answer may be as frequent as the one at this place of its template and class, or at the last place, if there are
# fewer; where it is the only one, so many stay. Those with the lowest digests stay.
_PLACES = {"exist": (2, 0), "count": (3, 1)}


class CocoSource(RecordSource):
    """Rejected annotations first, then questions by image; the arguments are the options of `sayo prepare coco`."""

    name = "coco"

    def __init__(
        self, instances: str | Path, seed: int, per_image: int, least_area: float, license: str, num_proc: int = 1
    ):
        self.file = self._file(instances, "COCO instances file")
        self.license = license
        self._stack = ExitStack()
        self._db = self._stack.enter_context(database())
        self._categories: dict[Any, Category] = {}
        self._read_file()
        self._ask(seed, least_area, per_image, num_proc)
        self._balance()
        self._count = self._rows_of("question") + self._rows_of("rejected")
        if self._count == 0 and (total := self._rows_of("annotation")):
            raise PrepareError(
                f"--instances: no question can be asked about the {total} objects of {self.file}: they are crowds or "
                f"smaller than --least-area {least_area:g} pixels. Boxes must be in pixels, not shares of the picture"
            )
        options = {"--seed": seed, "--per-image": per_image, "--least-area": least_area, "--license": license}
        self._settings = {"--instances": digest_of([self.file]), **options}

    def _rows_of(self, table: str) -> int:
        return self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]

    def examples(self, most: int | None = None) -> Iterator[Example | Rejected]:
        rejected = self._db.execute("SELECT id, reason, detail FROM rejected ORDER BY rowid")
        asked = self._db.execute("SELECT example FROM question ORDER BY rowid")
        examples = (pickle.loads(pickled) for (pickled,) in asked)  # of this process's own temporary file
        return islice(chain((Rejected(*row) for row in rejected), examples), most)

    def _read_file(self) -> None:
        """Put images and annotations into the database."""
        self._db.executescript(_SQL["tables"])
        self._db.execute("BEGIN")
        for index, (member, value, written) in enumerate(iter_members(self.file)):
            try:
                if member == "images":
                    if (size := image_size(as_record(value).get("width"), value.get("height"))) is None:
                        raise RejectedError("malformed_record", f"image {value.get('id')!r} has no width and height")
                    self._insert(
                        "image", key_of(value), text(value, "file_name"), *size, as_json(value.get("license"))
                    )
                elif member == "annotations":
                    image_id = key_of(as_record(value), "image_id")
                    key = key_of(value) if is_key(value.get("id")) else f"annotations#{index}"
                    self._insert("annotation", key, image_id, written)
                elif member == "categories":
                    name, kind = text(as_record(value), "name"), value.get("supercategory") or "unknown"
                    kind = text({"supercategory": kind}, "supercategory")
                    self._categories[key_of(value)] = Category(key_of(value), spoken(name, kind), kind)
                elif member == "licenses":
                    row = as_json(key_of(as_record(value))), text(value, "name")
                    self._db.execute("INSERT OR REPLACE INTO license VALUES (?, ?)", row)
            except RejectedError as error:
                self._reject(f"{member}#{index}", error)
        self._db.execute("CREATE INDEX by_image ON annotation (image_id, id)")

    def _insert(self, table: str, *row: Any) -> None:
        marks = ", ".join("?" * len(row))
        if not self._db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row).rowcount:
            raise RejectedError("duplicate_id", f"an earlier {table} has the id {row[0]!r}; the first one is kept")

    def _ask(self, seed: int, least_area: float, per_image: int, num_proc: int) -> None:
        """Make the questions of all images."""
        shared = list(self._categories.values()), self.license, seed, least_area, per_image
        jobs = ((scenes, *shared) for scenes in self._scenes())
        processes = num_proc if self._rows_of("image") > _SCENES_PER_JOB else 1
        for asked, rejected in run_jobs(ask_about, jobs, processes):
            self._db.executemany("INSERT INTO question VALUES (?, ?, ?, ?, ?)", asked)
            for key, error in rejected:
                self._reject(f"annotation {key}", error)
        leaving, total = self._rows_of(f"rejected WHERE reason = '{_LEAVES}'"), self._rows_of("annotation")
        if leaving > max(_FEW, _MOST_LEAVING * total):
            raise PrepareError(
                f"--instances: {leaving} of the {total} boxes of {self.file} leave their picture. A bbox is x, y, "
                "width, height in pixels: are these x1, y1, x2, y2, or is the pictures' size that of other files?"
            )
        for key, image_id in self._db.execute(_SQL["without_image"]).fetchall():
            self._reject(f"annotation {key}", RejectedError("unknown_image", f"image {image_id!r} is not in the file"))

    def _scenes(self) -> Iterator[list[tuple]]:
        """The images with their annotations, some hundred at a time."""
        images = (
            (*image, [(key, value) for *_, key, value in rows if value])
            for image, rows in groupby(self._db.execute(_SQL["by_image"]), key=itemgetter(slice(0, 5)))
        )
        while scenes := list(islice(images, _SCENES_PER_JOB)):
            yield scenes

    def _balance(self) -> None:
        groups: dict[tuple[str, Any], list[int]] = {}
        for template, category, frequency in self._db.execute(_SQL["frequencies"]):
            if template in _PLACES:
                groups.setdefault((template, category), []).append(frequency)
        limits = {}
        for group, frequencies in groups.items():
            place, alone = _PLACES[group[0]]
            limits[group] = sorted(frequencies)[-place:][0] if len(frequencies) > 1 else alone
        self._keep(limits)
        total, exist = self._rows_of("question"), self._rows_of("question WHERE template = 'exist'")
        if 3 * exist > total:
            share = (total - exist) / (2 * exist)
            self._keep({group: max(1, int(limits[group] * share)) for group in limits if group[0] == "exist"})

    def _keep(self, limits: Mapping[tuple[str, Any], int]) -> None:
        """Delete the questions of each (template, class) whose answer is more frequent than its limit."""
        self._db.execute("DELETE FROM answer_limit")
        rows = [(*group, most) for group, most in limits.items()]
        self._db.executemany("INSERT INTO answer_limit VALUES (?, ?, ?)", rows)
        self._db.execute(_SQL["balance"])

    def _reject(self, row_id: str, error: RejectedError) -> None:
        values = (value.encode("ascii", "backslashreplace").decode() for value in (row_id, error.reason, error.detail))
        self._db.execute("INSERT INTO rejected VALUES (?, ?, ?)", tuple(values))


def ask_about(
    images: Sequence[tuple], categories: Sequence[Category], license: str, seed: int, least_area: float, most: int
) -> tuple[list[tuple], list[tuple[Any, RejectedError]]]:
    """Questions about some images; this runs in workers.

    Args:
        images: of each image id, file name, width, height, licence, and (id, JSON) of its annotations.

    Returns:
        (template, class, answer, digest, pickled example) of each question; then (annotation id, what is wrong with
        it) of those that were rejected.
    """
    by_id, siblings = {category.id: category for category in categories}, siblings_of(categories)
    asked: list[tuple] = []
    rejected: list[tuple[Any, RejectedError]] = []
    for image_id, file_name, width, height, image_license, records in images:
        size = width, height
        entries = {key: json.loads(value) for key, value in records}
        things, blocked = _things(entries, size, by_id, rejected)
        scene = AnnotatedImage(image_id, *size, things, blocked, by_id, siblings, seed, least_area)
        mask_of = cache(lambda key: _mask(entries[key].get("segmentation"), size))  # noqa: B023
        for digest, question in questions(scene, most):
            roles = ("answer", question.answer_things), ("evidence", question.evidence_things)
            shown = [(role, thing) for role, things in roles for thing in things]
            used = [region_of(thing.box, role, scene.name_of(thing), mask=mask_of(thing.id)) for role, thing in shown]
            template, name, category, text, answer, *_ = question
            fields = f"{image_id}-{name}", text, accepted(answer), (file_name,), size, tuple(used)
            example = Example(*fields, template, "coco", f"{license}, image: {image_license}")
            asked.append((template, category, answer, digest, pickle.dumps(example)))
    return asked, rejected


def _mask(segmentation: Any, size: tuple[int, int]) -> Any:
    """The mask, drawn once for all questions of its scene; one that cannot be drawn is left to reject its row."""
    try:
        return masks.encode(segmentation, size) if segmentation else None
    except RejectedError:
        return segmentation


def _things(
    entries: Mapping[Any, dict], size: tuple[int, int], categories: Mapping[Any, Category], rejected: list
) -> tuple[list[Thing], frozenset[Any]]:
    """(objects of an image, classes that cannot be asked for because of a crowd or an unusable annotation)."""
    things, blocked = [], set()
    for key, entry in entries.items():
        try:
            if is_crowd(entry):
                blocked.add(key_of(entry, "category_id"))
            else:
                things.append(_thing(key, entry, size, categories))
        except RejectedError as error:
            rejected.append((key, error))
            if is_key(entry.get("category_id")):
                blocked.add(entry["category_id"])
    return things, frozenset(blocked)


def _thing(key: Any, entry: dict, size: tuple[int, int], categories: Mapping[Any, Category]) -> Thing:
    category = key_of(entry, "category_id")
    key_of(entry)
    if category not in categories:
        raise RejectedError("unknown_category", f"category {category!r} is not in the file")
    box = box_of_xywh(entry.get("bbox"), "bbox")
    x1, y1, x2, y2 = clipped = (max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1]))
    if x1 >= x2 or y1 >= y2:
        raise RejectedError("box_outside_image", f"bbox {list(box)} lies outside of {size[0]}x{size[1]}")
    check_inside(box, size)
    area, outline = number(entry.get("area")), (x2 - x1) * (y2 - y1)
    if entry.get("segmentation"):
        around = masks.extent(entry["segmentation"], size)
        if not masks.agree(clipped, around):
            raise RejectedError("box_and_mask_differ", f"bbox {list(box)} (xyxy); the mask fills {list(around)}")
    return Thing(key, category, clipped, area if 0 < area <= outline * 1.1 else outline)


def key_of(entry: dict, field: str = "id") -> int | str:
    """An id as the file has it: an integer, or text for people's own files."""
    if not is_key(entry.get(field)):
        raise RejectedError(
            "malformed_record", f"{field} is {str(entry.get(field))[:100]!r}, expected a number or a name"
        )
    return entry[field]


def is_key(value: Any) -> bool:
    """Whether a value can be an id."""
    if isinstance(value, str):
        return value.isprintable() and value.isascii() and bool(value.strip())
    return is_integer(value) and abs(value) < 1 << 63
