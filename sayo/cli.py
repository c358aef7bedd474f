"""The `sayo` command. Every command lives beside what it does; this file only puts them under one roof."""

import itertools
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from data_prep.cli import map_rows, mix, prepare_app
from data_prep.synthesize.cli import ground, synthesize
from sayo.errors import SayoError
from sayo.evaluation.cli import compare, evaluate
from sayo.export.cli import export
from sayo.preflight.cli import preflight
from sayo.toyworld.cli import app as toy_app
from sayo.training.cli import launch, train
from sayo.viz.cli import figures, inspect, look, report, trend

ORDER = "ls cp prepare map mix ground synthesize inspect preflight train launch export evaluate compare look trend "
ORDER += "figures report toy version"
"""Of the commands, as the work goes; typer would list groups last."""


class OneLineErrors(TyperGroup):
    """The one place where an error that the user can mend becomes a red line; anything else keeps its traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.commands, key=ORDER.split().index)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader has left, as in `sayo ls | head`: click ends quietly
            raise
        except (SayoError, OSError) as error:
            line = " ".join(f"{getattr(error, 'label', 'error')}: {error}".split())
            typer.secho(line.encode("utf-8", "backslashreplace").decode(), fg="red", err=True)
            if advice := getattr(error, "advice", ""):
                typer.echo(advice, err=True)
            raise typer.Exit(getattr(error, "exit_status", 2)) from None


app = typer.Typer(
    cls=OneLineErrors,
    help="Fine-tune vision-language models by reinforcement learning so that they look where the answer is.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("sayo-vlm"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print sayo's version and stop.")
    ] = False,
) -> None: ...


app.add_typer(prepare_app, name="prepare")
app.command("map")(map_rows)
app.command()(mix)
app.command()(inspect)
app.command()(preflight)
app.command()(train)
app.command()(launch)
app.command()(evaluate)
app.command()(compare)
app.command()(export)
app.command()(look)
app.command()(trend)
app.command()(figures)
app.command()(report)
app.command()(synthesize)
app.command()(ground)
app.add_typer(toy_app, name="toy")


_LISTED = {
    "": "Recipes, for --config-name:",
    "model": "Models, for model= (toys have their own), --processor and MODEL:",
    "rewards": "Rewards, for rewards= (toys: rewards=toy/both, ...):",
    "advantage_shaper": "Advantage shapers, for advantage_shaper=:",
    "accelerate": "Files of accelerate, for launch --sharding:",
}


def _print_entry(name: str, text: str) -> None:
    """The first sentence beside the name."""
    typer.echo(f"  {name:25} {re.split(r'(?<=[.?]) ', ' '.join(text.split()))[0]}")


@app.command("ls")
def list_recipes() -> None:
    """List what is shipped: recipes for --config-name, the choices of their groups, and sources for `sayo prepare`."""
    from data_prep.sources import load_sources
    from sayo.recipes import recipe_names, recipes_dir

    for group, title in _LISTED.items():
        typer.echo(title)
        for name in recipe_names(group):
            lines = (recipes_dir() / group / f"{name}.yaml").read_text().splitlines()
            comment = [line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
            _print_entry(name, " ".join(comment) or lines[0].removeprefix("name_or_path:"))
    typer.echo("Sources, for sayo prepare:")
    for name, entry in load_sources()[0].items():
        _print_entry(name, entry["help"])
    typer.echo(
        "For example: sayo train --config-name sayo model=qwen3_vl_4b rewards=both data.path=prepared/gqa --show"
    )


@app.command("cp")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="A recipe that `sayo ls` lists, or accelerate/zero2, ...")],
    out: Annotated[Path, typer.Argument(help="Where your copy goes, e.g. my_recipe.yaml.")],
) -> None:
    """Copy a recipe to edit it; train it with `sayo train --config-name ./my_recipe.yaml`."""
    from sayo.recipes import recipe_names, recipes_dir

    files = [f"accelerate/{file}" for file in recipe_names("accelerate")]
    if name not in [*recipe_names(), *files] or out.exists():
        raise typer.BadParameter(f"{out} exists already" if out.exists() else f"`sayo ls` does not list {name!r}")
    shutil.copy(recipes_dir() / f"{name}.yaml", out)
    use = "Take it with: sayo launch --sharding" if name in files else "Train it with: sayo train --config-name"
    typer.echo(f"{out} written. {use} {out}")


@app.command()
def version() -> None:
    """Print the versions that matter for a bug report."""
    from sayo.training.launch import versions

    for name, value in versions().items():
        typer.echo(f"{name} {value}")
