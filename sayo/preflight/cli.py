"""`sayo preflight`: what a recipe needs, before any weight is loaded."""

from typing import Annotated

import typer


def preflight(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe, as for `sayo train`: data.path=prepared/gqa")
    ] = None,
    config_name: Annotated[
        str, typer.Option("--config-name", "-c", help="A shipped recipe (`sayo ls`) or the path of your own file.")
    ] = "toy",
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of the whole run.")] = 8,
    gpu_memory: Annotated[float, typer.Option("--gpu-memory", help="Memory of one GPU in GiB.")] = 80.0,
    sharding: Annotated[
        str, typer.Option("--sharding", help="ddp, zero1, zero2, zero3 or fsdp2, as the launch's config file says.")
    ] = "zero1",
    device: Annotated[str, typer.Option("--device", help="cuda, or cpu (logits of every row, no Triton).")] = "cuda",
    peak_tflops: Annotated[float, typer.Option("--peak-tflops", help="Dense bfloat16 peak of one GPU.")] = 989.0,
    mfu: Annotated[float, typer.Option("--mfu", help="Share of the peak that training reaches.")] = 0.35,
    prefill_mfu: Annotated[float, typer.Option("--prefill-mfu", help="Share that forward passes reach.")] = 0.45,
    memory_gbs: Annotated[float, typer.Option("--memory-gbs", help="Memory bandwidth of one GPU, GB/s.")] = 3350.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: bytes and seconds.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 when the recipe does not fit.")] = False,
) -> None:
    """Price a recipe: tokens, parameters, memory of one GPU by item, and time. Loads no weights, needs no GPU.

    [b]sayo preflight --config-name sayo_qwen3_vl_8b --gpus 8 --gpu-memory 80 data.path=prepared/gqa[/]

    Needs the model's config.json (from the hub, or a local folder). Without prepared data it assumes one image at its
    pixel limit, and says so. Formulas and assumptions: `docs/scale.md` and the docstrings of `sayo.preflight`.
    """
    import json

    from rich.console import Console

    from sayo.preflight import show
    from sayo.preflight.estimate import estimate
    from sayo.preflight.timing import Hardware
    from sayo.recipes import RecipeError, load_recipe

    hardware = Hardware(peak_tflops=peak_tflops, mfu=mfu, prefill_mfu=prefill_mfu, memory_gbs=memory_gbs)
    try:
        recipe = load_recipe(config_name, _with_data(overrides or []))
        priced = estimate(recipe, gpus=gpus, gpu_gib=gpu_memory, sharding=sharding, device=device, hardware=hardware)
    except RecipeError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(show.as_json(priced), indent=2))
    else:
        show.show(priced, Console())
    if check and not priced.fits:
        raise typer.Exit(1)


def _with_data(overrides: list[str]) -> list[str]:
    """Shipped recipes leave `data.path` open; a price can be had before there are data."""
    from sayo.preflight.tokens import NO_DATA

    named = any(override.lstrip("+").startswith("data.path=") for override in overrides)
    return overrides if named else [f"data.path='{NO_DATA}'", *overrides]
