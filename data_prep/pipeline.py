"""A source's examples -> OUT/data/<split>-0000i-of-0000N.parquet, summary.json, rejects.jsonl and a data card.

Shard i always holds the same stretch of the source's questions, whatever the number of processes, and no clock or path
goes into a file. So a run that was killed goes on where it stopped and ends with the same bytes.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from data_prep.card import write_card
from data_prep.examples import Example, PrepareError, Reject
from data_prep.rows import RowBuilder, features
from data_prep.shards import Shard, read_account, write_shard

if TYPE_CHECKING:
    from sayo.geometry import VisualLayout

ROWS_PER_SHARD = 2000
_SPLIT = re.compile(r"\w+(\.\w+)*")  # what `datasets` accepts as the name of a split
_FORMAT = 1  # raise it when the same input would give other bytes


class Source(Protocol):
    """What `data_prep.sources` offers: sized, iterable, with a digest of its inputs."""

    name: str

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Example | Reject]: ...

    def settings(self) -> dict[str, str]: ...


def prepare(
    source: Source,
    image_folder: str | Path,
    out: str | Path,
    *,
    layout: VisualLayout | None = None,
    split: str = "train",
    limit: int | None = None,
    num_proc: int = 1,
    rows_per_shard: int = ROWS_PER_SHARD,
    overwrite: bool = False,
    strict: bool = False,
) -> dict[str, Any]:
    """Prepare one split; shards that are already there with the same settings are kept as they are.

    Args:
        source: see `data_prep.sources`.
        image_folder: where the images are; names that lead out of it are rejected.
        out: folder of the data set; other splits that it holds are left alone.
        layout: the processor's layout; None leaves the token columns null.
        limit: read only the first `limit` questions.
        rows_per_shard: questions per file.
        overwrite: make the split again even if it is there.
        strict: the first reject is an error.

    Returns:
        the summary (see `data_prep.card.write_card`).

    Raises:
        PrepareError: unusable input, an output made with other settings, or, when `strict`, a reject.
    """
    image_folder, out = Path(image_folder), Path(out)
    _check_arguments(source, image_folder, split, limit, num_proc, rows_per_shard, layout)
    settings = {
        "format": _FORMAT,
        "source": source.name,
        "--split": split,
        "--limit": limit,
        "--rows-per-shard": rows_per_shard,
        "--processor": layout.fingerprint if layout else None,
        **source.settings(),
    }
    total = min(len(source), limit or len(source))
    paths = _shard_paths(out, split, -(-total // rows_per_shard))
    accounts = _finished(out, split, paths, settings, overwrite)
    _raise_on_reject(accounts.values(), strict)
    builder = RowBuilder(image_folder, split, layout)
    schema = features().arrow_schema
    with _progress(total) as (advance, say), _pool(num_proc) as submit:
        if accounts:
            say(f"{len(accounts)} of {len(paths)} shards are there already; --overwrite would make them again")
        advance(sum(account["read"] for account in accounts.values()))
        running: deque[Future | None] = deque()
        for shard in _shards(_without_duplicates(source), total, paths, rows_per_shard):
            if shard.path in accounts:
                continue
            running.append(submit(write_shard, shard, builder, schema, settings, strict))
            if len(running) > num_proc:  # one shard waits for each process, so memory does not grow with the source
                advance(_result(running.popleft())["read"])
        while running:
            advance(_result(running.popleft())["read"])
    summary = write_card(out)
    if summary["splits"][split]["kept"] == 0:  # empty files would only hide the trouble from the next run
        for path in paths:
            path.unlink()
    return summary


def _check_arguments(
    source: Source,
    image_folder: Path,
    split: str,
    limit: int | None,
    num_proc: int,
    rows_per_shard: int,
    layout: VisualLayout | None,
) -> None:
    if not image_folder.is_dir():
        raise PrepareError(f"--images: {image_folder} is not a folder; give the folder that holds the image files")
    if not _SPLIT.fullmatch(split):
        raise PrepareError(
            f"--split: {split!r} is no name for a split; use letters, digits and _ such as train or val"
        )
    for flag, value in (("--limit", limit), ("--num-proc", num_proc), ("--rows-per-shard", rows_per_shard)):
        if value is not None and value < 1:
            raise PrepareError(f"{flag}: {value} must be at least 1")
    if len(source) == 0:
        raise PrepareError(f"there is no question in the files given to {', '.join(source.settings())}")
    if layout is not None:
        try:
            layout.cells(500, 375)
        except ValueError as error:
            raise PrepareError(f"--processor: {error}") from None


def _shard_paths(out: Path, split: str, count: int) -> list[Path]:
    return [out / "data" / f"{split}-{index:05d}-of-{count:05d}.parquet" for index in range(count)]


def _finished(
    out: Path, split: str, paths: list[Path], settings: dict[str, Any], overwrite: bool
) -> dict[Path, dict[str, Any]]:
    """Accounts of the shards that need not be made again; also makes the folder and clears what a kill left."""
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
        accounts[path] = account
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


def _without_duplicates(source: Source) -> Iterator[Example | Reject]:
    """The first question of an id stays; later ones become rejects."""
    seen: set[str] = set()
    for entry in source:
        if entry.id in seen:
            yield Reject(entry.id, "duplicate_id", "an earlier question has this id; the first one is kept")
        else:
            seen.add(entry.id)
            yield entry


def _shards(
    entries: Iterator[Example | Reject], total: int, paths: list[Path], rows_per_shard: int
) -> Iterator[Shard]:
    entries = islice(entries, total)
    for path in paths:
        yield Shard(path, tuple(islice(entries, rows_per_shard)))


def _result(outcome: Future | dict[str, Any]) -> dict[str, Any]:
    if not isinstance(outcome, Future):
        return outcome
    try:
        return outcome.result()
    except BrokenProcessPool:
        raise PrepareError(
            "a worker process died (out of memory?). Run the same command with a smaller --num-proc; finished shards "
            "are kept"
        ) from None


@contextmanager
def _pool(num_proc: int) -> Iterator[Callable[..., Any]]:
    """`submit(function, *arguments)`: in this process, or in one of `num_proc`."""
    if num_proc == 1:
        yield lambda function, *arguments: function(*arguments)
        return
    import multiprocessing

    # spawn: a fork would copy the locks of pyarrow's and rich's threads in whatever state they are
    with ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn"), _die_with_parent) as executor:
        try:
            yield executor.submit
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _die_with_parent() -> None:
    """A killed command must not leave workers behind that write into the next run's folder."""
    import multiprocessing
    import os
    import threading

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    pa.set_cpu_count(1)


@contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """(`advance(rows)`, `say(text)`) of a bar on stderr with rows/s and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TimeRemainingColumn
    from rich.text import Text

    class RowsPerSecond(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} rows/s" if speed else "", style="progress.data.speed")

    columns = ("preparing", BarColumn(), MofNCompleteColumn(), RowsPerSecond(), "left", TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("preparing", total=total)
        yield lambda rows: progress.advance(task, rows), progress.console.print
