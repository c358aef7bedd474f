"""Prepared rows in, the same rows with a completion out."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.examples import PrepareError
from data_prep.shards import DICTIONARY_LIMIT, list_shards
from sayo.answers.extract import accepted_answers
from sayo.prompts import with_suffix

_NEEDED = ("id", "prompt", "images", "question", "solution")
_BATCH = 100  # rows in memory at once


class PreparedQuestion(NamedTuple):
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


def question_of(row: Mapping[str, Any], index: int) -> PreparedQuestion:
    """What the models are told of row `index`."""
    return PreparedQuestion(
        index=index,
        id=row["id"],
        question=row["question"],
        accepted=accepted_answers(row["solution"], row.get("answers")),
        images=row["images"] or [],
        labels=sorted({region["label"] for region in row.get("regions") or [] if region.get("label")}),
    )


@dataclass(frozen=True)
class PreparedRows:
    """The first `limit` rows, or all, of a split that `sayo prepare` wrote into `folder`."""

    folder: Path
    split: str
    limit: int | None = None

    def count(self) -> int:
        """Number of questions."""
        total = sum(pq.read_metadata(path).num_rows for path in list_shards(self.folder, self.split))
        return total if self.limit is None else min(total, self.limit)

    def questions(self) -> Iterator[PreparedQuestion]:
        """What the models are told, row by row; raises PrepareError where data, split or a column are missing."""
        for _, start, table in self._batches(self.count()):
            names = [name for name in (*_NEEDED, "answers", "regions") if name in table.column_names]
            for index, row in enumerate(table.select(names).to_pylist(), start):
                yield question_of(row, index)

    def write(self, out: Path, completions: Mapping[int, str], suffix: str = "") -> None:
        """Write the rows that have a completion: all their columns, and `completion` (one assistant message).

        Each prepared file becomes one of the same name. Files appear complete or not at all; what a former run left
        goes. `completions` are texts by index of the row; `suffix` is put under the question in the user's turn.
        """
        from datasets import Features

        out.mkdir(parents=True, exist_ok=True)
        features = Features.from_arrow_schema(pq.read_schema(list_shards(self.folder, self.split)[0]))
        schema = Features({**features, "completion": features["prompt"]}).arrow_schema
        written = set()
        for path, parts in groupby(self._batches(max(completions, default=-1) + 1), key=itemgetter(0)):
            temporary = out / f".{path.name}.part"
            with pq.ParquetWriter(temporary, schema, dictionary_pagesize_limit=DICTIONARY_LIMIT) as writer:
                for _, start, table in parts:
                    writer.write_table(_completed(table, start, completions, suffix, schema))
            os.replace(temporary, out / path.name)
            written.add(path.name)
        for path in out.glob(f"{self.split}-*-of-*.parquet"):
            if path.name not in written:
                path.unlink()

    def _batches(self, end: int) -> Iterator[tuple[Path, int, pa.Table]]:
        """(file, index of the first of these rows in the split, some rows of the file), up to row `end`."""
        start = 0
        for path in list_shards(self.folder, self.split):
            file = pq.ParquetFile(path)
            missing = [name for name in _NEEDED if name not in file.schema_arrow.names]
            if missing:
                raise PrepareError(f"{path} has no column {', '.join(missing)}; make it with `sayo prepare`")
            for batch in file.iter_batches(_BATCH):
                if start >= end:
                    return
                table = pa.Table.from_batches([batch]).slice(0, end - start)
                yield path, start, table
                start += len(table)


def _completed(
    table: pa.Table, start: int, completions: Mapping[int, str], suffix: str, schema: pa.Schema
) -> pa.Table:
    kept = [number for number in range(len(table)) if start + number in completions]
    table = table.take(pa.array(kept, pa.int64()))
    prompts = [with_suffix(prompt, suffix) if suffix else prompt for prompt in table["prompt"].to_pylist()]
    turns = [[{"role": "assistant", "content": completions[start + number]}] for number in kept]
    turn_type, position = schema.field("prompt").type, schema.get_field_index("prompt")
    table = table.append_column("completion", pa.array(turns, turn_type))
    return table.set_column(position, "prompt", pa.array(prompts, turn_type)).cast(schema)
