"""Ask for every row, check, leave out duplicates, and write what is left, with an account of rows, tokens and money.

All checks are functions of the rows and of the journal's answers. So the files are made from the whole journal at the
end of each run: a run that was killed ends with the same bytes, and checks that were changed cost nothing to apply.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from data_prep.examples import PrepareError, RejectError
from data_prep.synthesize.client import ServerUnusable
from data_prep.synthesize.duplicates import NearDuplicates
from data_prep.synthesize.roles import Roles
from data_prep.synthesize.rows import Question, count_rows, read_questions, write_rows

JOURNAL = "journal.jsonl"
Outcome = str | RejectError


class Writer(Protocol):
    """Writes the completion of a row, by asking its roles (`VisualAnchors`, `LookBack`)."""

    roles: Roles
    suffix: str

    def __call__(self, row: Question) -> str: ...


def check_folders(prepared: Path, out: Path) -> None:
    """Make `out`, unless it holds something that was not made here.

    Raises:
        PrepareError: it does, or `prepared` is no folder.
    """
    if not prepared.is_dir():
        raise PrepareError(f"{prepared} is no folder; give one that `sayo prepare` wrote")
    if out.resolve() == prepared.resolve() or ((out / "data").exists() and not (out / JOURNAL).exists()):
        raise PrepareError(f"{out} holds data that `sayo synthesize` did not write; choose another --out")
    out.mkdir(parents=True, exist_ok=True)


def synthesize(
    prepared: Path,
    out: Path,
    write: Writer,
    *,
    split: str = "train",
    limit: int | None = None,
    concurrency: int = 8,
    max_overlap: float = 0.8,
    settings: Mapping[str, Any] | None = None,
    on_row: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Synthesise a completion for every row of a split.

    Args:
        prepared: folder of `sayo prepare`.
        out: OUT/data/<split>-*.parquet (the prepared columns and `completion`), summary.json, rejects.jsonl,
            README.md; see `check_folders`.
        write: how a completion comes about.
        limit: the first so many rows.
        concurrency: rows at once.
        max_overlap: of the 5-grams of a completion with an earlier one's, above which it is a near duplicate.
        settings: for the summary.
        on_row: called after each row.

    Returns:
        the summary: read, kept, rejected_by_reason, cost (of the whole journal, former runs included), settings.

    Raises:
        ServerUnusable: the server is down or refuses everything; the journal keeps what was answered.
    """
    outcomes: dict[int, Outcome] = {}
    ids: dict[int, str] = {}
    for row, outcome in _ask(read_questions(prepared, split, limit), write, concurrency):
        ids[row.index], outcomes[row.index] = row.id, outcome
        on_row()
    _reject_duplicates(outcomes, ids, NearDuplicates(max_overlap))
    kept = {index: text for index, text in sorted(outcomes.items()) if isinstance(text, str)}
    rejects = {index: error for index, error in sorted(outcomes.items()) if isinstance(error, RejectError)}
    write_rows(prepared, out, split, kept, write.suffix)
    lines = [
        json.dumps({"id": ids[index], "index": index, "split": split, "reason": error.reason, "detail": error.detail})
        for index, error in rejects.items()
    ]
    _replace(out / "rejects.jsonl", "".join(f"{line}\n" for line in lines))
    summary = {
        "read": count_rows(prepared, split, limit),
        "kept": len(kept),
        "rejected": len(rejects),
        "rejected_by_reason": dict(sorted(Counter(error.reason for error in rejects.values()).items())),
        "cost": write.roles.cost(),
        "settings": {"split": split, "limit": limit, "max_overlap": max_overlap, **(settings or {})},
    }
    _replace(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    _replace(out / "README.md", _card(summary))
    return summary


def _ask(rows: Iterator[Question], write: Writer, concurrency: int) -> Iterator[tuple[Question, Outcome]]:
    """Every row with its outcome, as they come in."""
    pool = ThreadPoolExecutor(concurrency)
    open_: dict[Future, Question] = {}
    failed = 0
    try:
        while True:
            # Two rows per worker keep everybody busy without holding every picture of the data.
            while len(open_) < 2 * concurrency and (row := next(rows, None)) is not None:
                open_[pool.submit(_outcome, write, row)] = row
            if not open_:
                return
            for future in wait(open_, return_when=FIRST_COMPLETED).done:
                row, outcome = open_.pop(future), future.result()
                failed = failed + 1 if isinstance(outcome, RejectError) and outcome.reason == "server_error" else 0
                if failed >= max(5, 2 * concurrency):
                    raise ServerUnusable(f"{failed} rows in a row failed, the last with {outcome.detail}")
                yield row, outcome
    finally:
        write.roles.stop()
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(write: Writer, row: Question) -> Outcome:
    try:
        return write(row)
    except RejectError as error:
        return RejectError(error.reason, error.detail)  # without the traceback, which keeps the pictures alive


def _reject_duplicates(outcomes: dict[int, Outcome], ids: Mapping[int, str], seen: NearDuplicates) -> None:
    for index, outcome in sorted(outcomes.items()):
        if isinstance(outcome, str) and (found := seen.add(f"{ids[index]} (row {index})", outcome)):
            earlier, overlap = found
            outcomes[index] = RejectError("near_duplicate", f"shares {overlap:.0%} of its 5-grams with {earlier}")


def _card(summary: Mapping[str, Any]) -> str:
    settings = summary["settings"]
    split = settings["split"]
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    reasons = "\n".join(f"| {name} | {count} |" for name, count in summary["rejected_by_reason"].items())
    return f"""---
task_categories:
- image-text-to-text
configs:
- config_name: default
  data_files:
  - split: {split}
    path: data/{split}-*.parquet
---
# Synthesised completions ({settings.get("kind", "sayo synthesize")})

Made by models, by `sayo synthesize`, from questions of `sayo prepare`: {summary["kept"]} of {summary["read"]} rows.
`prompt`, `completion` and `images` are TRL's conversational prompt-completion format; the other columns are those of
the prepared data, with the licence of each row. The terms of the models' makers come on top.

| setting | value |
|---|---|
{rows}

| rejected because | rows |
|---|---|
{reasons}

Each rejected row: rejects.jsonl. Every answer of every model, with its tokens: journal.jsonl.
"""


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(part, path)
