"""`sayo toy`: make the toy world, its cold-start data and its policy."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import track

app = typer.Typer(
    help="Make the toy world: synthetic pictures with GQA files, and a tiny policy that can learn them.",
    no_args_is_help=True,
)
console = Console()

Out = Annotated[Path, typer.Option("--out", help="Folder to write; created if missing.")]
World = Annotated[Path, typer.Option("--world", help="Folder written by `sayo toy world`.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same bytes.")]


@app.command()
def world(
    out: Out,
    num_images: Annotated[
        int, typer.Option(min=10, help="Pictures in all splits together (80% train, 10% val, 10% test).")
    ],
    prior: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of discs with their frame's usual colour; in test, none has it."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Draw scenes and write them as GQA files (questions, scene graphs).

    Writes images/, {train,val,test}_questions.json and {train,val,test}_sceneGraphs.json. No image is in two splits;
    tune on val, report on test.

    Example: sayo toy world --out toy/world --num-images 4000
    """
    from sayo.toyworld.gqa_files import write_gqa

    for _ in track(write_gqa(out, num_images, seed, prior), "drawing", total=num_images, console=console):
        pass
    console.print(f"{num_images} pictures in {out}. Next: sayo toy policy, then sayo prepare gqa on these files.")


@app.command()
def policy(
    out: Out,
    family: Annotated[
        Literal["qwen3_vl", "qwen2_5_vl"], typer.Option(help="Model classes to build from.")
    ] = "qwen3_vl",
    seed: Seed = 0,
) -> None:
    """Save a randomly initialised policy and its processor as an ordinary checkpoint.

    Example: sayo toy policy --out toy/policy
    """
    from sayo.toyworld.policy import write_policy

    num_parameters = write_policy(out, family, seed)
    console.print(f"{family} with {num_parameters / 1e6:.2f}M parameters in {out}. Next: sayo toy cold-start.")


@app.command("cold-start")
def cold_start(
    world: World,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    num_rows: Annotated[int, typer.Option(min=1, help="Rows; questions repeat if there are fewer.")] = 22400,
    warm_up: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the rows, at the start, that only describe pictures."),
    ] = 0.33,
    look_back: Annotated[
        bool, typer.Option("--look-back", help="Answers in Look-Back's format: think, back, think, boxed.")
    ] = False,
    habit: Annotated[
        Literal["salient", "usual"],
        typer.Option(help="Half of the answers look at the large object, or state the usual colour."),
    ] = "salient",
    seed: Seed = 0,
) -> None:
    """Write the cold-start data: a policy trained on it perceives well but looks in the wrong place.

    TRL's prompt-completion format (columns prompt, completion, images), in training order.

    Example: sayo toy cold-start --world toy/world --out toy/cold_start.parquet
    """
    from sayo.toyworld.cold_start import write_cold_start

    write_cold_start(world, out, num_rows, warm_up, look_back=look_back, seed=seed, habit=habit)
    console.print(f"{num_rows} rows in {out}. Next: sayo train --config-name toy_cold_start data.path={out}")


@app.command()
def several(
    world: World,
    out: Out,
    num_rows: Annotated[int, typer.Option(min=1, help="Cold-start rows to write.")] = 9600,
    seed: Seed = 0,
) -> None:
    """Ask six questions about each picture at once, to be answered in one long response.

    Writes {train,val,test}.jsonl for `sayo prepare jsonl`, and cold_start.parquet (from the train pictures).

    Example: sayo toy several --world toy/world --out toy/several
    """
    from sayo.toyworld.several import write_several, write_several_cold_start

    counts = {split: write_several(world, out, split, seed) for split in ("train", "val", "test")}
    write_several_cold_start(world, out / "cold_start.parquet", num_rows, seed=seed)
    console.print(f"{counts} questions in {out}. Next: sayo prepare jsonl --questions {out}/train.jsonl ...")
