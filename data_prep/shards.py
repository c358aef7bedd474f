"""One parquet shard: complete or absent, with the account of its rows (kept, rejected and why) in its own footer."""

import json
import os
from bisect import bisect
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.examples import PrepareError, Rejected, RejectedError

JOURNAL = "journal.jsonl"  # what models answered, see `data_prep.synthesize`; it is there before the data
_ACCOUNT_KEY = "sayo_prepare"
ROWS_PER_GROUP = 100  # about 10 MB of images: what a reader or a writer holds in memory at once
DICTIONARY_LIMIT = 1 << 30  # bytes: lets questions about one image share its bytes within a row group
SUMS = ("kept", "with_region", "with_mask")
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
            dictionary_pagesize_limit=DICTIONARY_LIMIT,
            store_schema=False,  # readers must not get image bytes as indices, which is how `table_of` writes them
        )
        self._thread, self._running = ThreadPoolExecutor(1), Future[None]()
        self._running.set_result(None)
        self._metadata = {name.decode(): value.decode() for name, value in (schema.metadata or {}).items()}
        self._sums: dict[str, int] = dict.fromkeys(SUMS, 0)
        self._counters: dict[str, Counter[str]] = {name: Counter() for name in COUNTERS}
        self._rejected: list[dict[str, str]] = []

    def reject(self, row_id: str, error: RejectedError) -> None:
        """Count a row that is left out."""
        self._rejected.append(asdict(Rejected(row_id, error.reason, error.detail)))
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
        regions, counters = row["regions"], self._counters
        self._sums["kept"] += 1
        self._sums["with_region"] += bool(regions)
        self._sums["with_mask"] += any(region["rle"] for region in regions)
        counters["question_types"][row["question_type"]] += 1
        counters["licenses"][row["license"]] += 1
        counters["source_licenses"][f"{row['source']}: {row['license']}"] += 1
        counters["regions_per_question"][str(len(regions))] += 1
        for region in regions:
            (x1, y1, x2, y2), (width, height) = region["box"], row["image_sizes"][region["image"]]
            share = (x2 - x1) * (y2 - y1) / (width * height)
            counters["region_area"][AREA_BINS[bisect(_AREA_EDGES, share)]] += 1

    def finish(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Move the file into place, and return its account: settings, read, `SUMS`, `COUNTERS` and rejected_rows."""
        account = {
            "settings": dict(sorted(settings.items())),  # so that map leaves the bytes that prepare would
            "read": self._sums["kept"] + len(self._rejected),
            **self._sums,
            **{name: dict(sorted(counter.items())) for name, counter in self._counters.items()},
            "rejected_rows": self._rejected,
        }
        self._running.result()
        self._writer.add_key_value_metadata({**self._metadata, _ACCOUNT_KEY: json.dumps(account)})
        self._writer.close()
        with self._temporary.open("rb") as handle:
            os.fsync(handle.fileno())  # the name must not be on disk before the contents
        os.replace(self._temporary, self.path)
        return account

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()
        self._writer.close()
        self._temporary.unlink(missing_ok=True)


def read_account(path: Path) -> dict[str, Any]:
    """The account in a shard's footer; raises PrepareError for a file that is none of ours, or of another version."""
    try:
        account = json.loads((pq.read_metadata(path).metadata or {})[_ACCOUNT_KEY.encode()])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise PrepareError(
            f"{path} was not written by `sayo prepare` ({type(error).__name__}): remove it, choose another --out, or "
            "give --overwrite to make this split again"
        ) from None
    if not isinstance(account, dict) or not {"settings", "read", *SUMS, *COUNTERS, "rejected_rows"} <= account.keys():
        raise PrepareError(
            f"{path} was prepared by another version of sayo: prepare this data set again (--overwrite)"
        )
    return account


def list_shards(folder: Path, split: str | None = None) -> list[Path]:
    """Parquet files of a prepared data set, all splits or one, in order; raises PrepareError where there are none."""
    paths = sorted((folder / "data").glob(f"{split or '*'}-*-of-*.parquet"))
    if not paths:
        splits = sorted({path.name.split("-")[0] for path in (folder / "data").glob("*.parquet")})
        raise PrepareError(
            f"no split {split!r} in {folder}; there are: {', '.join(splits)}"
            if splits
            else f"{folder} holds no prepared data; make some with `sayo prepare`"
        )
    return paths


def shard_paths(out: Path, split: str, count: int) -> list[Path]:
    """Names of the `count` files of a split, as Hugging Face numbers them."""
    return [out / "data" / f"{split}-{index:05d}-of-{count:05d}.parquet" for index in range(count)]


def finished_shards(
    out: Path, split: str, paths: list[Path], settings: dict[str, Any], overwrite: bool
) -> dict[Path, int]:
    """Shards that need not be made again, with the number of rows read for each.

    Also makes the folder and clears what a kill left.

    Raises:
        PrepareError: `out` holds something else, or this split made with other settings.
    """
    folder = out / "data"
    if out.exists() and not out.is_dir():
        raise PrepareError(f"--out: {out} is a file; give a folder")
    if out.is_dir() and any(path.name != JOURNAL for path in out.iterdir()) and not folder.is_dir():
        raise PrepareError(f"--out: {out} holds other files; give an empty or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (*out.glob(".*.tmp"), *folder.glob(f".{split}-*.tmp")):
        leftover.unlink(missing_ok=True)
    done = {}
    for path in sorted(folder.glob(f"{split}-*-of-*.parquet")):
        if overwrite:
            path.unlink()
            continue
        account = read_account(path)
        there = account["settings"]
        if different := [name for name in {**there, **settings} if there.get(name) != settings.get(name)]:
            changes = "; ".join(f"{name}: {there.get(name)} there, {settings.get(name)} now" for name in different)
            raise PrepareError(
                f"{out} already holds the split {split!r} made with other settings ({changes}). Give --overwrite to "
                "make it again, or choose another --out or --split"
            )
        if path not in paths:
            raise PrepareError(f"{path} does not belong to this run; remove it or give --overwrite")
        done[path] = account["read"]
    return done
