"""`sayo train`, which `scripts/train.py` runs behind a launcher, and `sayo launch`."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe: trainer.learning_rate=1e-6 rewards=both data.path=prepared/gqa"),
]
ConfigName = Annotated[
    str, typer.Option("--config-name", "-c", help="A shipped recipe (`sayo ls`) or the path of your own file.")
]


def train(
    overrides: Overrides = None,
    config_name: ConfigName = "toy",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, the model and ten rows, roll out a tiny group, stop.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved recipe and stop; loads nothing.")] = False,
) -> None:
    """Train a recipe: GRPO with attention rewards, or supervised tuning when the recipe has no rewards.

    On one device:      [b]sayo train --config-name toy[/]
    On several:         [b]sayo launch --gpus 8 --config-name sayo data.path=prepared/gqa[/]

    Run the same command again after a crash: it resumes from the newest complete checkpoint of trainer.output_dir.

    Exit status: 0 done; 2 the recipe, the data or the launch is wrong; 75 stopped by Ctrl-C, SIGTERM, SIGUSR1 or
    SIGHUP, the step is saved; 1 anything else.
    """
    from sayo.training.launch import die_with_launcher

    die_with_launcher()
    from sayo.recipes import load_recipe
    from sayo.training.guards import OutOfMemory
    from sayo.training.run import train as run
    from sayo.training.setup import check_recipe
    from sayo.viz.report.callback import SendReport

    recipe = load_recipe(config_name, overrides or [])
    check_recipe(recipe)
    if show:
        typer.echo(recipe.to_yaml(), nl=False)
        return
    try:
        run(recipe, dry_run=dry_run, callbacks=[SendReport()])
    except OutOfMemory as error:
        from sayo.preflight.advice import out_of_memory_advice

        error.advice = out_of_memory_advice(recipe, error.num_processes, error.sharding)
        raise


def launch(
    overrides: Overrides = None,
    config_name: ConfigName = "toy",
    gpus: Annotated[int | None, typer.Option(min=1, help="Processes; by default one for each GPU here.")] = None,
    sharding: Annotated[
        str | None,
        typer.Option(help="ddp, zero1, zero2, zero3, fsdp2, cpu, or a file of accelerate; by default by the recipe."),
    ] = None,
) -> None:
    """Train on several processes of this machine: accelerate with a shipped file. Prints the line that it runs.

    Example: sayo launch --gpus 8 --config-name sayo model=qwen3_vl_8b data.path=prepared/gqa

    On several machines run the printed line on each, with accelerate's --num_machines, --machine_rank and
    --main_process_ip (docs/launch.md).
    """
    import torch

    from sayo.preflight.advice import sharding_for
    from sayo.recipes import RecipeError, load_recipe, recipe_names, recipes_dir
    from sayo.training.setup import check_recipe

    recipe = load_recipe(config_name, overrides or [])
    check_recipe(recipe)  # here once, not in every process
    sharding = sharding or sharding_for(recipe)
    file = recipes_dir() / "accelerate" / f"{sharding}.yaml" if "." not in sharding else Path(sharding)
    if not file.is_file():
        raise RecipeError(f"--sharding {sharding}: no such file, nor one of {', '.join(recipe_names('accelerate'))}.")
    gpus = gpus or (2 if recipe.trainer.get("use_cpu") else torch.cuda.device_count())
    if not gpus:
        raise RecipeError("No GPU is visible here. On the CPU add: trainer.use_cpu=true trainer.bf16=false")
    words = ["--config_file", str(file), "--num_processes", str(gpus), "--main_process_port", "0"]
    words += ["-m", "sayo", "train", "--config-name", config_name, *(overrides or [])]
    typer.echo("$ " + shlex.join(["accelerate", "launch", *words]), err=True)
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")  # else the last ends it
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", *words])
