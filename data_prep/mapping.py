"""`sayo map`: prepared rows -> the same rows with the token columns of one processor; images are not touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.card import write_card
from data_prep.examples import PrepareError, RejectedError
from data_prep.pipeline import check_mapper, finished_shards
from data_prep.rows import features
from data_prep.shards import ShardWriter, list_shards, read_account
from data_prep.tokens import COLUMNS, TokenMapper
from data_prep.workers import progress_bar, report_rows, run_jobs


def map_tokens(
    folder: Path, out: Path, mapper: TokenMapper, *, num_proc: int = 1, overwrite: bool = False, strict: bool = False
) -> dict[str, Any]:
    """Map every split of `folder` into `out`; shards that are already there with the same settings are kept.

    Rows that the processor refuses are rejects; those of the first preparation stay in the account.

    Returns:
        the summary (see `data_prep.card.write_card`).

    Raises:
        PrepareError: no prepared data, `out` is `folder`, an output made with other settings, or, when `strict`, a
            row that the processor refuses.
    """
    if out.resolve() == folder.resolve():
        raise PrepareError(f"--out: {out} is the input; give another folder")
    if num_proc < 1:
        raise PrepareError(f"--num-proc: {num_proc} must be at least 1")
    check_mapper(mapper)
    by_split: dict[str, list[Path]] = {}
    accounts = {path: read_account(path) for path in list_shards(folder)}
    for path, account in accounts.items():
        by_split.setdefault(account["settings"]["--split"], []).append(path)
    with progress_bar(sum(account["kept"] for account in accounts.values()), "mapping") as (advance, say):
        for split, paths in by_split.items():
            settings = {**accounts[paths[0]]["settings"], **mapper.settings()}
            done = finished_shards(out, split, [out / "data" / path.name for path in paths], settings, overwrite)
            advance(sum(accounts[path]["kept"] for path in paths if out / "data" / path.name in done))
            if done:
                say(f"{len(done)} of {len(paths)} shards of {split} are there already")
            jobs = (
                (path, out / "data" / path.name, mapper, settings, strict)
                for path in paths
                if out / "data" / path.name not in done
            )
            for _ in run_jobs(_map_shard, jobs, num_proc, advance):
                pass
    return write_card(out)


def _map_shard(path: Path, target: Path, mapper: TokenMapper, settings: dict[str, Any], strict: bool) -> None:
    file = pq.ParquetFile(path)
    schema = features().arrow_schema
    if file.schema_arrow.names != schema.names:
        raise PrepareError(f"{path} has other columns than this version writes; prepare this data set again")
    with ShardWriter(target, schema) as writer:
        for reject in read_account(path)["rejects"]:
            writer.reject(reject["id"], RejectedError(reject["reason"], reject["detail"]))
        for table in _row_groups(file):
            mapped, keep = [], []
            for row in table.select(["id", "regions", "image_sizes"]).to_pylist():
                try:
                    mapped.append(mapper([tuple(size) for size in row["image_sizes"]], row["regions"]))
                    keep.append(True)
                except RejectedError as error:
                    if strict:
                        raise PrepareError(f"--strict: question {row['id']}: {error}") from None
                    writer.reject(row["id"], error)
                    keep.append(False)
            rows = len(table)
            table = table.filter(pa.array(keep))
            for name in COLUMNS:
                field = schema.field(name)
                values = pa.array([tokens[name] for tokens in mapped], type=field.type)
                table = table.set_column(schema.get_field_index(name), field, values)
            if len(table):
                writer.write(table.cast(schema))
            report_rows(rows)
        writer.finish(settings)


def _row_groups(file: pq.ParquetFile) -> Iterator[pa.Table]:
    for group in range(file.num_row_groups):
        yield file.read_row_group(group)
