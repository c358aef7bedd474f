"""`sayo look`."""

from pathlib import Path
from typing import Annotated

import typer


def look(
    model: Annotated[str, typer.Argument(help="Checkpoint, exported folder or hub id.")],
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Picture.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    box: Annotated[
        list[str] | None,
        typer.Option("--box", help="Target region x1,y1,x2,y2 in pixels; may be repeated; 1:x1,... is of image 1."),
    ] = None,
    more_images: Annotated[
        list[Path] | None,
        typer.Option("--image", exists=True, dir_okay=False, help="A further picture (image 1, ...)."),
    ] = None,
    layers: Annotated[str, typer.Option(help="Decoder layers to read: all, last, 4-7, 0.5, 3,7,11.")] = "all",
    out: Annotated[Path, typer.Option("--out", help="HTML page to write.")] = Path("look.html"),
    png: Annotated[Path | None, typer.Option("--png", help="Also write a picture for papers.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option()] = 0,
    response: Annotated[str | None, typer.Option(help="Read this response instead of sampling one.")] = None,
    system_prompt: Annotated[str | None, typer.Option(help="As the recipe's data.system_prompt.")] = None,
) -> None:
    """Show where the model looks at every token of its response: one HTML page that works offline.

    Example: sayo look runs/demo/toy picture.png "What color is the disc?" --box 16,32,32,48
    """
    import torch
    from PIL import Image

    from sayo.look import look_at, save_picture, write_page
    from sayo.processors import load_auto_processor
    from sayo.recipes import ModelSection, RecipeError
    from sayo.training.setup import load_policy

    torch.manual_seed(seed)
    try:
        regions = [_region(text) for text in box or []]
        images = [Image.open(path) for path in (image, *(more_images or []))]
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        policy = load_policy(ModelSection(name_or_path=model, dtype=dtype))
        policy = policy.cuda() if torch.cuda.is_available() else policy
        result = look_at(
            policy,
            load_auto_processor(model),
            images,
            question,
            regions=regions,
            layers=_layers(layers),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            response=response,
            system_prompt=system_prompt,
            name=model,
        )
        path = write_page(result, out)
        typer.echo(f"{path.resolve()} ({path.stat().st_size / 1e6:.1f} MB)")
        if png is not None:
            typer.echo(f"{save_picture(result, png).resolve()}")
    except (RecipeError, ValueError, OSError, RuntimeError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None


def _region(text: str) -> dict:
    """`x1,y1,x2,y2` or `IMAGE:x1,y1,x2,y2`."""
    image, colon, numbers = text.rpartition(":")
    try:
        values = [float(number) for number in numbers.split(",")]
        if len(values) != 4:
            raise ValueError
        return {"image": int(image) if colon else 0, "box": values}
    except ValueError:
        raise ValueError(
            f"--box {text!r} is not x1,y1,x2,y2 in pixels (with several images: 1:x1,y1,x2,y2 for the second)"
        ) from None


def _layers(text: str) -> object:
    """A layer spec as typed: an index, a fraction, a name, a range, or several with commas."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    specs = [int(part) if part.lstrip("-").isdigit() else _fraction(part) for part in parts]
    return specs[0] if len(specs) == 1 else specs


def _fraction(part: str) -> float | str:
    try:
        return float(part)
    except ValueError:
        return part


def figures(
    before: Annotated[str, typer.Argument(help="Checkpoint before training.")],
    after: Annotated[str, typer.Argument(help="Checkpoint after training.")],
    data: Annotated[str, typer.Option("--data", help="Folder written by `sayo prepare` for these models' processor.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for before_after.png and drift.png.")],
    split: Annotated[str, typer.Option()] = "test",
    index: Annotated[int, typer.Option(min=0, help="Which question with a region to show.")] = 0,
    num_questions: Annotated[int, typer.Option(min=1, help="Questions that the drift is averaged over.")] = 128,
    layers: Annotated[str, typer.Option(help="Decoder layers to read, as in `sayo look`.")] = "all",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[
        float,
        typer.Option(min=0, help="Of the responses; 0 is greedy, which hides what a policy does half of the time."),
    ] = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Draw the same question before and after training, and how attention drifts over the responses.

    Example: sayo figures runs/demo/cold_start runs/demo/toy --data runs/demo/prepared --out docs/figures
    """
    import torch

    from sayo.look.compare import drift, points_of, sampled_traces, save_comparison, save_drift
    from sayo.look.look import look_at
    from sayo.processors import load_auto_processor
    from sayo.recipes import DataSection, ModelSection, RecipeError
    from sayo.training.guards import check_dataset
    from sayo.training.setup import load_data, load_policy

    try:
        rows = load_data(DataSection(path=data, split=split), split)
        with_region = [number for number, has_region in enumerate(rows["has_region"]) if has_region]
        if index >= len(with_region):
            raise ValueError(f"--index {index}: only {len(with_region)} questions of {split!r} have a region")
        row, some = rows[with_region[index]], rows.select(with_region[:num_questions])
        looks, traces = {}, {}
        for label, name in (("before", before), ("after", after)):
            dtype = "bfloat16" if torch.cuda.is_available() else "float32"
            policy, processor = load_policy(ModelSection(name_or_path=name, dtype=dtype)), load_auto_processor(name)
            policy = policy.cuda() if torch.cuda.is_available() else policy
            check_dataset(some, processor, policy.config)
            options = {"layers": _layers(layers), "max_new_tokens": max_new_tokens, "temperature": temperature}
            torch.manual_seed(seed)
            traces[label] = sampled_traces(policy.eval(), processor, some, **options)
            torch.manual_seed(seed)
            looks[label] = look_at(
                policy, processor, row["images"], row["question"], regions=row["regions"], name=name, **options
            )
        width = points_of([trace for own in traces.values() for trace in own])
        curves = {label: drift(own, tokens_per_point=width) for label, own in traces.items()}
        typer.echo(f"{save_comparison(looks, out / 'before_after.png').resolve()}")
        typer.echo(f"{save_drift(curves, out / 'drift.png').resolve()}")
    except (RecipeError, ValueError, OSError, RuntimeError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None
