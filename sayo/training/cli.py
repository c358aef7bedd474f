"""`sayo train`, which `scripts/train.py` runs behind a launcher."""

from typing import Annotated

import typer


def train(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the recipe: trainer.learning_rate=1e-6 rewards=both data.path=prepared/gqa"),
    ] = None,
    config_name: Annotated[
        str,
        typer.Option("--config-name", "-c", help="A shipped recipe (`sayo ls`) or the path of your own file."),
    ] = "toy",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, the model and ten rows of data, then stop.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved recipe and stop; loads nothing.")] = False,
) -> None:
    """Train a recipe: GRPO with attention rewards, or supervised tuning when the recipe has no rewards.

    On one device:      [b]sayo train --config-name toy[/]
    On several:         [b]accelerate launch --config_file recipes/accelerate/zero2.yaml scripts/train.py
                        --config-name sayo data.path=prepared/gqa[/]

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
