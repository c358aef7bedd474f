"""`sayo map`: prepared rows -> the same rows with the token columns of one processor; images are not touched."""

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


def map_tokens(
    folder: Path, out: Path, mapper: TokenMapper, *, num_proc: int = 1, overwrite: bool = False
) -> dict[str, Any]:
    """Map every split of `folder` into `out`; shards that are already there with the same settings are kept.

    Rows that the processor refuses are rejected; those of the first preparation stay in the account. Returns the
    summary of `write_card`.

    Raises:
        PrepareError: no prepared data, `out` is `folder`, or an output made with other settings.
    """
    if out.resolve() == folder.resolve():
        raise PrepareError(f"--out: {out} is the input; give another folder")
    accounts = {path: read_account(path) for path in list_shards(folder)}
    with progress_bar(sum(account["read"] for account in accounts.values()), "mapping") as (advance, say):
        for split in dict.fromkeys(account["settings"]["--split"] for account in accounts.values()):
            paths = {
                path: out / "data" / path.name
                for path, account in accounts.items()
                if account["settings"]["--split"] == split
            }
            settings = {**accounts[next(iter(paths))]["settings"], **mapper.settings()}
            done = finished_shards(out, split, list(paths.values()), settings, overwrite)
            if done:
                say(f"{len(done)} of {len(paths)} shards of {split} are there already")
            advance(sum(done.values()))
            jobs = ((path, new, mapper, settings) for path, new in paths.items() if new not in done)
            for rows in run_jobs(_map_shard, jobs, num_proc):
                advance(rows)
    return write_card(out)


def _map_shard(path: Path, out: Path, mapper: TokenMapper, settings: dict[str, Any]) -> int:
    file, schema = pq.ParquetFile(path), features().arrow_schema
    if file.schema_arrow.names != schema.names:
        raise PrepareError(f"{path} has other columns than this version writes; prepare this data set again")
    with ShardWriter(out, schema) as writer:
        for row in read_account(path)["rejected_rows"]:
            writer.reject(row["id"], RejectedError(row["reason"], row["detail"]))
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            mapped, keep = [], []
            for row in table.select(["id", "regions", "image_sizes"]).to_pylist():
                try:
                    mapped.append(mapper([tuple(size) for size in row["image_sizes"]], row["regions"]))
                    keep.append(True)
                except RejectedError as error:
                    writer.reject(row["id"], error)
                    keep.append(False)
            table = table.filter(pa.array(keep))
            for name in COLUMNS:
                field = schema.field(name)
                values = pa.array([tokens[name] for tokens in mapped], type=field.type)
                table = table.set_column(schema.get_field_index(name), field, values)
            if len(table):
                writer.write(table.cast(schema))
        return writer.finish(settings)["read"]
