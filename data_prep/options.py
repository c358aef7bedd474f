"""Options that every `sayo prepare <source>` shares, written down once.

No `from __future__ import annotations` here: typer reads the annotations as objects.
"""

import inspect
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

Threshold = Annotated[
    float | None,
    typer.Option(help="least share of a token's cell that a region must cover; default 0.05, with --hard 0.5"),
]
Soft = Annotated[
    bool,
    typer.Option("--soft/--hard", help="weights are the covered share of a token's cell, or 1 for each token"),
]
NumProc = Annotated[int, typer.Option(help="worker processes; the output does not depend on it")]
Strict = Annotated[bool, typer.Option("--strict", help="stop with an error at the first rejected row")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="make the split again if it is there")]


@dataclass
class RunOptions:
    """The shared options, in the order of the help page."""

    processor: Annotated[
        str | None,
        typer.Option(help="model folder or hub id: also store token indices and weights for its processor"),
    ] = None
    threshold: Threshold = None
    soft: Soft = True
    split: Annotated[str, typer.Option(help="name of the split")] = "train"
    limit: Annotated[int | None, typer.Option(help="read only the first questions")] = None
    num_proc: NumProc = 1
    rows_per_shard: Annotated[
        int | None, typer.Option(help="questions per parquet file; default 2000 (refocus: 500)")
    ] = None
    link_images: Annotated[
        bool,
        typer.Option("--link-images", help="store the path of each image instead of its bytes: small files, "
                     "but the images must stay where they are"),
    ] = False  # fmt: skip
    strict: Strict = False
    overwrite: Overwrite = False


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `RunOptions` beside its own; it receives them as the argument `run`."""

    def wrapper(**given: Any) -> None:
        run = RunOptions(**{field.name: given.pop(field.name) for field in fields(RunOptions)})
        command(run=run, **given)

    own = [one for one in inspect.signature(command).parameters.values() if one.name != "run"]
    shared = list(inspect.signature(RunOptions).parameters.values())
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *shared)]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
    wrapper.__doc__ = command.__doc__
    wrapper.__name__ = command.__name__
    return wrapper


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors that the user can mend into one red line and exit status 2."""
    from data_prep.examples import PrepareError

    try:
        yield
    except (PrepareError, OSError, sqlite3.Error) as error:
        if isinstance(error, sqlite3.Error):
            error = f"the temporary database failed ({error}); is the folder for temporary files (TMPDIR) full?"
        line = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
        typer.secho(f"error: {line}", fg="red", err=True)
        raise typer.Exit(2) from None


def token_mapper(processor: str | None, threshold: float | None, soft: bool) -> Any:
    """The `TokenMapper` of a model folder or hub id; None without one.

    Raises:
        PrepareError: no layout can be read there.
    """
    from data_prep.examples import PrepareError
    from data_prep.tokens import TokenMapper
    from sayo.geometry import VisualLayout

    if processor is None:
        if threshold is not None or not soft:
            raise PrepareError("--threshold and --hard say how regions become tokens: give --processor as well")
        return None
    try:
        return TokenMapper(VisualLayout.from_pretrained(processor), threshold, soft)
    except (ValueError, OSError) as error:
        raise PrepareError(f"--processor: {error}") from None


def run_prepare(make_source: Callable[[], Any], images: Path | None, out: Path, run: RunOptions) -> None:
    """Prepare one source and report what was kept; exit with 2 when nothing was."""
    import gc

    from rich.console import Console

    from data_prep.examples import PrepareError
    from data_prep.json_records import BYTES_READ
    from data_prep.pipeline import ROWS_PER_SHARD, check_options, prepare

    if images is None and run.link_images:
        raise PrepareError(
            "--link-images: the images of this source lie inside its files, so there is no path to store"
        )
    # `prepare` checks them too, but reading the annotations can take minutes
    check_options(images, run.split, run.limit, run.num_proc, run.rows_per_shard)
    mapper = token_mapper(run.processor, run.threshold, run.soft)
    gc.freeze()  # what the imports made lives on: the collector need not walk through it again and again
    with Console(stderr=True).status(BYTES_READ):
        source = make_source()
    summary = prepare(
        source,
        images,
        out,
        mapper=mapper,
        split=run.split,
        limit=run.limit,
        num_proc=run.num_proc,
        rows_per_shard=run.rows_per_shard if run.rows_per_shard is not None
        else getattr(source, "rows_per_shard", ROWS_PER_SHARD),
        link_images=run.link_images,
        overwrite=run.overwrite,
        strict=run.strict,
    )  # fmt: skip
    report(summary["splits"][run.split], out)


def report(counts: dict, out: Path) -> None:
    """Say what was kept and why rows were not; exit with 2 when nothing was."""
    reasons = ", ".join(f"{name} {count}" for name, count in counts["rejected_by_reason"].items())
    rejected = f"{counts['rejected']} rejected ({reasons})" if reasons else "none rejected"
    typer.echo(
        f"{counts['kept']} of {counts['read']} questions kept, {counts['with_region']} with a region; {rejected}"
    )
    if counts["kept"] == 0:
        with (out / "rejected.jsonl").open(encoding="utf-8") as rejects:
            first = json.loads(rejects.readline() or "{}").get("detail", "")
        text = f"error: nothing was kept; {out / 'rejected.jsonl'} says why for each row. The first: {first}"
        typer.secho(text, fg="red", err=True)
        raise typer.Exit(2)
    typer.echo(f"{out}")
