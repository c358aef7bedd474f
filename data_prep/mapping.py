"""Prepared rows -> the same rows with some columns written anew, shard by shard; images are not touched.

`sayo map` writes the token columns of one processor anew, `sayo ground` the regions of rows that have none.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.card import write_card
from data_prep.examples import PrepareError, RejectedError
from data_prep.rows import features
from data_prep.shards import ShardWriter, finished_shards, list_shards, read_account
from data_prep.tokens import COLUMNS, TokenMapper
from data_prep.workers import progress_bar, run_jobs

Change = Callable[[pa.Table, ShardWriter], pa.Table]
"""The rows to write in place of some, given these and the writer, which counts those that it rejects."""


def map_tokens(
    folder: Path, out: Path, mapper: TokenMapper, *, num_proc: int = 1, overwrite: bool = False
) -> dict[str, Any]:
    """Map every split of `folder` into `out`, with `num_proc` processes; see `rewrite`."""
    change = partial(with_tokens, mapper)
    return rewrite(folder, out, change, mapper.settings(), "mapping", num_proc=num_proc, overwrite=overwrite)


def rewrite(
    folder: Path,
    out: Path,
    change: Change,
    settings: Mapping[str, Any],
    verb: str,
    *,
    num_proc: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Change the rows of every split of `folder` into `out`; shards that are there with the same settings are kept.

    Rows rejected by the first preparation stay in the account. Returns the summary of `write_card`.

    Raises:
        PrepareError: no prepared data, `out` is `folder`, or an output made with other settings.
    """
    if out.resolve() == folder.resolve():
        raise PrepareError(f"--out: {out} is the input; give another folder")
    accounts = {path: read_account(path) for path in list_shards(folder)}
    with progress_bar(sum(account["read"] for account in accounts.values()), verb) as (advance, say):
        for split in dict.fromkeys(account["settings"]["--split"] for account in accounts.values()):
            paths = {
                path: out / "data" / path.name
                for path, account in accounts.items()
                if account["settings"]["--split"] == split
            }
            changed = {**accounts[next(iter(paths))]["settings"], **settings}
            done = finished_shards(out, split, list(paths.values()), changed, overwrite)
            if done:
                say(f"{len(done)} of {len(paths)} shards of {split} are there already")
            advance(sum(done.values()))
            jobs = ((path, new, change, changed) for path, new in paths.items() if new not in done)
            for rows in run_jobs(_rewrite_shard, jobs, num_proc):
                advance(rows)
    return write_card(out)


def _rewrite_shard(path: Path, out: Path, change: Change, settings: dict[str, Any]) -> int:
    file, schema = pq.ParquetFile(path), features().arrow_schema
    if file.schema_arrow.names != schema.names:
        raise PrepareError(f"{path} has other columns than this version writes; prepare this data set again")
    with ShardWriter(out, schema) as writer:
        for row in read_account(path)["rejected_rows"]:
            writer.reject(row["id"], RejectedError(row["reason"], row["detail"]))
        for group in range(file.num_row_groups):
            table = change(file.read_row_group(group), writer)
            if len(table):
                writer.write(table.cast(schema))
        return writer.finish(settings)["read"]


def with_tokens(mapper: TokenMapper | None, table: pa.Table, writer: ShardWriter) -> pa.Table:
    """The rows with their regions' tokens, without those that the processor refuses; no mapper: without tokens."""
    mapped: list[dict[str, Any]] = []
    keep = []
    for row in table.select(["id", "regions", "image_sizes"]).to_pylist():
        try:
            sizes = [tuple(size) for size in row["image_sizes"]]
            mapped.append(mapper(sizes, row["regions"]) if mapper else dict.fromkeys(COLUMNS))
            keep.append(True)
        except RejectedError as error:
            writer.reject(row["id"], error)
            keep.append(False)
    return with_columns(
        table.filter(pa.array(keep, pa.bool_())), {name: [tokens[name] for tokens in mapped] for name in COLUMNS}
    )


def with_columns(table: pa.Table, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """The rows with these values in columns that they have."""
    schema = features().arrow_schema
    for name, values in columns.items():
        field = schema.field(name)
        table = table.set_column(schema.get_field_index(name), field, pa.array(values, type=field.type))
    return table
