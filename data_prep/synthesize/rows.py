"""Prepared rows in, the same rows with a completion out."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.examples import PrepareError, RejectError
from data_prep.shards import list_shards
from sayo.answers.extract import accepted_answers

if TYPE_CHECKING:
    import datasets

_NEEDED = ("id", "prompt", "images", "question", "solution")
_AS_THEY_ARE = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp"}  # what every server decodes
_BATCH = 100  # rows in memory at once
_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Question:
    """What the models are told about a prepared row.

    Attributes:
        index: of the row in its split.
        accepted: accepted answers, the solution first; empty when there is none.
        images: `{"bytes", "path"}` as `datasets` stores them.
        labels: names of the objects in the row's regions.
    """

    index: int
    id: str
    question: str
    accepted: list[str]
    images: list[Mapping[str, Any]]
    labels: list[str]

    def pictures(self) -> list[str]:
        """The images as data URLs: their own bytes where every server shows them upright, else as PNG.

        Raises:
            RejectError: `image` when there is none, or one cannot be read.
        """
        if not self.images:
            raise RejectError("image", "the row has no image")
        try:
            return [_data_url(image) for image in self.images]
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's ways to say that a file is broken
            raise RejectError("image", f"cannot be read ({type(error).__name__}: {error})") from None


def _data_url(image: Mapping[str, Any]) -> str:
    from PIL import Image, ImageOps

    data = image["bytes"] if image.get("bytes") is not None else Path(image["path"]).read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        kind = _AS_THEY_ARE.get(picture.format or "")
        if kind is None or picture.getexif().get(_ORIENTATION, 1) != 1:
            buffer = io.BytesIO()
            ImageOps.exif_transpose(picture).convert("RGB").save(buffer, "PNG")
            kind, data = "png", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def read_tables(prepared: Path, split: str, limit: int | None = None) -> Iterator[pa.Table]:
    """The split's rows, some at a time.

    Raises:
        PrepareError: no prepared data, no such split, or columns are missing.
    """
    left = limit
    if left == 0:
        return
    for path in list_shards(prepared, split):
        file = pq.ParquetFile(path)
        missing = [name for name in _NEEDED if name not in file.schema_arrow.names]
        if missing:
            raise PrepareError(f"{path} has no column {', '.join(missing)}; make it with `sayo prepare`")
        for batch in file.iter_batches(_BATCH):
            table = pa.Table.from_batches([batch])
            if left is not None:
                table = table.slice(0, left)
                left -= len(table)
            if len(table):
                yield table
            if left == 0:
                return


def count_rows(prepared: Path, split: str, limit: int | None = None) -> int:
    """Number of rows that `read_tables` gives."""
    total = sum(pq.read_metadata(path).num_rows for path in list_shards(prepared, split))
    return total if limit is None else min(total, limit)


def read_questions(prepared: Path, split: str, limit: int | None = None) -> Iterator[Question]:
    """The split's questions, in order."""
    columns = [*_NEEDED, "answers", "regions"]
    index = 0
    for table in read_tables(prepared, split, limit):
        for row in table.select([name for name in columns if name in table.column_names]).to_pylist():
            labels = [region.get("label") for region in row.get("regions") or []]
            yield Question(
                index=index,
                id=row["id"],
                question=row["question"],
                accepted=accepted_answers(row["solution"], row.get("answers")),
                images=row["images"] or [],
                labels=sorted({label for label in labels if label}),
            )
            index += 1


def write_rows(
    prepared: Path,
    out: Path,
    split: str,
    completions: Mapping[int, str],
    suffix: str = "",
    rows_per_file: int = 2000,
) -> list[Path]:
    """Write the rows that have a completion: all their columns, and `completion` (one assistant message).

    Files appear complete or not at all, under the names that `datasets` expects; those of a former run go.

    Args:
        completions: index of the row -> text.
        suffix: put under the question in the user's turn.
    """
    folder = out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-len(completions) // rows_per_file)
    names = [folder / f"{split}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    parts = [path.with_name(f".{path.name}.part") for path in names]
    schema = _features(pq.read_schema(list_shards(prepared, split)[0])).arrow_schema
    rows = _completed(prepared, split, completions, suffix)
    for part in parts:
        with pq.ParquetWriter(part, schema) as writer:
            file_rows = islice(rows, rows_per_file)
            while batch := list(islice(file_rows, _BATCH)):
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    for path in folder.glob(f"{split}-*-of-*.parquet"):
        path.unlink()
    for part, path in zip(parts, names, strict=True):
        os.replace(part, path)
    return names


def _features(schema: pa.Schema) -> datasets.Features:
    """The prepared columns and `completion`, which looks like `prompt`."""
    from datasets import Features

    features = Features.from_arrow_schema(schema)
    return Features({**features, "completion": features["prompt"]})


def _completed(prepared: Path, split: str, completions: Mapping[int, str], suffix: str) -> Iterator[dict[str, Any]]:
    index = 0
    for table in read_tables(prepared, split, max(completions, default=-1) + 1):
        for row in table.to_pylist():
            if index in completions:
                row["completion"] = [{"role": "assistant", "content": completions[index]}]
                if suffix:
                    turn = [turn for turn in row["prompt"] if turn["role"] == "user"][-1]
                    turn["content"] = f"{turn['content']}\n{suffix}"
                yield row
            index += 1
