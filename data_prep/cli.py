"""`sayo prepare <source>`, one command for each entry of sources.yaml, `sayo map` and `sayo mix`.

Mounted by sayo.cli. Heavy imports stay inside.
"""

import gc
import json
import sqlite3
from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from data_prep.sources import load_sources

prepare_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Turn a grounded data set into parquet files that sayo and plain TRL train on.",
    epilog="A run that was stopped resumes when the same line is typed again. Rejected rows are counted in "
    "OUT/summary.json and listed in OUT/rejected.jsonl. Exit status: 0 when rows were kept, 2 when none was or the "
    "input cannot be used.",
)

_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "path": Path}


def _parameter(name: str, type: str = "str", flag: str | None = None, default: Any = ..., **more: Any) -> Parameter:
    """An option of sources.yaml as the parameter that typer reads."""
    kind = _TYPES[type] if default is not None else _TYPES[type] | None
    option = typer.Option(*filter(None, [flag]), **more)
    default = Parameter.empty if default is ... else default
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _command(source_class: str, options: dict[str, dict[str, Any]]) -> Callable[..., None]:
    """The function behind `sayo prepare <name>`, with the signature that typer makes options of."""

    def command(**kwargs: Any) -> None:
        _prepare(source_class, **kwargs)

    parameters = [_parameter(name, **option) for name, option in options.items()]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return command


def _prepare(
    source_class: str,
    out: Path,
    processor: str | None,
    size: str | None,
    threshold: float | None,
    soft: bool,
    rows_per_shard: int | None,
    images: Path | None = None,
    **options: Any,
) -> None:
    """Prepare one source ("module:class") and report what was kept."""
    from rich.console import Console

    from data_prep.examples import PrepareError
    from data_prep.pipeline import ROWS_PER_SHARD, check_options, prepare
    from data_prep.workers import only_writer

    if images is None and options["link_images"]:
        raise PrepareError("--link-images: the images of this source lie inside its files: there is no path to store")
    check_options(images, options["split"])  # `prepare` does it too, but reading the annotations can take minutes
    if processor is None and (size or threshold is not None or not soft):
        raise PrepareError("--size, --threshold and --hard say how regions become tokens: give --processor as well")
    mapper = token_mapper(processor, size, threshold, soft)
    module, _, name = source_class.partition(":")
    make_source = getattr(import_module(module), name)
    arguments = {"images": images, **options}
    kwargs = {name: arguments[name] for name in signature(make_source).parameters}
    shared = {name: options[name] for name in ("split", "limit", "num_proc", "link_images", "overwrite")}
    gc.freeze()  # what the imports made lives on: the collector need not walk through it again and again
    try:
        with only_writer(out):
            with Console(stderr=True).status("reading the annotations"):
                source = make_source(**kwargs)
            rows_per_shard = rows_per_shard or getattr(source, "rows_per_shard", ROWS_PER_SHARD)
            summary = prepare(source, images, out, mapper=mapper, rows_per_shard=rows_per_shard, **shared)
    except sqlite3.Error as error:
        raise PrepareError(
            f"the temporary database failed ({error}); is the folder for temporary files (TMPDIR) full?"
        ) from None
    report_counts(summary["splits"][options["split"]], out)


def token_mapper(
    processor: str | None, size: str | None = None, threshold: float | None = None, soft: bool = True
) -> Any:
    """The mapper of the shared options; None without a processor."""
    if processor is None:
        return None
    from data_prep.examples import PrepareError
    from data_prep.tokens import TokenMapper
    from sayo.geometry import VisualLayout
    from sayo.recipes import model_section

    model = model_section(processor, size)
    try:
        return TokenMapper(VisualLayout.from_pretrained(model.name_or_path, size=model.size), threshold, soft)
    except (ValueError, OSError) as error:
        raise PrepareError(f"--processor: {error}") from None


def report_counts(counts: dict[str, Any], out: Path) -> None:
    """Say what was kept and why rows were not; raises PrepareError when nothing was kept."""
    from data_prep.examples import PrepareError

    reasons = ", ".join(f"{name} {count}" for name, count in counts["rejected_by_reason"].items())
    rejected = f"{counts['rejected']} rejected ({reasons})" if reasons else "none rejected"
    kept, with_region = counts["kept"], counts["with_region"]
    typer.echo(f"{kept} of {counts['read']} questions kept, {with_region} with a region; {rejected}")
    if not kept:
        with (out / "rejected.jsonl").open(encoding="utf-8") as lines:
            first = json.loads(lines.readline() or "{}").get("detail", "")
        raise PrepareError(f"nothing was kept; {out / 'rejected.jsonl'} says why for each row. The first: {first}")
    typer.echo(f"{out}")


_sources, _shared = load_sources()
for _name, _entry in _sources.items():
    prepare_app.command(_name, help=_entry["help"])(_command(_entry["source"], {**_entry["options"], **_shared}))


def map_rows(
    data: Annotated[Path, typer.Argument(metavar="IN", help="folder that `sayo prepare` or `sayo mix` wrote")],
    processor: Annotated[
        str, typer.Option(help="the model that you will train: folder, hub id or a name in recipes/model")
    ],
    out: Annotated[Path, typer.Option(help="folder of the mapped data set")],
    size: Annotated[
        str | None,
        typer.Option(
            help="pixel limits other than the model's, as model.size of a recipe: longest_edge=1048576,... (of "
            "Qwen-VL, areas in pixels)"
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="least share of a cell that a region must cover; default 0.05, hard: 0.5"),
    ] = None,
    soft: Annotated[
        bool, typer.Option("--soft/--hard", help="weights are the covered share of a cell, or 1 for each token")
    ] = True,
    num_proc: Annotated[int, typer.Option(min=1, help="worker processes; the output does not depend on it")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="make the data set again if it is there")] = False,
) -> None:
    """Add the visual tokens of a model's processor to prepared rows, or replace
    those of another.

    Images and regions stay as they are; region_tokens, region_weights,
    num_visual_tokens and processor_fingerprint are written anew. Needed once
    for each model family or pixel limit; training says so when it is.

    Example:

        sayo map runs/demo/prepared --processor runs/demo/policy --out mapped
    """
    from data_prep.mapping import map_tokens
    from data_prep.workers import only_writer

    mapper = token_mapper(processor, size, threshold, soft)
    with only_writer(out):
        summary = map_tokens(data, out, mapper, num_proc=num_proc, overwrite=overwrite)
    report_counts(summary, out)


def mix(
    parts: Annotated[
        list[str], typer.Argument(metavar="FOLDER[:ROWS]...", help="prepared data, and how many rows to draw of it")
    ],
    out: Annotated[Path, typer.Option(help="folder of the data set to write")],
    seed: Annotated[int, typer.Option(help="decides which rows are drawn and which pictures are held out")] = 0,
    split: Annotated[str, typer.Option(help="the split that is read of every part")] = "train",
    validation: Annotated[
        float, typer.Option(min=0, max=0.99, help="share of the pictures that go to the split `validation`")
    ] = 0.0,
    exclude: Annotated[
        list[Path] | None, typer.Option(help="prepared data whose pictures must not be in the mix (a benchmark)")
    ] = None,
    visual_genome_images: Annotated[
        str | None, typer.Option(help="Visual Genome's image_data.json: which GQA pictures are COCO's")
    ] = None,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="rows per parquet file")] = 2000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="make the mix again if it is there")] = False,
) -> None:
    """Draw rows of several prepared data sets into one: no picture comes from
    two of them, none lies in two splits.

    Pictures are the same when their files are, when they have the same COCO id
    (in the file name, or for GQA and Visual Genome in image_data.json), or when
    one row shows both. Earlier parts come first.

    Example, the published mix:

        sayo mix data/gqa:16000 data/refocus:4000 --out data/mix --seed 0 --validation 0.02
    """
    from data_prep.mixing import mix_parts
    from data_prep.workers import only_writer

    with only_writer(out):
        summary = mix_parts(
            parts,
            out,
            seed=seed,
            split=split,
            validation=validation,
            exclude=exclude or (),
            genome_images=visual_genome_images,
            rows_per_shard=rows_per_shard,
            overwrite=overwrite,
        )
    report_counts(summary, out)
