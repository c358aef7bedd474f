"""A source's examples -> OUT/data/<split>-0000i-of-0000N.parquet, summary.json, rejected.jsonl and a data card.

Shard i always holds the same stretch of the source's questions, whatever the number of processes, and no clock or path
goes into a file. So a run that was killed resumes where it stopped and ends with the same bytes.
"""

import re
from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.card import write_card
from data_prep.examples import Example, PrepareError, Rejected, RejectedError
from data_prep.images import list_folder
from data_prep.rows import RowBuilder, table_of, written_schema
from data_prep.shards import ROWS_PER_GROUP, ShardWriter, finished_shards, shard_paths
from data_prep.sources.base import RecordSource
from data_prep.store import database, newness_of
from data_prep.tokens import TokenMapper
from data_prep.workers import progress_bar, run_jobs

ROWS_PER_SHARD = 2000
_SPLIT = re.compile(r"\w+(\.\w+)*")  # what `datasets` accepts as the name of a split
_FIRST_ROWS = 100  # none of them usable: the input is not what the command says
_MOST_PER_GROUP = 10 * ROWS_PER_GROUP
_FORMAT = 6  # raise it when the same input would give other bytes


def prepare(
    source: RecordSource,
    image_folder: Path | None,
    out: Path,
    *,
    mapper: TokenMapper | None = None,
    split: str = "train",
    limit: int | None = None,
    num_proc: int = 1,
    rows_per_shard: int = ROWS_PER_SHARD,
    link_images: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Prepare one split; shards that are already there with the same settings are kept as they are.

    Args:
        image_folder: where the images are; names that lead out of it are rejected. None if the source embeds them.
        out: folder of the data set; other splits that it holds are left alone.
        mapper: adds the token columns; None leaves them null.

    The other arguments are the options of `sayo prepare`. Returns the summary of `write_card`.

    Raises:
        PrepareError: unusable input, or an output made with other settings.
    """
    check_options(image_folder, split)
    if len(source) == 0:
        raise PrepareError(f"no question in what {next(iter(source.settings()))} names: is it a file of another kind?")
    settings = {
        "format": _FORMAT,
        "source": source.name,
        "--split": split,
        "--limit": limit,
        "--rows-per-shard": rows_per_shard,
        "--link-images": link_images,
        **(mapper.settings() if mapper else {"--processor": None}),
        **source.settings(),
    }
    total = min(len(source), limit or len(source))
    paths = shard_paths(out, split, -(-total // rows_per_shard))
    done = finished_shards(out, split, paths, settings, overwrite)
    list_folder.cache_clear()
    builder, schema = RowBuilder(image_folder, split, mapper, link_images), written_schema()
    with progress_bar(total, "preparing") as (advance, say):
        if done:
            say(f"{len(done)} of {len(paths)} shards are there already; --overwrite would make them again")
        advance(sum(done.values()))
        shards = _checked(_shards(source, total, paths, rows_per_shard, done), builder)
        jobs = ((path, entries, builder, schema, settings) for path, entries in shards)
        for rows in run_jobs(write_shard, jobs, num_proc):
            advance(rows)
    summary = write_card(out)
    if summary["splits"][split]["kept"] == 0:  # empty files would only hide the trouble from the next run
        for path in paths:
            path.unlink()
    return summary


def check_options(image_folder: Path | None, split: str) -> None:
    """Raise PrepareError for options that no source could be prepared with."""
    if image_folder is not None and not image_folder.is_dir():
        raise PrepareError(f"--images: {image_folder} is not a folder; give the folder that holds the image files")
    if not _SPLIT.fullmatch(split):
        raise PrepareError(f"--split: {split!r} cannot name a split; use letters, digits and _ such as train or val")


def _shards(
    source: RecordSource, total: int, paths: list[Path], rows_per_shard: int, done: Container[Path]
) -> Iterator[tuple[Path, list[Example | Rejected]]]:
    """(file, its questions) of each shard to be made. The first question of an id stays; later ones are rejected."""
    with database() as connection:
        is_new, entries = newness_of(connection), source.examples(total)
        for path in paths:
            stretch = list(islice(entries, rows_per_shard))
            for index, entry in enumerate(stretch):
                if not is_new(entry.id):
                    detail = "an earlier question has this id; the first one is kept"
                    stretch[index] = Rejected(entry.id, "duplicate_id", detail)
            if path not in done:
                yield path, stretch


def _checked(
    shards: Iterator[tuple[Path, list[Example | Rejected]]], build_row: RowBuilder
) -> Iterator[tuple[Path, list[Example | Rejected]]]:
    """The shards, once a row could be built; PrepareError if none of the first ones can (a wrong image folder)."""
    for number, (path, entries) in enumerate(shards):
        examples = [entry for entry in entries if isinstance(entry, Example)][:_FIRST_ROWS] if number == 0 else []
        for tried, example in enumerate(examples, 1):
            try:
                build_row(example)
                break
            except RejectedError as error:
                if tried == _FIRST_ROWS:
                    raise PrepareError(
                        f"none of the first {tried} questions can be used; nothing was written. The last: {error}. "
                        "Are --images and the annotations those of one data set?"
                    ) from None
        yield path, entries


def write_shard(
    path: Path, entries: list[Example | Rejected], build_row: RowBuilder, schema: pa.Schema, settings: dict[str, Any]
) -> int:
    """Build the rows of a shard and write it; returns the number of rows read."""
    with ShardWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for entry in entries:
            try:
                if isinstance(entry, Rejected):
                    raise RejectedError(entry.reason, entry.detail)
                row = build_row(entry)
            except RejectedError as error:
                writer.reject(entry.id, error)
                continue
            # A row group stores its pictures once, so it ends where a picture does, unless too many rows show one.
            if len(rows) >= ROWS_PER_GROUP and (row["images"] != rows[-1]["images"] or len(rows) >= _MOST_PER_GROUP):
                writer.write(table_of(rows, schema), rows)
                rows.clear()
            rows.append(row)
        if rows:
            writer.write(table_of(rows, schema), rows)
        return writer.finish(settings)["read"]
