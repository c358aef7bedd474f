"""`sayo evaluate`."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint, exported folder or hub id.")],
    data: Annotated[str, typer.Option("--data", help="Folder written by `sayo prepare` for this model's processor.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for summary.json, samples.jsonl and maps.")],
    split: Annotated[str, typer.Option(help="Split to evaluate on.")] = "test",
    num_samples: Annotated[int, typer.Option(min=1, help="Sampled completions per question.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Completions at once.")] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    layers: Annotated[str, typer.Option(help="Decoder layers to read: last, all, 4-7, ...")] = "last",
    num_maps: Annotated[int, typer.Option(min=0, help="Questions whose attention picture is kept.")] = 6,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Grade sampled answers and read where the policy looks while it gives them.

    Example: sayo evaluate runs/demo/toy --data runs/demo/prepared --out runs/demo/toy/evaluation/after
    """
    import torch
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from sayo.evaluation.evaluate import evaluate as run
    from sayo.recipes import DataSection, ModelSection, RecipeError
    from sayo.training.checks import check_dataset
    from sayo.training.setup import load_auto_processor, load_data, load_policy

    try:
        rows = load_data(DataSection(path=data, split=split, max_samples=limit), split)
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        policy = load_policy(ModelSection(name_or_path=model, dtype=dtype))
        processor = load_auto_processor(model)
        check_dataset(rows, processor, policy.config)
    except (RecipeError, ValueError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None
    if torch.cuda.is_available():
        policy = policy.cuda()
    console = Console(stderr=True)
    result = run(
        policy,
        processor,
        rows,
        num_samples=num_samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        layers=layers,
        num_maps=num_maps,
        seed=seed,
        progress=lambda batches: track(batches, "evaluating", console=console),
    )
    result.save(out)
    summary = result.summary()
    table = Table("questions", "n", "accuracy", "TAS", "length", title=f"{model} on {split}")
    for name, part in [("all", summary), *summary["by_type"].items()]:
        values = (part["accuracy"], part["tas"], part["mean_length"])
        table.add_row(name, str(part["num_questions"]), *("–" if v is None else f"{v:.3g}" for v in values))
    Console().print(table)
