"""Ask for every row, check, leave out duplicates, and write what is left, with an account of rows and tokens.

All checks are functions of the rows and of the journal's answers. So the files are made from the whole journal at the
end of each run: a run that was killed ends with the same bytes, and checks that were changed cost nothing to apply.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.examples import PrepareError
from data_prep.synthesize.duplicates import NearDuplicates
from data_prep.synthesize.prompts import render
from data_prep.synthesize.roles import Journal
from data_prep.synthesize.rows import PreparedQuestion, count_rows, read_questions, write_rows
from sayo.client import ChatError, as_completed
from sayo.errors import RejectedError

JOURNAL = "journal.jsonl"
_SERVER = "server: "  # in front of the kind of a failure, as the reason of a row that the next run asks again


def check_folders(prepared: Path, out: Path) -> None:
    """Make `out`, unless it holds something that was not made here.

    Raises:
        PrepareError: it does, or `prepared` is not a folder.
    """
    if not prepared.is_dir():
        raise PrepareError(f"{prepared} is not a folder; give one that `sayo prepare` wrote")
    if out.resolve() == prepared.resolve() or ((out / "data").exists() and not (out / JOURNAL).exists()):
        raise PrepareError(f"{out} holds data that `sayo synthesize` did not write; choose another --out")
    out.mkdir(parents=True, exist_ok=True)


def synthesize_rows(
    prepared: Path,
    out: Path,
    write: Callable[[PreparedQuestion], Awaitable[str]],
    journal: Journal,
    *,
    suffix: str = "",
    split: str = "train",
    limit: int | None = None,
    num_workers: int = 8,
    max_overlap: float = 0.8,
    settings: Mapping[str, Any] | None = None,
    on_row: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Synthesise a completion for every row of a split.

    Args:
        prepared: folder of `sayo prepare`.
        out: OUT/data/<split>-*.parquet (the prepared columns and `completion`), summary.json, rejected.jsonl,
            README.md; see `check_folders`.
        write: the completion of a row; raises `RejectedError` or `ChatError` (see `writers`).
        journal: of what `write` asks.
        suffix: put under each question in the data.
        limit: the first so many rows.
        num_workers: rows at once.
        max_overlap: of the 5-grams of a completion with an earlier one's, above which it is a near duplicate.
        settings: for the summary.
        on_row: called after each row.

    Returns:
        the summary: read, kept, rejected, failed (of these, at the server), rejected_by_reason, tokens (of the whole
        journal, former runs included), settings.

    Raises:
        ServerUnusable: the server is down or refuses everything; the journal keeps what was answered.
    """
    completions: dict[int, str] = {}
    rejected: dict[int, RejectedError] = {}
    ids: dict[int, str] = {}

    async def outcome(row: PreparedQuestion) -> str | RejectedError:
        if not row.accepted:
            return RejectedError("no_solution", "the row has no answer to compare with")
        try:
            return await write(row)
        except ChatError as error:
            return RejectedError(f"{_SERVER}{error.kind}", error.message)
        except RejectedError as error:
            return RejectedError(error.reason, error.detail)  # without the traceback, which keeps the images alive

    for row, result in as_completed(outcome, read_questions(prepared, split, limit), num_workers):
        ids[row.index] = row.id
        (completions if isinstance(result, str) else rejected)[row.index] = result
        on_row()
    completions = dict(sorted(completions.items()))
    _reject_duplicates(completions, rejected, ids, NearDuplicates(max_overlap))
    write_rows(prepared, out / "data", split, completions, suffix)
    records = (
        {"id": ids[index], "index": index, "split": split, "reason": error.reason, "detail": error.detail}
        for index, error in sorted(rejected.items())
    )
    _replace(out / "rejected.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))
    summary = {
        "read": count_rows(prepared, split, limit),
        "kept": len(completions),
        "rejected": len(rejected),
        "failed": sum(error.reason.startswith(_SERVER) for error in rejected.values()),
        "rejected_by_reason": dict(sorted(Counter(error.reason for error in rejected.values()).items())),
        "tokens": journal.tokens(),
        "settings": {"split": split, "limit": limit, "max_overlap": max_overlap, **(settings or {})},
    }
    _replace(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    _replace(out / "README.md", render("README.md.jinja", **summary))
    return summary


def _reject_duplicates(
    completions: dict[int, str], rejected: dict[int, RejectedError], ids: Mapping[int, str], seen: NearDuplicates
) -> None:
    for index, text in list(completions.items()):
        if duplicate := seen.add(f"{ids[index]} (row {index})", text):
            earlier, overlap = duplicate
            del completions[index]
            rejected[index] = RejectedError("near_duplicate", f"shares {overlap:.0%} of its 5-grams with {earlier}")


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(part, path)
