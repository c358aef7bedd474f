"""`sayo look`, `sayo figures`, `sayo trend`, `sayo report` and `sayo inspect`. Heavy imports stay inside."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sayo.errors import SayoError
from sayo.evaluation.cli import LAYERS, MODEL, SIZE, layers_of

Layers = Annotated[str | None, typer.Option(help=f"{LAYERS} all.")]
MaxNewTokens = Annotated[int, typer.Option(min=1)]
Temperature = Annotated[
    float, typer.Option(min=0, help="0 is greedy, which hides what a policy does half of the time.")
]
SystemPrompt = Annotated[str | None, typer.Option(help="As the recipe's data.system_prompt.")]
Split = Annotated[str, typer.Option(help="Split of --data.")]
Seed = Annotated[int, typer.Option(help="Of the sampling.")]
PREPARED = typer.Option("--data", help="Folder written by `sayo prepare` for this model's processor.")


def look(
    model: Annotated[str, typer.Argument(help=MODEL)],
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Picture.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    box: Annotated[
        list[str] | None,
        typer.Option("--box", help="Region x1,y1,x2,y2 in pixels; may be repeated; 1:x1,... is of image 1."),
    ] = None,
    more_images: Annotated[
        list[Path] | None,
        typer.Option("--image", exists=True, dir_okay=False, help="A further picture (image 1, ...)."),
    ] = None,
    size: Annotated[str | None, typer.Option(help=SIZE)] = None,
    layers: Layers = None,
    out: Annotated[Path, typer.Option("--out", help="HTML page to write.")] = Path("look.html"),
    png: Annotated[Path | None, typer.Option("--png", help="Also write a picture for papers.")] = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    response: Annotated[str | None, typer.Option(help="Read this response instead of sampling one.")] = None,
    system_prompt: SystemPrompt = None,
    blank: Annotated[
        bool, typer.Option("--blank", help="Answer again with --box blanked, and show both: is the region used?")
    ] = False,
    beside: Annotated[str | None, typer.Option(help="Another model that answers, too, on the same page.")] = None,
) -> None:
    """Show where the model looks at every token of its response: one HTML page that works offline.

    Examples:

    sayo look runs/demo/export runs/demo/world/images/3601.png "How many frames are there?"

    sayo look runs/demo/export runs/demo/world/images/3601.png "Any red?" --beside runs/demo/cold_start
    """
    import torch
    from PIL import Image, ImageOps

    from sayo.evaluation.faithfulness import blank as blanked
    from sayo.viz.figures import save_looks
    from sayo.viz.look import look_at
    from sayo.viz.look_page import write_look

    regions = [_region(text) for text in box or []]
    if blank and (not regions or response is not None):
        raise SayoError("--blank takes --box, the region that is blanked, and lets the model answer: no --response.")
    images = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in (image, *(more_images or []))]
    variants = {"": images}
    if blank:
        boxes = [[one["box"] for one in regions if one["image"] == index] for index in range(len(images))]
        variants[", region blanked"] = [blanked(picture, part) for picture, part in zip(images, boxes, strict=True)]
    options = {"regions": regions, "max_new_tokens": max_new_tokens, "temperature": temperature}
    options |= {"response": response, "system_prompt": system_prompt}
    looks, names = {}, [model, beside] if beside else [model]
    short = {name: Path(name).name for name in names}
    for name in names:
        policy, processor = _load(name, size)
        options |= {"name": name, "layers": layers_of(name, layers, "all")}
        for variant, pictures in variants.items():
            torch.manual_seed(seed)
            title = short[name] if len(set(short.values())) == len(names) else name
            looks[title + variant] = look_at(policy, processor, pictures, question, **options)
    result = next(iter(looks.values()))
    for region in result.regions:
        (width, height), (x1, y1, x2, y2) = result.images[region["image"]].size, region["box"]
        if min(x1, y1) < 0 or x2 > width or y2 > height:
            typer.echo(f"--box {region['box']} is clipped to the picture ({width} x {height})", err=True)
    path = write_look(looks, out)
    typer.echo(f"{path.resolve()} ({path.stat().st_size / 1e6:.1f} MB, layers {list(result.trace.layers)})")
    if png is not None:
        typer.echo(save_looks(looks, png).resolve())


def figures(
    before: Annotated[str, typer.Argument(help=f"The model before training. {MODEL}")],
    after: Annotated[str, typer.Argument(help="The model after training.")],
    data: Annotated[str, PREPARED],
    out: Annotated[Path, typer.Option("--out", help="Folder for before_after.png and drift.png.")],
    split: Split = "test",
    num_questions: Annotated[int, typer.Option(min=1, help="Questions that means are taken over.")] = 128,
    layers: Layers = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
) -> None:
    """Draw what training changed: before_after.png has the first three questions that the model before answered
    wrongly, each lit up where the model looks as it names its answer; drift.png the attention over the responses.

    Example: sayo figures runs/demo/cold_start runs/demo/export --data runs/demo/prepared --out figures
    """
    import torch

    from sayo.recipes import DataSection
    from sayo.training.guards import check_dataset
    from sayo.training.setup import load_data
    from sayo.viz.before_after import caption, first_mistakes, named_answer, save_before_after
    from sayo.viz.look import look_at
    from sayo.viz.trend import drift, drift_width, sample_responses, save_drift

    rows = load_data(DataSection(path=data, split=split), split)
    with_region = [number for number, has_region in enumerate(rows["has_region"]) if has_region]
    asked = rows.select(with_region[:num_questions])
    options = {"layers": layers_of(after, layers, "all"), "temperature": temperature}
    models, responses = [_load(name) for name in (before, after)], []
    for policy, processor in models:
        check_dataset(asked, processor, policy.config, data)
        torch.manual_seed(seed)
        sampled = sample_responses(policy, processor, asked, max_new_tokens=max_new_tokens, **options)
        responses.append(list(sampled))
    width = drift_width([response.trace for some in responses for response in some])
    curves = {
        label: drift([response.trace for response in some], width=width)
        for label, some in zip(("before", "after"), responses, strict=True)
    }
    typer.echo(save_drift(curves, out / "drift.png").resolve())
    named = [[named_answer(response) for response in some] for some in responses]
    places, pairs = first_mistakes(*named, count=3), []
    if not places:
        typer.echo("no before_after.png: no question was answered by both, wrongly before; ask --num-questions more")
        return
    for place in places:
        pair = []
        for (policy, processor), answers, some in zip(models, named, responses, strict=True):
            row, said = some[place].row, {"response": some[place].text, "regions": some[place].row["regions"]}
            pair.append(
                (look_at(policy, processor, row["images"], row["question"], **said, **options), answers[place])
            )
        pairs.append(pair)
    typer.echo(save_before_after(pairs, caption(*named), out / "before_after.png").resolve())


def trend(
    model: Annotated[str, typer.Argument(help=MODEL)],
    data: Annotated[str, PREPARED],
    out: Annotated[Path, typer.Option("--out", help="Folder for trend.png and trend.json.")] = Path("trend"),
    split: Split = "test",
    limit: Annotated[int, typer.Option(min=1, help="Only the first so many questions.")] = 100,
    user_suffix: Annotated[
        str | None, typer.Option(help="As data.user_suffix: semantic-back, solution-back, cot, text-back, or a text.")
    ] = None,
    system_prompt: SystemPrompt = None,
    temperature: Temperature = 0.0,
    max_new_tokens: MaxNewTokens = 2048,
    batch_size: Annotated[int, typer.Option(min=1, help="Responses at once.")] = 16,
    layers: Layers = None,
    panels: Annotated[int, typer.Option(min=1, help="Responses to draw, those with <back> first.")] = 6,
    seed: Seed = 0,
) -> None:
    """Measure Look-Back's attention trend: the image's share of each token's attention.

    The lift of a <back> span is its mean share over that of the 20 tokens
    before it. Stretches of the same length elsewhere in the response are
    its control; a second control is another run with --user-suffix
    text-back, whose checks do not look at the image.

    Example: sayo trend runs/demo/export --data runs/demo/prepared --user-suffix semantic-back --out trend
    """
    import torch

    from sayo.recipes import DataSection
    from sayo.training.guards import check_dataset
    from sayo.training.setup import load_data
    from sayo.viz.trend import sample_responses, save_trend, summary_lines, trend_record, trend_summary

    section = DataSection(path=data, system_prompt=system_prompt, user_suffix=user_suffix, max_samples=limit)
    rows = load_data(section, split)
    policy, processor = _load(model)
    check_dataset(rows, processor, policy.config, data)
    torch.manual_seed(seed)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "batch_size": batch_size}
    options["layers"] = layers_of(model, layers, "all")
    responses = list(sample_responses(policy, processor, rows, **options))
    records = [trend_record(response) for response in responses]
    summary = {"layers": options["layers"], **trend_summary(records)}
    out.mkdir(parents=True, exist_ok=True)
    (out / "trend.json").write_text(json.dumps({"summary": summary, "responses": records}, indent=2) + "\n")
    typer.echo("\n".join(summary_lines(summary)))
    typer.echo(f"{out / 'trend.json'} (layers {', '.join(map(str, responses[0].trace.layers))})")
    pairs = zip(records, responses, strict=True)
    drawable = [(record, response.trace) for record, response in pairs if record["image_share"]]
    if drawable:
        drawable.sort(key=lambda pair: not pair[0]["spans"])
        typer.echo(save_trend(drawable[:panels], out / "trend.png"))


def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders (trainer.output_dir); several share the charts.")],
    out: Annotated[str, typer.Option(help="HTML file to write.")] = "report.html",
    questions: Annotated[int, typer.Option(min=0, help="Held-out questions shown.")] = 6,
    ablation: Annotated[str | None, typer.Option(help="JSON file of arms and seeds, shown as a table.")] = None,
) -> None:
    """Write one self-contained HTML page: curves, held-out table, attention before and after, recipe, environment.

    Evaluations are read from evaluation/before and evaluation/after in a run's folder.

    Example: sayo report runs/demo/ablation/both_0 --out report.html
    """
    from sayo.viz.report import build_report

    typer.echo(build_report(runs, out, questions, ablation).resolve())


def inspect(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder that `sayo prepare` wrote.")],
    out: Annotated[
        Path, typer.Option(help="What to write: a contact sheet (.png, .pdf, .svg) or a page (.html).")
    ] = Path("sheet.png"),
    num: Annotated[int, typer.Option(min=1, help="Number of rows, spread over all that match.")] = 16,
    question_type: Annotated[
        str | None, typer.Option("--type", help="Only questions of this type, such as query-attr.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only rows of this source, such as gqa.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
) -> None:
    """Look at rows: images with boxes (answer green, evidence orange), masks,
    and visual tokens by weight.

    A page (.html) is one file that any browser shows, with filters by source
    and type, the tiles and the thumbnail of a tiled model apart, and histograms
    of all rows.

    Examples:

        sayo inspect runs/demo/prepared --out sheet.png --num 12

        sayo inspect runs/demo/prepared --out page.html --num 100
    """
    from sayo.viz.inspection import pick_rows, prepared_files, save_rows, write_page

    files = prepared_files(data, split)
    rows = pick_rows(files, num, question_type, source)
    is_page = out.suffix.lower() in (".html", ".htm")
    typer.echo(write_page(data, rows, out) if is_page else save_rows(rows, out))


def _load(name: str, size: str | None = None) -> tuple[Any, Any]:
    from sayo.evaluation.local import LocalModel
    from sayo.recipes import model_section

    policy = LocalModel.from_pretrained(model_section(name, size))
    return policy.model, policy.processor


def _region(text: str) -> dict[str, Any]:
    """`x1,y1,x2,y2` or `IMAGE:x1,y1,x2,y2`."""
    image, colon, numbers = text.rpartition(":")
    try:
        x1, y1, x2, y2 = (float(number) for number in numbers.split(","))
        return {"image": int(image) if colon else 0, "box": [x1, y1, x2, y2]}
    except ValueError:
        raise SayoError(
            f"--box {text!r} is not x1,y1,x2,y2 in pixels (with several images: 1:x1,y1,x2,y2 for the second)"
        ) from None
