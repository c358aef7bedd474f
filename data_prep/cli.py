"""`sayo prepare` and `sayo inspect` (mounted by sayo.cli). Heavy imports stay inside the commands."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

prepare_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Turn a grounded data set into parquet files that sayo and plain TRL train on.",
)


@prepare_app.callback()
def _prepare() -> None:
    """Keeps `prepare gqa` a sub-command while it is the only one."""


@contextmanager
def _one_line_errors() -> Iterator[None]:
    from data_prep.examples import PrepareError

    try:
        yield
    except (PrepareError, OSError) as error:
        line = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
        typer.secho(f"error: {line}", fg="red", err=True)
        raise typer.Exit(2) from None


@prepare_app.command("gqa")
def gqa(
    questions: Annotated[str, typer.Option(help="questions JSON, a folder of them or a quoted glob")],
    scene_graphs: Annotated[str, typer.Option(help="scene graphs JSON of the same split, a folder or a glob")],
    images: Annotated[Path, typer.Option(help="folder with <imageId>.jpg (or .png, ...)")],
    out: Annotated[Path, typer.Option(help="folder of the data set to write")],
    processor: Annotated[
        str | None,
        typer.Option(help="model folder or hub id: also store token indices and weights for its processor"),
    ] = None,
    split: Annotated[str, typer.Option(help="name of the split")] = "train",
    limit: Annotated[int | None, typer.Option(help="read only the first questions")] = None,
    num_proc: Annotated[int, typer.Option(help="worker processes; the output does not depend on it")] = 1,
    rows_per_shard: Annotated[int, typer.Option(help="questions per parquet file")] = 2000,
    strict: Annotated[bool, typer.Option("--strict", help="stop with an error at the first rejected row")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="make the split again if it is there")] = False,
) -> None:
    """GQA questions and scene graphs, with answer and evidence regions.

    Files: questions1.2.zip, sceneGraphs.zip and images.zip from
    https://cs.stanford.edu/people/dorarad/gqa

    Example:

        sayo prepare gqa --questions train_balanced_questions.json \\
            --scene-graphs train_sceneGraphs.json --images images/ \\
            --processor Qwen/Qwen3-VL-4B-Instruct --out data/gqa

    A run that was stopped goes on when the same line is typed again.
    Rejected rows are counted in OUT/summary.json and listed in OUT/rejects.jsonl.
    Exit status: 0 when rows were kept, 2 when none was or the input cannot be used.
    """
    with _one_line_errors():
        from data_prep.pipeline import prepare
        from data_prep.sources.gqa import GqaSource

        source = GqaSource(questions, scene_graphs)
        summary = prepare(
            source,
            images,
            out,
            layout=_layout(processor),
            split=split,
            limit=limit,
            num_proc=num_proc,
            rows_per_shard=rows_per_shard,
            overwrite=overwrite,
            strict=strict,
        )
    _report(summary["splits"][split], out)


def _layout(processor: str | None):
    if processor is None:
        return None
    from data_prep.examples import PrepareError
    from sayo.geometry import VisualLayout

    try:
        return VisualLayout.from_pretrained(processor)
    except (ValueError, OSError) as error:
        raise PrepareError(f"--processor: {error}") from None


def _report(counts: dict, out: Path) -> None:
    """Say what was kept and why rows were not; exit with 2 when nothing was."""
    reasons = ", ".join(f"{name} {count}" for name, count in counts["rejected_by_reason"].items())
    rejected = f"{counts['rejected']} rejected ({reasons})" if reasons else "none rejected"
    typer.echo(
        f"{counts['kept']} of {counts['read']} questions kept, {counts['with_region']} with a region; {rejected}"
    )
    if counts["kept"] == 0:
        typer.secho(f"error: nothing was kept; {out / 'rejects.jsonl'} says why for each row", fg="red", err=True)
        raise typer.Exit(2)
    typer.echo(f"{out}")


def inspect(
    data: Annotated[Path, typer.Argument(metavar="OUT", help="folder that `sayo prepare` wrote")],
    out: Annotated[Path, typer.Option(help="picture to write (.png, .pdf, .svg)")] = Path("sheet.png"),
    num: Annotated[int, typer.Option(min=1, help="number of rows, spread over all that match")] = 16,
    question_type: Annotated[
        str | None,
        typer.Option("--type", help="only questions of this type, such as query-attr"),
    ] = None,
    split: Annotated[str | None, typer.Option(help="only this split")] = None,
) -> None:
    """Draw a contact sheet: images with boxes (answer green, evidence orange) and visual tokens shaded by weight.

    Example:

        sayo inspect data/gqa --out sheet.png --num 12 --type compare-attr
    """
    with _one_line_errors():
        from data_prep.inspect import draw_sheet, pick_rows

        draw_sheet(pick_rows(data, num, split, question_type), out)
    typer.echo(f"{out}")
