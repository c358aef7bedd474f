"""A source's examples -> OUT/data/<split>-0000i-of-0000N.parquet, summary.json, rejected.jsonl and a data card.

Shard i always holds the same stretch of the source's questions, whatever the number of processes, and no clock or path
goes into a file. So a run that was killed goes on where it stopped and ends with the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from data_prep.card import write_card
from data_prep.examples import Example, PrepareError, Rejected
from data_prep.images import list_folder
from data_prep.rows import RowBuilder, written_schema
from data_prep.seen import SeenIds
from data_prep.shards import Shard, read_account, write_shard
from data_prep.tokens import TokenMapper
from data_prep.workers import progress_bar, run_jobs

ROWS_PER_SHARD = 2000
_SPLIT = re.compile(r"\w+(\.\w+)*")  # what `datasets` accepts as the name of a split
_FORMAT = 3  # raise it when the same input would give other bytes


class Source(Protocol):
    """What `data_prep.sources` offers: sized, iterable, with a digest of its inputs."""

    name: str

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Example | Rejected]: ...

    def settings(self) -> dict[str, Any]: ...


def prepare(
    source: Source,
    image_folder: str | Path | None,
    out: str | Path,
    *,
    mapper: TokenMapper | None = None,
    split: str = "train",
    limit: int | None = None,
    num_proc: int = 1,
    rows_per_shard: int = ROWS_PER_SHARD,
    link_images: bool = False,
    overwrite: bool = False,
    strict: bool = False,
) -> dict[str, Any]:
    """Prepare one split; shards that are already there with the same settings are kept as they are.

    Args:
        source: see `data_prep.sources`.
        image_folder: where the images are; names that lead out of it are rejected. None if the source embeds them.
        out: folder of the data set; other splits that it holds are left alone.
        mapper: adds the token columns; None leaves them null.
        limit: read only the first `limit` questions.
        rows_per_shard: questions per file.
        link_images: store paths instead of bytes.
        overwrite: make the split again even if it is there.
        strict: the first reject is an error.

    Returns:
        the summary (see `data_prep.card.write_card`).

    Raises:
        PrepareError: unusable input, an output made with other settings, or, when `strict`, a reject.
    """
    image_folder, out = Path(image_folder) if image_folder is not None else None, Path(out)
    check_options(image_folder, split, limit, num_proc, rows_per_shard)
    if len(source) == 0:
        raise PrepareError(
            f"there is no question in what {next(iter(source.settings()))} names: is it a file of another kind?"
        )
    if mapper is not None:
        check_mapper(mapper)
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
    accounts = finished_shards(out, split, paths, settings, overwrite)
    _raise_on_reject(accounts.values(), strict)
    list_folder.cache_clear()
    builder = RowBuilder(image_folder, split, mapper, link_images)
    schema = written_schema()
    with progress_bar(total, "preparing") as (advance, say):
        if accounts:
            say(f"{len(accounts)} of {len(paths)} shards are there already; --overwrite would make them again")
        advance(sum(account["read"] for account in accounts.values()))
        jobs = (
            (shard, builder, schema, settings, strict)
            for shard in _shards(source, total, paths, rows_per_shard, done=accounts)
        )
        for _ in run_jobs(write_shard, jobs, num_proc, advance):
            pass
    summary = write_card(out)
    if summary["splits"][split]["kept"] == 0:  # empty files would only hide the trouble from the next run
        for path in paths:
            path.unlink()
    return summary


def check_options(
    image_folder: Path | None, split: str, limit: int | None, num_proc: int, rows_per_shard: int | None
) -> None:
    """Raise PrepareError for options that no source could be prepared with."""
    if image_folder is not None and not image_folder.is_dir():
        raise PrepareError(f"--images: {image_folder} is not a folder; give the folder that holds the image files")
    if not _SPLIT.fullmatch(split):
        raise PrepareError(
            f"--split: {split!r} is no name for a split; use letters, digits and _ such as train or val"
        )
    for flag, value in (("--limit", limit), ("--num-proc", num_proc), ("--rows-per-shard", rows_per_shard)):
        if value is not None and value < 1:
            raise PrepareError(f"{flag}: {value} must be at least 1")


def check_mapper(mapper: TokenMapper) -> None:
    """Raise PrepareError for options that no row could be mapped with."""
    if mapper.threshold is not None and not 0 <= mapper.threshold <= 1:
        raise PrepareError(f"--threshold: {mapper.threshold} must be a share of a cell, from 0 to 1")
    try:
        mapper.layout.cells(500, 375)
    except ValueError as error:
        raise PrepareError(f"--processor: {error}") from None


def shard_paths(out: Path, split: str, count: int) -> list[Path]:
    """Names of the `count` files of a split, as Hugging Face numbers them."""
    return [out / "data" / f"{split}-{index:05d}-of-{count:05d}.parquet" for index in range(count)]


def finished_shards(
    out: Path, split: str, paths: list[Path], settings: dict[str, Any], overwrite: bool
) -> dict[Path, dict[str, Any]]:
    """Shards that need not be made again, with `read` and the first of `rejects` of their accounts.

    Also makes the folder and clears what a kill left.
    """
    folder = out / "data"
    if out.exists() and not out.is_dir():
        raise PrepareError(f"--out: {out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not folder.is_dir():
        raise PrepareError(f"--out: {out} holds other files; give an empty or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (*out.glob(".*.tmp"), *folder.glob(f".{split}-*.tmp")):
        leftover.unlink(missing_ok=True)
    accounts = {}
    for path in sorted(folder.glob(f"{split}-*-of-*.parquet")):
        if overwrite:
            path.unlink()
            continue
        account = read_account(path)
        _check_settings(account["settings"], settings, out, split)
        if path not in paths:
            raise PrepareError(f"{path} does not belong to this run; remove it or give --overwrite")
        accounts[path] = {"read": account["read"], "rejects": account["rejects"][:1]}
    return accounts


def _check_settings(found: dict[str, Any], wanted: dict[str, Any], out: Path, split: str) -> None:
    different = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if different:
        changes = "; ".join(f"{name}: {found.get(name)} there, {wanted.get(name)} now" for name in different)
        raise PrepareError(
            f"{out} already holds the split {split!r} made with other settings ({changes}). Give --overwrite to make "
            "it again, or choose another --out or --split"
        )


def _raise_on_reject(accounts: Iterable[dict[str, Any]], strict: bool) -> None:
    rejects = [entry for account in accounts for entry in account["rejects"]] if strict else []
    if rejects:
        raise PrepareError("--strict: question {id}: {reason}: {detail}".format(**rejects[0]))


def _shards(
    source: Source, total: int, paths: list[Path], rows_per_shard: int, done: dict[Path, Any]
) -> Iterator[Shard]:
    """The shards that are still to be made. The first question of an id stays; later ones become rejects."""
    seen = SeenIds()
    entries = islice(source, total)
    for path in paths:
        stretch = list(islice(entries, rows_per_shard))
        for index, known in enumerate(seen.check([entry.id for entry in stretch])):
            if known:
                detail = "an earlier question has this id; the first one is kept"
                stretch[index] = Rejected(stretch[index].id, "duplicate_id", detail)
        if path not in done:
            yield Shard(path, tuple(stretch))
