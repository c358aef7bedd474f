"""`sayo report`: the command line of `build_report`."""

from typing import Annotated

import typer


def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders (trainer.output_dir); several share the charts.")],
    out: Annotated[str, typer.Option(help="HTML file to write.")] = "report.html",
    ablation: Annotated[str | None, typer.Option(help="JSON file with arms and seeds, as a table.")] = None,
    questions: Annotated[int, typer.Option(min=0, help="Held-out questions shown.")] = 6,
    before: Annotated[
        str | None, typer.Option(help="Evaluation folder of the policy that the runs started from.")
    ] = None,
    after: Annotated[str | None, typer.Option(help="Evaluation folder of the first run's final policy.")] = None,
) -> None:
    """Write one self-contained HTML page: curves, held-out table, attention before and after, recipe, environment."""
    from sayo.report import ReportError, build_report

    try:
        path = build_report(runs, out, ablation, questions, before, after)
    except ReportError as error:
        typer.echo(f"No report: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{path.resolve()}")
