"""Ask a policy about prepared rows, write every record down at once, and sum up."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from sayo.draw import response_map
from sayo.evaluation.faithfulness import faithfulness
from sayo.evaluation.journal import Journal
from sayo.evaluation.local import LocalModel
from sayo.evaluation.records import Reply, question_record
from sayo.evaluation.server import ServerModel
from sayo.evaluation.summary import summary_of


def evaluate(
    answerer: LocalModel | ServerModel,
    rows: Dataset,
    folder: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    attention: bool = True,
    whole_text: bool = False,
    num_maps: int = 6,
    faithful: bool = False,
    overwrite: bool = False,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> dict[str, Any]:
    """Ask every question that has no answer yet; return (and write) the summary.

    Judge by sampling: the greedy answer of a policy that looks in the wrong place half of the time can still be right.

    Args:
        rows: prepared rows; `prompt`, `images` and `solution` are enough.
        folder: gets `samples.jsonl`, `summary.json`, `settings.json`, `maps.npz` and `images/`.
        settings: everything that the results depend on; JSON values.
        attention: read where the model looks, if the rows have images.
        whole_text: as of `rewards.accuracy_reward`.
        num_maps: questions with a region whose picture and attention map are kept.
        faithful: also measure whether the answers use what is looked at (`sayo.evaluation.faithfulness`): two more
            responses for each, and 18 passes for each question.
        overwrite: forget what is in the folder.
        progress: wraps the indices of the questions to ask.

    Raises:
        JournalError: the folder holds something else.
    """
    ids = list(map(str, rows["id"] if "id" in rows.column_names else range(len(rows))))
    attention = attention and "images" in rows.column_names
    with closing(Journal(folder, settings or {}, ids, overwrite=overwrite)) as journal:
        todo = [index for index in range(len(rows)) if not journal.is_done(index)]
        asked = (_with_defaults(rows[index], ids[index], index) for index in progress(todo))
        for row, replies in answerer.answer(asked, attention):
            record = question_record(row, replies, whole_text)
            if faithful:
                record |= faithfulness(answerer, row, replies, whole_text)
            if len(journal.maps) < num_maps and (values := attention_map(row, replies[0], answerer)) is not None:
                journal.add_map(record, values, row["images"][0])
            journal.append(record)
        summary = {**summary_of([journal.records[index] for index in range(len(rows))]), **(settings or {})}
        journal.finish(summary)
    return summary


def attention_map(row: Mapping[str, Any], reply: Reply, answerer: LocalModel | ServerModel) -> np.ndarray | None:
    """`(rows, columns)` float32 map of the response to a question of one image and a region; None for any other.

    A layout that is not a single grid has one row of all its tokens.
    """
    trace = reply.trace
    if trace is None or not trace.has_region or len(row["images"]) != 1 or len(trace) == 0:
        return None
    layout = getattr(answerer, "reader", answerer).layout
    columns, lines = layout.cells(*row["images"][0].size).grid or (-1, 1)
    return response_map(trace).reshape(lines, columns).astype(np.float32)


def _with_defaults(row: Mapping[str, Any], name: str, index: int) -> dict[str, Any]:
    defaults = {"question": str(row["prompt"][-1]["content"]), "question_type": "all", "regions": []}
    row = {**defaults, **{key: value for key, value in row.items() if value is not None}}
    return {**row, "id": name, "index": index, "images": row.get("images", [])}
