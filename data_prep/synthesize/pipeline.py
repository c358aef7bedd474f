"""Ask for every row, check, leave out duplicates, and write what is left, with an account of rows and tokens.

All checks are functions of the rows and of the journal's answers. So the files are made from the whole journal at the
end of each run: a run that was killed ends with the same bytes, and checks that were changed cost nothing to apply.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.examples import PrepareError
from data_prep.synthesize.duplicates import NearDuplicates
from data_prep.synthesize.roles import Journal
from data_prep.synthesize.rows import PreparedQuestion, read_questions, write_rows
from data_prep.texts import render, write_whole
from sayo.client import ChatError, as_completed
from sayo.errors import RejectedError

JOURNAL = "journal.jsonl"
_SERVER = "server: "  # in front of the kind of a failure, as the reason of a row that the next run asks again


def check_folders(prepared: Path, out: Path) -> None:
    """Make `out`, unless it holds data that were not made here: that raises `PrepareError`."""
    if out.resolve() == prepared.resolve() or ((out / "data").exists() and not (out / JOURNAL).exists()):
        raise PrepareError(f"{out} holds data that `sayo synthesize` did not write; choose another --out")
    out.mkdir(parents=True, exist_ok=True)


def synthesize_rows(
    prepared: Path,
    out: Path,
    write: Callable[[PreparedQuestion], Awaitable[str]],
    journal: Journal,
    *,
    suffix: str,
    split: str,
    limit: int | None,
    num_workers: int,
    max_overlap: float,
    settings: Mapping[str, Any],
    on_row: Callable[[], None],
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
    results: dict[int, str | RejectedError] = {}
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
        results[row.index], ids[row.index] = result, row.id
        on_row()
    seen, completions, rejected = NearDuplicates(max_overlap), {}, []
    for index, result in sorted(results.items()):
        if isinstance(result, str) and (duplicate := seen.add(f"{ids[index]} (row {index})", result)):
            result = RejectedError("near_duplicate", "shares {1:.0%} of its 5-grams with {0}".format(*duplicate))
        if isinstance(result, str):
            completions[index] = result
        else:
            where = {"id": ids[index], "index": index, "split": split}
            rejected.append({**where, "reason": result.reason, "detail": result.detail})
    reasons = Counter(record["reason"] for record in rejected)
    summary = {
        "read": len(results),
        "kept": len(completions),
        "rejected": len(rejected),
        "failed": sum(count for reason, count in reasons.items() if reason.startswith(_SERVER)),
        "rejected_by_reason": dict(sorted(reasons.items())),
        "tokens": journal.tokens(),
        "settings": {**settings, "split": split, "limit": limit, "max_overlap": max_overlap},
    }
    write_rows(prepared, out / "data", split, completions, suffix)
    write_whole(out / "rejected.jsonl", "".join(f"{json.dumps(record)}\n" for record in rejected))
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_whole(out / "README.md", render("synthesize/templates/README.md.jinja", **summary))
    return summary
