"""Ask for every row, check, leave out duplicates, and write what is left, with an account of rows and tokens.

All checks are functions of the rows and of the journal's answers. So the files are made from the whole journal at the
end of each run: a run that was killed ends with the same bytes, and checks that were changed cost nothing to apply.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.examples import PrepareError
from data_prep.shards import JOURNAL
from data_prep.synthesize.duplicates import NearDuplicates
from data_prep.synthesize.roles import ReplyJournal, Roles
from data_prep.synthesize.rows import PreparedQuestion, PreparedRows
from data_prep.texts import render_text, write_whole
from data_prep.workers import progress_bar
from sayo.client import ChatError, as_completed
from sayo.errors import RejectedError

SERVER = "server: "  # in front of the kind of a failure, as the reason of a row that the next run asks again


def synthesize_rows(
    rows: PreparedRows,
    out: Path,
    write: Callable[..., Awaitable[str]],
    ask: Callable[[ReplyJournal], Roles],
    *,
    suffix: str,
    num_workers: int,
    max_overlap: float,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Synthesise a completion for every row.

    Args:
        out: OUT/data/<split>-*.parquet (the prepared columns and `completion`), summary.json, rejected.jsonl,
            README.md, journal.jsonl.
        write: the completion of a row, by `roles`; raises `RejectedError` or `ChatError` (see `writers`).
        ask: the roles, given the journal.
        suffix: put under each question in the data.
        max_overlap: of the 5-grams of a completion with an earlier one's, above which it is a near duplicate.

    Returns:
        the summary: read, kept, rejected, failed (of these, at the server), rejected_by_reason, tokens (of the whole
        journal, former runs included), settings.

    Raises:
        PrepareError: `out` holds data that were not made here, or there are no such rows.
        ServerUnusable: the server is down or refuses everything; the journal keeps what was answered.
    """
    path, total, results = out / JOURNAL, rows.count(), {}
    if out.resolve() == rows.folder.resolve() or ((out / "data").exists() and not path.exists()):
        raise PrepareError(f"{out} holds data that `sayo synthesize` did not write; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with ReplyJournal(path) as journal, progress_bar(total, "asking") as (advance, say):
        if journal.answers:
            say(f"resuming: {len(journal.answers)} answers are in {path} already")
        outcome = partial(_outcome, write=write, roles=ask(journal))
        for row, result in as_completed(outcome, rows.questions(), num_workers):
            results[row.index] = row.id, result
            advance(1)
        completions, rejected = _sift(results, rows.split, max_overlap)
        settings = {**settings, "split": rows.split, "limit": rows.limit, "max_overlap": max_overlap}
        rows.write(out / "data", completions, suffix)
        return _write_account(out, len(completions), rejected, journal.tokens(), settings)


def _write_account(
    out: Path, kept: int, rejected: list[dict[str, Any]], tokens: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    reasons = Counter(record["reason"] for record in rejected)
    summary = {
        "read": kept + len(rejected),
        "kept": kept,
        "rejected": len(rejected),
        "failed": failed_at_server(reasons),
        "rejected_by_reason": dict(sorted(reasons.items())),
        "tokens": tokens,
        "settings": settings,
    }
    write_whole(out / "rejected.jsonl", "".join(f"{json.dumps(record)}\n" for record in rejected))
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_whole(out / "README.md", render_text("synthesize/templates/README.md.jinja", **summary))
    return summary


async def _outcome(row: PreparedQuestion, write: Callable[..., Awaitable[str]], roles: Roles) -> str | RejectedError:
    if not row.accepted:
        return RejectedError("no_solution", "the row has no answer to compare with")
    try:
        return await write(row, roles=roles)
    except (ChatError, RejectedError) as error:
        return as_rejected(error)


def as_rejected(error: ChatError | RejectedError) -> RejectedError:
    """Why a row was given up, without the traceback, which keeps its images alive."""
    if isinstance(error, ChatError):
        return RejectedError(f"{SERVER}{error.kind}", error.message)
    return RejectedError(error.reason, error.detail)


def failed_at_server(reasons: Mapping[str, int]) -> int:
    """How many of the rejected rows, counted by reason, the next run asks again."""
    return sum(count for reason, count in reasons.items() if reason.startswith(SERVER))


def _sift(
    results: Mapping[int, tuple[str, str | RejectedError]], split: str, max_overlap: float
) -> tuple[dict[int, str], list[dict[str, Any]]]:
    """Completions by index of the row, without near duplicates, and a record of every other row."""
    seen, completions, rejected = NearDuplicates(max_overlap), {}, []
    for index, (name, result) in sorted(results.items()):
        if isinstance(result, str) and (duplicate := seen.add(f"{name} (row {index})", result)):
            result = RejectedError("near_duplicate", "shares {1:.0%} of its 5-grams with {0}".format(*duplicate))
        if isinstance(result, str):
            completions[index] = result
        else:
            where = {"id": name, "index": index, "split": split}
            rejected.append({**where, "reason": result.reason, "detail": result.detail})
    return completions, rejected
