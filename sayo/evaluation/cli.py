"""`sayo evaluate` and `sayo compare`."""

import json
from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="Folder for the results; the same command goes on in it.")]
Tasks = Annotated[
    str | None, typer.Option(help="Tasks by comma: names, your own .yaml files, or name=PATH of a local copy.")
]
Data = Annotated[
    str | None, typer.Option("--data", help="Prepared rows (folder of `sayo prepare`, parquet file): task `local`.")
]
DataRoot = Annotated[Path | None, typer.Option(help="Folder with local copies of data sets, named as the tasks.")]
ServerUrl = Annotated[str | None, typer.Option(help="OpenAI-compatible server, e.g. http://localhost:8000/v1.")]
NumSamples = Annotated[
    int | None, typer.Option(min=1, help="Responses per question. [default: 4 with --data, 1 with --tasks]")
]
Temperature = Annotated[
    float | None, typer.Option(min=0, help="0 is greedy. [default: 1 with --data, 0 with --tasks]")
]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="[default: 256 with --data, 2048 with --tasks]")]
SystemPrompt = Annotated[str | None, typer.Option(help="Put in front of every prompt, as in training.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many questions of each task.")]
Steer = Annotated[str | None, typer.Option(help="Steer the attention while it answers: vrga (no training).")]
Layers = Annotated[
    str,
    typer.Option(help="Decoder layers whose mean is reported: last, all, 4-7, ...; each layer alone stands below it."),
]


def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint, exported folder or hub id; with --server a mere label.")],
    out: Out,
    tasks: Tasks = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Annotated[str, typer.Option(help="Split of --data.")] = "test",
    server: ServerUrl = None,
    server_model: Annotated[str | None, typer.Option(help="Its name on the server; MODEL if not given.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once to the server.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one request may take.")] = 300.0,
    attempts: Annotated[int, typer.Option(min=1, help="Times that a failing request is sent.")] = 6,
    num_samples: NumSamples = None,
    temperature: Temperature = None,
    max_new_tokens: MaxNewTokens = None,
    system_prompt: SystemPrompt = None,
    steer: Steer = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Responses at once.")] = 64,
    limit: Limit = None,
    layers: Layers = "last",
    attention: Annotated[bool, typer.Option(help="Read where the model looks, in tasks that have regions.")] = True,
    num_maps: Annotated[int, typer.Option(min=0, help="Questions per task whose attention picture is kept.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the sampling and of shuffled options.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Forget the results that are in --out.")] = False,
) -> None:
    """Ask benchmark questions, or your own, and measure whether the model is right and where it looks.

    Examples:

    sayo evaluate runs/demo/toy --data runs/demo/prepared --out runs/demo/toy/evaluation/after

    sayo evaluate my-model --tasks vstar,mmstar,chartqa --out results/my-model

    sayo evaluate my-model --tasks mmstar --server http://localhost:8000/v1 --out results/my-model
    """
    from sayo.evaluation.plan import Plan, planned
    from sayo.evaluation.run import run_tasks
    from sayo.evaluation.server import ServerDown
    from sayo.evaluation.show import show

    plan = Plan.of(
        model, tasks is not None, server, server_model, num_samples, temperature, max_new_tokens,
        system_prompt=system_prompt, layers=layers, attention=attention, seed=seed, steer=steer,
    )  # fmt: skip
    try:
        work, failures = planned(plan, tasks, data, split, data_root, limit)
        if not work:
            _stop("\n".join(failures.values()))
        answerer = plan.answerer(batch_size=batch_size, concurrency=concurrency, timeout=timeout, attempts=attempts)
        with plan.steering(answerer):
            summaries = run_tasks(answerer, plan, work, failures, out, tasks is not None, num_maps, overwrite)
    except (ServerDown, ValueError) as error:  # what a user can mend is one of these
        _stop(str(error))
    show(model, summaries)
    for message in failures.values():
        typer.secho(f"error: {message}", fg="red", err=True)
    if failures:
        raise typer.Exit(1)


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of `sayo evaluate`: the one to beat.")],
    b: Annotated[Path, typer.Argument(help="Folder of `sayo evaluate`, the same tasks and data.")],
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the figures.")] = None,
) -> None:
    """Compare two evaluations question by question: the difference, its interval, and an exact paired test.

    Example: sayo compare results/base results/my-model
    """
    from rich.console import Console

    from sayo.evaluation.compare import compare as run
    from sayo.evaluation.show import comparison_table
    from sayo.evaluation.tasks import TaskError

    try:
        found = run(a, b)
    except TaskError as error:
        _stop(str(error))
    Console().print(comparison_table(a, b, found))
    for task, values in found.items():
        left = {key: values[key] for key in ("only_in_a", "only_in_b", "not_scored_in_both") if values[key]}
        if left:
            typer.echo(
                f"{task}: not compared: " + ", ".join(f"{n} {key.replace('_', ' ')}" for key, n in left.items())
            )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _stop(message: str) -> None:
    typer.secho(f"error: {message}", fg="red", err=True)
    raise typer.Exit(2)
