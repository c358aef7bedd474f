"""`sayo prepare <source>`, one command for each entry of sources.yaml, `sayo map` and `sayo mix`.

Mounted by sayo.cli. Heavy imports stay inside.

No `from __future__ import annotations` here: typer reads the annotations as objects.
"""

import gc
import inspect
import json
import sqlite3
from dataclasses import dataclass, fields
from importlib import import_module
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

_TYPES = {"str": str, "int": int, "float": float, "path": Path}
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="least share of a token's cell that a region must cover; default 0.05, with --hard 0.5"
    ),
]
Soft = Annotated[
    bool,
    typer.Option("--soft/--hard", help="weights are the covered share of a token's cell, or 1 for each token"),
]
NumProc = Annotated[int, typer.Option(min=1, help="worker processes; the output does not depend on it")]
Strict = Annotated[bool, typer.Option("--strict", help="stop with an error at the first rejected row")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="make the split again if it is there")]


@dataclass
class RunOptions:
    """The options that every source shares, in the order of the help page."""

    processor: Annotated[
        str | None,
        typer.Option(help="model folder or hub id: also store token indices and weights for its processor"),
    ] = None
    threshold: Threshold = None
    soft: Soft = True
    split: Annotated[str, typer.Option(help="name of the split")] = "train"
    limit: Annotated[int | None, typer.Option(min=1, help="read only the first questions")] = None
    num_proc: NumProc = 1
    rows_per_shard: Annotated[
        int | None,
        typer.Option(min=1, help="questions per parquet file; default 2000 (500 where the source holds the images)"),
    ] = None
    link_images: Annotated[
        bool,
        typer.Option("--link-images", help="store the path of each image instead of its bytes: small files, "
                     "but the images must stay where they are"),
    ] = False  # fmt: skip
    strict: Strict = False
    overwrite: Overwrite = False


def _add_command(name: str, entry: dict[str, Any]) -> None:
    """Make `sayo prepare <name>` of an entry of sources.yaml."""

    def command(**kwargs: Any) -> None:
        run = RunOptions(**{field.name: kwargs.pop(field.name) for field in fields(RunOptions)})
        run_prepare(entry["source"], kwargs.pop("out"), run, kwargs)

    options = {option: (_TYPES[given.get("type", "str")], given) for option, given in entry["options"].items()}
    parameters = [
        inspect.Parameter(
            option,
            inspect.Parameter.KEYWORD_ONLY,
            default=given.get("default", inspect.Parameter.empty),
            annotation=Annotated[
                kind if given.get("default", "") is not None else kind | None,
                typer.Option(*filter(None, [given.get("flag")]), min=given.get("min"), help=given["help"]),
            ],
        )
        for option, (kind, given) in options.items()
    ]
    out = Annotated[Path, typer.Option(help="folder of the data set to write")]
    parameters.append(inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, annotation=out))
    for parameter in inspect.signature(RunOptions).parameters.values():
        parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    prepare_app.command(name, help=entry["help"])(command)


def run_prepare(source_class: str, out: Path, run: RunOptions, options: dict[str, Any]) -> None:
    """Prepare one source and report what was kept.

    Args:
        source_class: "module:class".
        options: of this source; `images`, where it has them, is the folder of the pictures.
    """
    from rich.console import Console

    from data_prep.examples import PrepareError
    from data_prep.pipeline import ROWS_PER_SHARD, check_options, prepare
    from data_prep.tokens import TokenMapper

    images = options.get("images")
    if images is None and run.link_images:
        raise PrepareError("--link-images: the images of this source lie inside its files: there is no path to store")
    check_options(images, run.split)  # `prepare` does it too, but reading the annotations can take minutes
    mapper = TokenMapper.load(run.processor, run.threshold, run.soft)
    module, _, name = source_class.partition(":")
    make_source = getattr(import_module(module), name)
    options = {**options, "split": run.split, "num_proc": run.num_proc}
    kwargs = {name: options[name] for name in inspect.signature(make_source).parameters}
    gc.freeze()  # what the imports made lives on: the collector need not walk through it again and again
    try:
        with Console(stderr=True).status("reading the annotations"):
            source = make_source(**kwargs)
        summary = prepare(
            source,
            images,
            out,
            mapper=mapper,
            split=run.split,
            limit=run.limit,
            num_proc=run.num_proc,
            rows_per_shard=run.rows_per_shard or getattr(source, "rows_per_shard", ROWS_PER_SHARD),
            link_images=run.link_images,
            overwrite=run.overwrite,
            strict=run.strict,
        )
    except sqlite3.Error as error:
        raise PrepareError(
            f"the temporary database failed ({error}); is the folder for temporary files (TMPDIR) full?"
        ) from None
    report(summary["splits"][run.split], out)


def report(counts: dict[str, Any], out: Path) -> None:
    """Say what was kept and why rows were not.

    Raises:
        PrepareError: nothing was kept.
    """
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


for _name, _entry in load_sources().items():
    _add_command(_name, _entry)


def map_rows(
    data: Annotated[Path, typer.Argument(metavar="IN", help="folder that `sayo prepare` or `sayo mix` wrote")],
    processor: Annotated[str, typer.Option(help="model folder or hub id of the model that you will train")],
    out: Annotated[Path, typer.Option(help="folder of the mapped data set")],
    threshold: Threshold = None,
    soft: Soft = True,
    num_proc: NumProc = 1,
    strict: Strict = False,
    overwrite: Overwrite = False,
) -> None:
    """Add the visual tokens of a model's processor to prepared rows, or replace
    those of another.

    Images and regions stay as they are; region_tokens, region_weights,
    num_visual_tokens and processor_fingerprint are written anew. Needed once
    for each model family or image size; training says so when it is.

    Example:

        sayo map data/gqa --processor Qwen/Qwen3-VL-4B-Instruct --out data/gqa-qwen3
    """
    from data_prep.mapping import map_tokens
    from data_prep.tokens import TokenMapper

    mapper = TokenMapper.load(processor, threshold, soft)
    report(map_tokens(data, out, mapper, num_proc=num_proc, overwrite=overwrite, strict=strict), out)


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
    overwrite: Overwrite = False,
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
    report(summary, out)
