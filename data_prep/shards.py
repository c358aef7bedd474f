"""One parquet shard: complete or absent, with the account of its rows (kept, rejected and why) in its own footer."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.examples import Example, PrepareError, Reject, RejectError
from data_prep.rows import RowBuilder

_ACCOUNT_KEY = "sayo_prepare"
_ROWS_PER_GROUP = 100  # about 10 MB of images: what a reader or a writer holds in memory at once
_DICTIONARY_LIMIT = 1 << 30  # bytes: lets questions about one image share its bytes within a row group


@dataclass(frozen=True)
class Shard:
    """A stretch of the source's questions and the file that holds those of them that are kept."""

    path: Path
    entries: tuple[Example | Reject, ...]


def write_shard(
    shard: Shard, build_row: RowBuilder, schema: pa.Schema, settings: dict[str, Any], strict: bool
) -> dict[str, Any]:
    """Write `shard.path` under a temporary name and move it into place when it is complete.

    Returns:
        the account: settings, read, kept, with_region, rejected_by_reason, question_types, licenses, rejects.

    Raises:
        PrepareError: the first reject, when `strict`.
    """
    temporary = shard.path.with_name(f".{shard.path.name}.{os.getpid()}.tmp")
    counts: Counter[str] = Counter()
    types: Counter[str] = Counter()
    licenses: Counter[str] = Counter()
    rejects: list[dict[str, str]] = []
    try:
        with pq.ParquetWriter(
            temporary, schema, write_statistics=False, dictionary_pagesize_limit=_DICTIONARY_LIMIT
        ) as writer:
            rows: list[dict[str, Any]] = []
            for entry in shard.entries:
                try:
                    row = _row_or_raise(entry, build_row)
                except RejectError as error:
                    if strict:
                        raise PrepareError(f"--strict: question {entry.id}: {error}") from None
                    rejects.append(asdict(Reject(entry.id, error.reason, error.detail)))
                    continue
                rows.append(row)
                counts["kept"] += 1
                counts["with_region"] += row["has_region"]
                types[row["question_type"]] += 1
                licenses[row["license"]] += 1
                if len(rows) == _ROWS_PER_GROUP:
                    _write_rows(writer, rows, schema)
            _write_rows(writer, rows, schema)
            account = {
                "settings": settings,
                "read": len(shard.entries),
                "kept": counts["kept"],
                "with_region": counts["with_region"],
                "rejected_by_reason": dict(sorted(Counter(entry["reason"] for entry in rejects).items())),
                "question_types": dict(sorted(types.items())),
                "licenses": dict(sorted(licenses.items())),
                "rejects": rejects,
            }
            writer.add_key_value_metadata({_ACCOUNT_KEY: json.dumps(account)})
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())  # the name must not be on disk before the contents
        os.replace(temporary, shard.path)
    finally:
        temporary.unlink(missing_ok=True)
    return account


def _row_or_raise(entry: Example | Reject, build_row: RowBuilder) -> dict[str, Any]:
    if isinstance(entry, Reject):
        raise RejectError(entry.reason, entry.detail)
    return build_row(entry)


def _write_rows(writer: pq.ParquetWriter, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    if rows:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        rows.clear()


def read_account(path: Path) -> dict[str, Any]:
    """The account that `write_shard` left in the footer.

    Raises:
        PrepareError: the file is no shard of ours.
    """
    try:
        metadata = pq.read_metadata(path).metadata or {}
        return json.loads(metadata[_ACCOUNT_KEY.encode()])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise PrepareError(
            f"{path} was not written by `sayo prepare` ({type(error).__name__}): remove it, choose another --out, or "
            "give --overwrite to make this split again"
        ) from None
