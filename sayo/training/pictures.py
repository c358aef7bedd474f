"""Rows whose pictures cannot be read or processed: an error that names the row, or left out and counted."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from rich.console import Console
from rich.progress import track

from sayo.errors import SayoError
from sayo.rollout import processor_inputs

console = Console(stderr=True)


class BadPicture(SayoError, ValueError):
    """A row's picture is missing or broken, or the processor refuses it."""

    def __init__(self, index: int, row: Mapping[str, Any], error: Exception):
        question = str(row.get("question") or row.get("prompt") or row.get("messages"))
        super().__init__(
            f"Row {index} of the data (id {row.get('id')}, question {question[:120]!r}) has a picture that cannot be "
            f"used: {type(error).__name__}: {error}. Mend the file, prepare the data again, or leave such rows out "
            "with data.on_bad_image=skip."
        )


class NamedRows(Dataset):
    """Rows that say which of them could not be decoded; make one with `named`."""

    def _getitem(self, key, **kwargs):
        try:
            return super()._getitem(key, **kwargs)
        except Exception:  # Pillow raises OSError, SyntaxError, ValueError and errors of its own
            keys = [key] if isinstance(key, int) else range(len(self))[key] if isinstance(key, slice) else key
            for index in () if isinstance(keys, str) else map(int, keys):
                if error := _error(lambda index=index: super(NamedRows, self)._getitem(index)):
                    raise BadPicture(index, self.remove_columns("images")[index], error) from error
            raise


def named(rows: Dataset) -> Dataset:
    """The same rows, where a picture that cannot be read is a `BadPicture`."""
    if "images" in rows.column_names:
        rows.__class__ = NamedRows
    return rows


def readable(rows: Dataset) -> Dataset:
    """Only the rows whose pictures can be read, after a look at all of them; says how many were left out."""
    if "images" not in rows.column_names:
        return rows
    pictures = rows.select_columns("images")
    looked_at = track(range(len(rows)), "looking at all pictures", console=console)
    kept = [index for index in looked_at if _error(lambda index=index: pictures[index]) is None]
    if len(kept) < len(rows):
        console.print(f"[yellow]warning:[/] {len(rows) - len(kept)} of {len(rows)} rows are left out: bad pictures")
        rows = rows.select(kept)
    return rows


def check_pictures(trainer: Any) -> None:
    """Process the pictures of all rows as a step would, with their questions; BadPicture names the row that fails."""
    process = trainer.data_collator
    if hasattr(trainer, "reward_funcs"):
        process = lambda rows: processor_inputs(trainer.processing_class, rows, "cpu")  # noqa: E731
    for rows in filter(None, (trainer.train_dataset, trainer.eval_dataset)):
        for index in range(len(rows)):
            row = rows[index]
            if row.get("images") and (error := _error(lambda row=row: process([dict(row)]))):
                raise BadPicture(index, row, error) from error


def _error(call: Any) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None
