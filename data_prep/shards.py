"""One parquet shard: complete or absent, with the account of its rows (kept, rejected and why) in its own footer."""

from __future__ import annotations

import json
import os
from bisect import bisect
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.examples import Example, PrepareError, Rejected, RejectedError
from data_prep.rows import RowBuilder, table_of
from data_prep.workers import report_rows

_ACCOUNT_KEY = "sayo_prepare"
ROWS_PER_GROUP = 100  # about 10 MB of images: what a reader or a writer holds in memory at once
_DICTIONARY_LIMIT = 1 << 30  # bytes: lets questions about one image share its bytes within a row group
# Numbers are counted by these names; the account of every shard holds each of them.
COUNTERS = (
    "rejected_by_reason",
    "question_types",
    "licenses",
    "source_licenses",
    "regions_per_question",
    "region_area",
)
_AREA_EDGES = (0.01, 0.05, 0.2, 0.5)
AREA_BINS = ("under 1 %", "1 to 5 %", "5 to 20 %", "20 to 50 %", "over 50 %")


class ShardWriter:
    """Writes `path` under a temporary name; `finish` moves it into place with its account.

    A row group is compressed and written in a thread, which needs no Python, while the next rows are made.
    """

    def __init__(self, path: Path, schema: pa.Schema):
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._writer = pq.ParquetWriter(
            self._temporary,
            schema,
            write_statistics=False,
            dictionary_pagesize_limit=_DICTIONARY_LIMIT,
            store_schema=False,  # readers must not get image bytes as indices, which is how `table_of` writes them
        )
        self._thread, self._running = ThreadPoolExecutor(1), Future[None]()
        self._running.set_result(None)
        self._metadata = {name.decode(): value.decode() for name, value in (schema.metadata or {}).items()}
        self._counters: dict[str, Counter[str]] = {name: Counter() for name in COUNTERS}
        self._rejects: list[dict[str, str]] = []
        self._kept = self._with_region = self._with_mask = 0

    def reject(self, row_id: str, error: RejectedError) -> None:
        """Count a row that is left out."""
        self._rejects.append(asdict(Rejected(row_id, error.reason, error.detail)))
        self._counters["rejected_by_reason"][error.reason] += 1

    def write(self, table: pa.Table, rows: list[dict[str, Any]] | None = None) -> None:
        """Append rows as one row group and count them; `rows`: the same, where they are at hand as dicts."""
        if rows is None:
            rows = table.select(["regions", "image_sizes", "question_type", "license", "source"]).to_pylist()
        for row in rows:
            self._count(row)
        self._running.result()  # or its error, such as a full disk; one row group waits at most
        self._running = self._thread.submit(self._writer.write_table, table)

    def _count(self, row: dict[str, Any]) -> None:
        self._kept += 1
        self._with_region += bool(row["regions"])
        self._with_mask += any(region["rle"] for region in row["regions"])
        self._counters["question_types"][row["question_type"]] += 1
        self._counters["licenses"][row["license"]] += 1
        self._counters["source_licenses"][f"{row['source']}: {row['license']}"] += 1
        self._counters["regions_per_question"][str(len(row["regions"]))] += 1
        for region in row["regions"]:
            (x1, y1, x2, y2), (width, height) = region["box"], row["image_sizes"][region["image"]]
            share = (x2 - x1) * (y2 - y1) / (width * height)
            self._counters["region_area"][AREA_BINS[bisect(_AREA_EDGES, share)]] += 1

    def finish(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Close the file with its account, and move it into place.

        Returns:
            the account: settings, read, kept, with_region, with_mask, the `COUNTERS`, rejects.
        """
        account = {
            "settings": dict(sorted(settings.items())),  # so that map leaves the bytes that prepare would
            "read": self._kept + len(self._rejects),
            "kept": self._kept,
            "with_region": self._with_region,
            "with_mask": self._with_mask,
            **{name: dict(sorted(counter.items())) for name, counter in self._counters.items()},
            "rejects": self._rejects,
        }
        self._running.result()
        self._writer.add_key_value_metadata({**self._metadata, _ACCOUNT_KEY: json.dumps(account)})
        self._writer.close()
        with self._temporary.open("rb") as handle:
            os.fsync(handle.fileno())  # the name must not be on disk before the contents
        os.replace(self._temporary, self.path)
        return account

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()
        self._writer.close()
        self._temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Shard:
    """A stretch of the source's questions and the file that holds those of them that are kept."""

    path: Path
    entries: tuple[Example | Rejected, ...]


def write_shard(
    shard: Shard, build_row: RowBuilder, schema: pa.Schema, settings: dict[str, Any], strict: bool
) -> dict[str, Any]:
    """Build the rows of a shard and write it.

    Returns:
        the account, see `ShardWriter.finish`.

    Raises:
        PrepareError: the first reject, when `strict`.
    """
    with ShardWriter(shard.path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for index, entry in enumerate(shard.entries, start=1):
            try:
                rows.append(_row_or_raise(entry, build_row))
            except RejectedError as error:
                if strict:
                    raise PrepareError(f"--strict: question {entry.id}: {error}") from None
                writer.reject(entry.id, error)
            if len(rows) == ROWS_PER_GROUP:
                writer.write(table_of(rows, schema), rows)
                rows.clear()
            if index % ROWS_PER_GROUP == 0 or index == len(shard.entries):
                report_rows((index - 1) % ROWS_PER_GROUP + 1)
        if rows:
            writer.write(table_of(rows, schema), rows)
        return writer.finish(settings)


def _row_or_raise(entry: Example | Rejected, build_row: RowBuilder) -> dict[str, Any]:
    if isinstance(entry, Rejected):
        raise RejectedError(entry.reason, entry.detail)
    return build_row(entry)


def read_account(path: Path) -> dict[str, Any]:
    """The account that `ShardWriter.finish` left in the footer.

    Raises:
        PrepareError: the file is no shard of ours.
    """
    try:
        metadata = pq.read_metadata(path).metadata or {}
        account = json.loads(metadata[_ACCOUNT_KEY.encode()])
        return {**{name: {} for name in COUNTERS}, "with_mask": 0, **account}
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise PrepareError(
            f"{path} was not written by `sayo prepare` ({type(error).__name__}): remove it, choose another --out, or "
            "give --overwrite to make this split again"
        ) from None


def list_shards(folder: Path, split: str | None = None) -> list[Path]:
    """Parquet files of a prepared data set, all splits or one, in order.

    Raises:
        PrepareError: `folder` holds no prepared data, or not that split.
    """
    paths = sorted((folder / "data").glob(f"{split or '*'}-*-of-*.parquet"))
    if not paths:
        splits = sorted({path.name.split("-")[0] for path in (folder / "data").glob("*.parquet")})
        raise PrepareError(
            f"no split {split!r} in {folder}; there are: {', '.join(splits)}"
            if splits
            else f"{folder} holds no prepared data; make some with `sayo prepare`"
        )
    return paths
