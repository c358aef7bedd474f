"""`sayo train` and `scripts/train.py`: one command line for both."""

from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command()
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
                        --config-name sayo_qwen3_vl_8b data.path=prepared/gqa[/]

    Run the same command again after a crash: it goes on from the newest complete checkpoint of trainer.output_dir.

    Exit status: 0 done; 2 the recipe, the data or the launch is wrong; 75 stopped by Ctrl-C or SIGTERM, the step is
    saved; 1 anything else.
    """
    from sayo.recipes import RecipeError, load_recipe
    from sayo.training.launch import die_with_launcher

    die_with_launcher()
    try:
        recipe = load_recipe(config_name, overrides or [])
        if show:
            typer.echo(recipe.to_yaml(), nl=False)
            return
        _run(recipe, dry_run)
    except (RecipeError, ValueError) as error:
        if isinstance(error, RecipeError) or dry_run or _is_setup_error(error):
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(2) from None
        raise


def _run(recipe, dry_run: bool) -> None:
    from sayo.training.checkpoints import CheckpointError
    from sayo.training.guards import NonFiniteError
    from sayo.training.interrupt import EXIT_INTERRUPTED, Interrupted
    from sayo.training.memory import OutOfMemory
    from sayo.training.run import train as run

    try:
        run(recipe, dry_run=dry_run)
    except Interrupted as stopped:
        typer.secho(str(stopped), err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (CheckpointError, NonFiniteError, OutOfMemory) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error


def _is_setup_error(error: ValueError) -> bool:
    """Messages for the person at the keyboard need no traceback; an error inside a step does."""
    return any(words in str(error) for words in ("must be divisible", "another processor"))
