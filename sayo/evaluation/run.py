"""Run tasks: ask what is not answered yet, write every record down at once, and sum up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import track

from sayo.evaluation.evaluate import attention_map, map_key
from sayo.evaluation.local import Answered, LocalModel
from sayo.evaluation.questions import BadRow, Questions
from sayo.evaluation.records import failed_record, question_record
from sayo.evaluation.store import Store
from sayo.evaluation.summary import summarise

if TYPE_CHECKING:
    from sayo.evaluation.plan import Plan, Work


class Answerer(Protocol):
    """Whatever answers: `local.LocalModel` or `server.Server`."""

    def answer(self, rows: Iterable[Mapping[str, Any]], attention: bool = False) -> Iterator[Answered]:
        """Every row with its replies, in any order; with their attention if it is wanted and can be had."""


def run_task(
    answerer: Answerer,
    questions: Questions,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    attention: bool = True,
    num_maps: int = 6,
    overwrite: bool = False,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> dict[str, Any]:
    """Ask every question that has no answer yet; return (and write) the summary.

    Args:
        folder: gets `samples.jsonl`, `summary.json`, `settings.json`, `maps.npz` and `images/`.
        settings: everything else that the results depend on; the task itself is added.
        attention: read where the model looks, if the data have regions.
        num_maps: questions with a region whose picture and attention map are kept.
        overwrite: forget what is in the folder.
        progress: wraps the indices of the questions to ask.

    Raises:
        SettingsDiffer: the folder holds something else.
        ServerDown: see `server.Server`.
    """
    task = questions.task
    settings = {**settings, "task": task.settings()}
    with Store(folder, settings, questions.id_of, overwrite=overwrite) as store:
        todo = [index for index in range(len(questions)) if not store.is_done(index)]
        asked = _rows(questions, progress(todo), store)
        for row, replies in answerer.answer(asked, attention and questions.has_regions):
            record = question_record(row, replies, task.scorer)
            if isinstance(answerer, LocalModel) and len(store.maps) < num_maps:
                found = attention_map(row, replies, answerer)
                if found is not None:
                    store.add_map(map_key(record), found, row["images"][0])
            store.append(record)
        samples = [store.records[index] for index in range(len(questions))]
        shown = {key: value for key, value in settings.items() if key != "task"}
        summary = {"task": task.name, **summarise(samples, task.scorer), **shown}
        store.finish(summary)
    return summary


def run_tasks(
    answerer: Answerer,
    plan: Plan,
    work: Sequence[Work],
    failures: Mapping[str, str],
    out: Path,
    benchmark: bool,
    num_maps: int,
    overwrite: bool,
) -> dict[str, dict[str, Any]]:
    """Run planned tasks one after the other with a progress bar; task name -> summary.

    Args:
        failures: tasks that could not be planned, for `out/summary.json`.
        benchmark: every task has a folder of its own in `out`, beside a `summary.json` of all.
    """
    console, summaries = Console(stderr=True), {}
    for item in work:
        name = item.questions.task.name
        summaries[name] = run_task(
            answerer,
            item.questions,
            out / name if benchmark else out,
            {**plan.settings(), **item.source},
            attention=plan.attention,
            num_maps=num_maps,
            overwrite=overwrite,
            progress=lambda todo, name=name: track(todo, f"evaluating {name}", console=console),
        )
    if benchmark:
        document = {"model": plan.model, "tasks": summaries, "failed_tasks": dict(failures)}
        (out / "summary.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return summaries


def _rows(questions: Questions, indices: Iterable[int], store: Store) -> Iterator[Mapping[str, Any]]:
    for index in indices:
        try:
            row = questions[index]
        except BadRow as error:
            store.append(failed_record(index, questions.id_of(index), error.kind, str(error)))
        else:
            yield row
