"""`sayo evaluate` and `sayo compare`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint, exported folder or hub id; with --server a mere label.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results; the same command goes on in it.")],
    tasks: Annotated[
        str | None, typer.Option(help="Tasks by comma: names, your own .yaml files, or name=PATH of a local copy.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Prepared rows (folder of `sayo prepare`, parquet file): task `local`."),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder with local copies of data sets, named as the tasks.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of --data.")] = "test",
    server: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server, e.g. http://localhost:8000/v1.")
    ] = None,
    server_model: Annotated[
        str | None, typer.Option(help="Name of the model on the server; MODEL if not given.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once to the server.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one request may take.")] = 300.0,
    attempts: Annotated[int, typer.Option(min=1, help="Times that a failing request is sent.")] = 6,
    num_samples: Annotated[
        int | None, typer.Option(min=1, help="Responses per question. [default: 4 with --data, 1 with --tasks]")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 is greedy. [default: 1 with --data, 0 with --tasks]")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="[default: 256 with --data, 2048 with --tasks]")
    ] = None,
    system_prompt: Annotated[str | None, typer.Option(help="Put in front of every prompt, as in training.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Responses at once.")] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions of each task.")] = None,
    layers: Annotated[str, typer.Option(help="Decoder layers to read: last, all, 4-7, ...")] = "last",
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
    from rich.console import Console
    from rich.progress import track

    from sayo.evaluation.plan import Plan, planned
    from sayo.evaluation.run import run_task
    from sayo.evaluation.server import ServerDown
    from sayo.evaluation.store import SettingsDiffer
    from sayo.evaluation.tasks import TaskError
    from sayo.recipes import RecipeError

    console, benchmark = Console(stderr=True), tasks is not None
    plan = Plan(
        model=model,
        server=server,
        server_model=server_model or model,
        num_samples=num_samples or (1 if benchmark else 4),
        temperature=temperature if temperature is not None else (0.0 if benchmark else 1.0),
        max_new_tokens=max_new_tokens or (2048 if benchmark else 256),
        system_prompt=system_prompt,
        layers=layers,
        attention=attention,
        seed=seed,
    )
    summaries: dict[str, Any] = {}
    failures: dict[str, str] = {}
    try:
        work, failures = planned(plan, tasks, data, split, data_root, limit)
        if not work:
            _stop("\n".join(failures.values()))
        answerer = plan.answerer(batch_size=batch_size, concurrency=concurrency, timeout=timeout, attempts=attempts)
        for item in work:
            label = f"evaluating {item.questions.task.name}"
            summaries[item.questions.task.name] = run_task(
                answerer,
                item.questions,
                out if not benchmark else out / item.questions.task.name,
                {**plan.settings(), **item.source},
                attention=attention,
                num_maps=num_maps,
                overwrite=overwrite,
                progress=lambda todo, label=label: track(todo, label, console=console),
            )
    except (RecipeError, TaskError, SettingsDiffer, ServerDown, ValueError) as error:
        _stop(str(error))
    if benchmark:
        document = {"model": model, "tasks": summaries, "failed_tasks": failures}
        (out / "summary.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    Console().print(_table(model, summaries))
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
    from rich.table import Table

    from sayo.evaluation.compare import compare as run
    from sayo.evaluation.tasks import TaskError

    try:
        found = run(a, b)
    except TaskError as error:
        _stop(str(error))
    table = Table("task", "n", f"A: {a.name}", f"B: {b.name}", "B - A", "better/worse", "p", title=f"{b} against {a}")
    for task, values in found.items():
        rows = [(task, values["accuracy"]), (f"{task}: TAS", values["tas"])]
        rows += [(f"  {kind}", part) for kind, part in values["by_type"].items() if len(values["by_type"]) > 1]
        for name, part in rows:
            if part is not None:
                means = (f"{part['mean_a']:.3f}", f"{part['mean_b']:.3f}")
                change = f"{part['difference']:+.3f}{_interval(part['interval'])}"
                counts = f"{part['better']}/{part['worse']}"
                table.add_row(name, str(part["num_questions"]), *means, change, counts, f"{part['p_value']:.2g}")
    Console().print(table)
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


def _table(model: str, summaries: dict[str, Any]) -> Any:
    from rich.table import Table

    columns = ("questions", "n", "accuracy", "no answer", "failed", "TAS", "AUC of TAS", "length")
    table = Table(*columns, title=model)
    for task, summary in summaries.items():
        kinds = summary["by_type"] if len(summary["by_type"]) > 1 else {}
        for name, part in [(task, summary), *((f"  {kind}", figures) for kind, figures in kinds.items())]:
            link = part["tas_and_correctness"] or {}
            table.add_row(
                name,
                str(part["num_questions"]),
                _number(part["accuracy"]) + _interval(part["accuracy_interval"]),
                str(part["no_answer"]),
                str(sum(part["failed"].values())),
                _number(part["tas"]),
                _number(link.get("auc")) + _interval(link.get("auc_interval")),
                _number(part["mean_length"]),
            )
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _interval(values: list[float] | None) -> str:
    return f" [{values[0]:.3g}, {values[1]:.3g}]" if values else ""
