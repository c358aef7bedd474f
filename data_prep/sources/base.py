"""What the sources share: records come in, and each becomes one `Example` or one `Rejected`.

A source raises PrepareError for a file that is missing or cannot be read, and counts a record that it cannot use.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.examples import Box, EmbeddedImage, Example, PrepareError, Region, Rejected, RejectedError
from data_prep.fields import as_record, box_of_xyxy, check_pixels, is_integer, text, weight_of
from data_prep.json_records import digest_of, iter_lines, list_files
from data_prep.store import GroupedValues, database, lookup_of

Lookup = Callable[[str], Any]
"""A record of a second file by its key; None where there is none."""


class RecordSource:
    """A source that reads its records one after another.

    `picture_fields`: those of a record of which the first that is there names its picture (a list: the first entry).
    Without them, the file itself has the questions about a picture together.

    A subclass sets `name` and `license`. `_records()` yields (row id, where it stands, record, or the ValueError that
    reading it gave); `_build(row_id, record, lookup)` makes the example or raises RejectedError; `_lookup_records()`
    yields (key, JSON value) of what is looked up in a second file.

    Args:
        files: option -> the files it names; a finished shard is kept while their contents and `settings` are the same.
        settings: other options that the rows depend on.
        count: number of records, where it is known without reading them.
    """

    name: str
    license: str
    picture_fields: tuple[str, ...] = ()

    def __init__(
        self, files: Mapping[str, Iterable[Path]], settings: Mapping[str, Any] | None = None, count: int | None = None
    ):
        self._stack = ExitStack()  # the database lives as long as the source
        self._waiting: GroupedValues | None = None
        if self.picture_fields:
            waiting = ((self._picture_of(record), _packed(*entry, record)) for *entry, record in self._records())
            self._waiting = GroupedValues(self._stack.enter_context(database()), waiting)
            count = len(self._waiting)
        self._count = sum(1 for _ in self._records()) if count is None else count
        self._settings = {option: digest_of(paths) for option, paths in files.items()} | dict(settings or {})

    def __len__(self) -> int:
        """Number of records, the rejected ones included."""
        return self._count

    def settings(self) -> dict[str, Any]:
        return self._settings

    def _lookup_records(self) -> Iterable[tuple[str, Any]]:
        return ()

    def examples(self, most: int | None = None) -> Iterator[Example | Rejected]:
        """What becomes of the first `most` records, those about one picture together, or of all.

        So a picture is read and stored once, and what a second file says about it is looked up once.
        """
        with database() as connection:
            lookup = lookup_of(connection, self._lookup_records())
            records: Iterable[tuple[str, str, Any]] = islice(self._records(), most)
            if self._waiting is not None:
                first = self._waiting.first(len(self) if most is None else most)
                records = map(pickle.loads, first)  # of this process's own temporary file
            for row_id, place, record in records:
                try:
                    if isinstance(record, ValueError):
                        raise RejectedError("malformed_record", str(record))
                    yield self._build(row_id, as_record(record), lookup)
                except RejectedError as error:
                    yield Rejected(row_id, error.reason, f"{error.detail} ({place})")

    def _picture_of(self, record: Any) -> Any:
        """The record's picture, or None where it names none."""
        fields = self.picture_fields if isinstance(record, dict) else ()
        name = next((record[field] for field in fields if record.get(field)), None)
        return name[0] if isinstance(name, list) else name

    def _files(self, spec: str | Path, what: str, suffix: str = ".json") -> list[Path]:
        command = self.name.replace("_", "-")
        return list_files(spec, what, f"`sayo prepare {command} --help` says which files are needed", suffix)

    def _file(self, spec: str | Path, what: str, suffix: str = ".json") -> Path:
        """The one file that `spec` names; PrepareError if it names several."""
        file, *others = self._files(spec, what, suffix)
        if others:
            raise PrepareError(
                f"{spec} names {1 + len(others)} files ({file.name}, {others[0].name}, ...); name one {what}"
            )
        return file

    def _example(
        self,
        row_id: str,
        question: str,
        answers: Sequence[str],
        images: str | EmbeddedImage | Sequence[str],
        regions: Iterable[Region],
        size: Sequence[int] | None = None,
        question_type: str = "unknown",
    ) -> Example:
        """An example; the first of `answers` is its solution, `size` (W, H) that of all its images."""
        images = (images,) if isinstance(images, str | EmbeddedImage) else tuple(images)
        rest = tuple(regions), question_type, self.name, self.license
        return Example(row_id, question, tuple(answers), images, tuple(size) if size else None, *rest)


def _packed(row_id: str, place: str, record: Any) -> bytes:
    try:
        return pickle.dumps((row_id, place, record), pickle.HIGHEST_PROTOCOL)
    except RecursionError:
        return pickle.dumps((row_id, place, ValueError("the record is nested too deeply")))


def region_of(box: Any, role: Any = "answer", label: Any = "", **more: Any) -> Region:
    """A region with the weight of its role; a label that is not text is left out."""
    return Region(box, role, weight_of(role), label if isinstance(label, str) else "", **more)


def pixel_box(values: Any, what: str, box_of: Callable[[Any, str], Box] = box_of_xyxy) -> Box:
    """A box in pixels, of a form of `fields`; raises RejectedError."""
    return check_pixels(box_of(values, what), what)


def id_of(record: Any, place: str, *fields: str) -> str:
    """The first of the fields that holds an id; where the record stands, if none does."""
    given = [record.get(field) for field in fields] if isinstance(record, dict) else []
    ids = [str(value) for value in given if is_integer(value) or (isinstance(value, str) and value.strip())]
    return ids[0] if ids else place


def records_of_lines(files: Iterable[Path], id_field: str) -> Iterator[tuple[str, str, Any]]:
    """What `_records` yields, of JSON lines."""
    for file in files:
        for line, record in iter_lines(file):
            place = f"{file.name}:{line}"
            yield id_of(record, place, id_field), place, record


def optional_text(record: dict, field: str, default: str = "unknown") -> str:
    """The text of a field that may be left out."""
    return default if record.get(field) is None else text(record, field)


def list_of(record: dict, field: str, least: int = 0) -> list:
    """A list of at least `least` entries, or RejectedError; a missing list is empty."""
    value = record.get(field) or []
    if not isinstance(value, list) or len(value) < least:
        raise RejectedError("malformed_record", f"{field} is {str(value)[:200]}, expected a list of at least {least}")
    return value


def multiple_choice(question: str, letter: str, option: str) -> tuple[str, tuple[str, ...]]:
    """(the question with a request for a letter, accepted answers: the letter, and the option unless it could be one).

    The benchmarks ask for it "directly", which would forbid the reasoning that a prompt's suffix may ask for.
    """
    question = f"{question.strip()}\nAnswer with the option's letter from the given choices."
    return question, (letter, option) if len(option.strip()) > 1 else (letter,)
