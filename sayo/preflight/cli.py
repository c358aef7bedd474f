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
        str | None,
        typer.Option("--sharding", help="ddp, zero1, zero2, zero3 or fsdp2; by default the fastest that fits."),
    ] = None,
    peak_tflops: Annotated[float, typer.Option("--peak-tflops", help="Dense bfloat16 peak of one GPU.")] = 989.0,
    memory_gbs: Annotated[float, typer.Option("--memory-gbs", help="Memory bandwidth of one GPU, GB/s.")] = 3350.0,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 when the recipe does not fit.")] = False,
) -> None:
    """Price a recipe: memory of one GPU by item, and time, for every sharding. Loads no weights, needs no GPU.

    [b]sayo preflight --config-name sayo --gpus 8 --gpu-memory 80 data.path=prepared/gqa[/]

    Knows the shapes of the Qwen models of `recipes/model`; others need their config.json (the hub, or a local
    folder). Without prepared data it assumes one image at its pixel limit, and says so. Formulas and
    assumptions: `docs/scale.md` and the docstrings of `sayo.preflight`.
    """
    from sayo.preflight.estimate import estimate
    from sayo.preflight.setting import NO_DATA
    from sayo.preflight.show import as_text
    from sayo.preflight.timing import Hardware
    from sayo.recipes import load_recipe

    hardware = Hardware(gpu_gib=gpu_memory, peak_tflops=peak_tflops, memory_gbs=memory_gbs)
    # Shipped recipes leave `data.path` open; a price can be had before there are data.
    recipe = load_recipe(config_name, [f"data.path='{NO_DATA}'", *(overrides or [])])
    priced = estimate(recipe, gpus, hardware, sharding)
    typer.echo(as_text(priced))
    if check and not priced.chosen.fits:
        raise typer.Exit(1)
