"""What the sources share: records come in, and each becomes one `Example` or one `Rejected`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from data_prep.examples import EmbeddedImage, Example, Region, Rejected, RejectedError
from data_prep.fields import as_record, text, weight_of
from data_prep.store import RecordStore, database

Lookup = Callable[[str], Any]
"""A record of a second file by its key; None where there is none."""


class RecordSource:
    """A source that reads its records one after another.

    A subclass sets the attributes and defines two methods: `_records()` yields (row id, where it stands, record), with
    a ValueError for a record that cannot be read; `_build(row_id, record, lookup)` makes an example of a record or
    raises RejectedError. Where it needs a second file, `_lookup_records()` yields (key, JSON value) of what is in it.

    Attributes:
        _count: number of records.
        _settings: option -> digest of the files it names, or its value: what a finished shard must share to be kept.
    """

    name: str
    license: str
    _count: int
    _settings: dict[str, Any]
    _records: Callable[[], Iterator[tuple[str, str, Any]]]
    _build: Callable[[str, dict[str, Any], Lookup], Example]

    def __len__(self) -> int:
        """Number of records, the rejected ones included."""
        return self._count

    def settings(self) -> dict[str, Any]:
        return self._settings

    def _lookup_records(self) -> Iterable[tuple[str, Any]]:
        return ()

    def __iter__(self) -> Iterator[Example | Rejected]:
        with database() as connection:
            lookup = RecordStore(connection, self._lookup_records()).get
            for row_id, place, record in self._records():
                try:
                    if isinstance(record, ValueError):
                        raise RejectedError("malformed_record", str(record))
                    yield self._build(row_id, as_record(record), lookup)
                except RejectedError as error:
                    yield Rejected(row_id, error.reason, f"{error.detail} ({place})")

    def _example(
        self,
        row_id: str,
        question: str,
        answers: Sequence[str],
        images: str | EmbeddedImage | Sequence[str],
        regions: Iterable[Region],
        size: Sequence[int] | None = None,
        question_type: str = "unknown",
        license: str | None = None,
    ) -> Example:
        """An example; the first of `answers` is its solution, `size` that of all its images."""
        names = (images,) if isinstance(images, str | EmbeddedImage) else tuple(images)
        return Example(
            id=row_id,
            question=question,
            solution=answers[0],
            answers=tuple(answers),
            images=names,
            annotated_sizes=((size[0], size[1]) if size else None,) * len(names),
            regions=tuple(regions),
            question_type=question_type,
            source=self.name,
            license=license or self.license,
        )


def region_of(box: Any, role: Any = "answer", label: Any = "", **more: Any) -> Region:
    """A region with the weight of its role; a label that is no text is left out."""
    return Region(box, role, weight_of(role), label if isinstance(label, str) else "", **more)


def optional_text(record: dict, field: str, default: str = "unknown") -> str:
    """The text of a field that may be left out."""
    return default if record.get(field) is None else text(record, field)


def list_of(record: dict, field: str, least: int = 0) -> list:
    """A list of at least `least` entries; a missing one is empty.

    Raises:
        RejectedError: malformed_record.
    """
    value = record.get(field) or []
    if not isinstance(value, list) or len(value) < least:
        raise RejectedError("malformed_record", f"{field} is {str(value)[:200]}, expected a list")
    return value


def with_choices(question: str) -> str:
    """A multiple-choice question that ends with the request for a letter.

    The benchmarks ask for it "directly", which would forbid the reasoning that a prompt's suffix may ask for.
    """
    return f"{question.strip()}\nAnswer with the option's letter from the given choices."


def choice_answers(letter: str, option: str) -> tuple[str, ...]:
    """Accepted answers: the letter, and the option's text unless that could be taken for a letter."""
    return (letter, option) if len(option.strip()) > 1 else (letter,)
