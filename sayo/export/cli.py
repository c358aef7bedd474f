"""`sayo export`: the command line of `export_checkpoint`."""

from typing import Annotated, Literal

import typer


def export(
    checkpoint: Annotated[str, typer.Argument(help="A run, or one of its checkpoints.")],
    out: Annotated[str, typer.Option(help="Folder to write.")],
    base_model: Annotated[
        str | None, typer.Option(help="Base model (folder or hub id), if the checkpoint does not name it.")
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the weights; auto keeps the source's."),
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is not empty.")] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="REPO", help="Also upload the folder to this Hugging Face repository.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
) -> None:
    """Turn a training checkpoint into an ordinary model folder and verify it against its source.

    Merges LoRA in fp32, writes weights, processor, generation config and model card, reloads the result and compares
    logits. Writes nothing if a weight is missing, unexpected or different. DeepSpeed and FSDP shards contain pickles:
    export only checkpoints that you wrote yourself.

    Example: sayo export runs/demo/ablation/both_0 --out my-model
    """
    from sayo.export.package import export_checkpoint, push_folder

    result = export_checkpoint(checkpoint, out, base_model, dtype, overwrite, push_to_hub)
    for note in result.notes:
        typer.echo(f"Note: {note}")
    what = "adapter, merged into its base" if result.kind == "adapter" else result.kind
    typer.echo(f"Exported {result.out}: {result.num_tensors} tensors, {result.dtype} ({what}).")
    if result.merge_difference is not None:
        typer.echo(f"Largest logit difference made by merging (fp32): {result.merge_difference:.3g}")
    typer.echo(f"Largest logit difference from the source, reloaded: {result.logit_difference:.3g}")
    if push_to_hub:
        typer.echo(f"Uploaded to {push_folder(result.out, push_to_hub, private)}")
