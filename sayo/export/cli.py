"""`sayo export`: the command line of `export_checkpoint`."""

from typing import Annotated

import typer


def export(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, e.g. runs/toy/checkpoint-40.")],
    out: Annotated[str, typer.Option(help="Folder to write.")],
    base_model: Annotated[
        str | None, typer.Option(help="Base model (folder or hub id), where the checkpoint does not name it.")
    ] = None,
    adapter_only: Annotated[bool, typer.Option("--adapter-only", help="Keep the LoRA adapter as it is.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is not empty.")] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="REPO", help="Also upload the folder to this Hugging Face repository.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
) -> None:
    """Turn a training checkpoint into an ordinary model folder and check it against its source.

    Merges LoRA in fp32, writes weights, processor, generation config and model card, loads the result again and
    compares logits. Exits with status 1, writing nothing, when anything is missing, extra or different. Shards of
    DeepSpeed and FSDP contain pickles: export only checkpoints that you wrote yourself.
    """
    from sayo.export import ExportError, export_checkpoint

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise typer.BadParameter(f"{dtype!r} is not one of auto, float32, bfloat16, float16", param_hint="--dtype")
    try:
        result = export_checkpoint(checkpoint, out, base_model, not adapter_only, dtype, overwrite, push_to_hub)
    except ExportError as error:
        typer.echo(f"Not exported: {error}", err=True)
        raise typer.Exit(1) from None
    for note in result.notes:
        typer.echo(f"Note: {note}")
    what = {"adapter": "adapter, merged into its base" if result.merged else "adapter"}.get(result.kind, result.kind)
    typer.echo(f"Exported {result.out}: {result.num_tensors} tensors, {result.dtype} ({what}).")
    if result.merge_difference is not None:
        typer.echo(f"Largest logit difference made by merging (fp32): {result.merge_difference:.3g}")
    typer.echo(f"Largest logit difference from the source, reloaded: {result.logit_difference:.3g}")
    if push_to_hub:
        _push(result.out, push_to_hub, private)


def _push(folder, repository: str, private: bool) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    from sayo.export.hub import push_folder

    try:
        typer.echo(f"Uploaded to {push_folder(folder, repository, private)}")
    except (HfHubHTTPError, OSError, ValueError) as error:
        typer.echo(
            f"Not uploaded: {error}\n{folder} is complete; upload it with: hf upload {repository} {folder}", err=True
        )
        raise typer.Exit(1) from None
