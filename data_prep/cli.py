"""`sayo prepare`, `sayo map` and `sayo mix` (mounted by sayo.cli). Heavy imports stay inside."""

from pathlib import Path
from typing import Annotated

import typer

from data_prep.options import NumProc, Overwrite, Soft, Strict, Threshold, one_line_errors, report, token_mapper
from data_prep.prepare_cli import prepare_app

__all__ = ["map_rows", "mix", "prepare_app"]


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
    with one_line_errors():
        from data_prep.mapping import map_tokens

        mapper = token_mapper(processor, threshold, soft)
        summary = map_tokens(data, out, mapper, num_proc=num_proc, overwrite=overwrite, strict=strict)
        report(summary, out)


def mix(
    parts: Annotated[
        list[str], typer.Argument(metavar="FOLDER[:ROWS]...", help="prepared data, and how many rows to draw of it")
    ],
    out: Annotated[Path, typer.Option(help="folder of the data set to write")],
    seed: Annotated[int, typer.Option(help="decides which rows are drawn and which pictures are held out")] = 0,
    split: Annotated[str, typer.Option(help="the split that is read of every part")] = "train",
    validation: Annotated[float, typer.Option(help="share of the pictures that go to the split `validation`")] = 0.0,
    exclude: Annotated[
        list[Path] | None, typer.Option(help="prepared data whose pictures must not be in the mix (a benchmark)")
    ] = None,
    visual_genome_images: Annotated[
        str | None, typer.Option(help="Visual Genome's image_data.json: which GQA pictures are COCO's")
    ] = None,
    rows_per_shard: Annotated[int, typer.Option(help="rows per parquet file")] = 2000,
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
    with one_line_errors():
        from data_prep.mixing import Part, mix_parts

        summary = mix_parts(
            [Part.parse(part) for part in parts],
            out,
            seed=seed,
            split=split,
            validation=validation,
            exclude=exclude,
            genome_images=visual_genome_images,
            rows_per_shard=rows_per_shard,
            overwrite=overwrite,
        )
        report(summary, out)
