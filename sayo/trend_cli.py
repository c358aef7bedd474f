"""`sayo trend`: sample responses, and show whether `<back>` looks back and how attention to the image drifts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def trend(
    model: Annotated[str, typer.Argument(help="Checkpoint, exported folder or hub id.")],
    data: Annotated[str, typer.Option("--data", help="Prepared rows (folder of `sayo prepare`, parquet file).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for trend.png and trend.json.")] = Path("trend"),
    split: Annotated[str, typer.Option(help="Split of --data.")] = "test",
    limit: Annotated[int, typer.Option(min=1, help="Only the first so many questions.")] = 100,
    user_suffix: Annotated[
        str | None, typer.Option(help="As data.user_suffix: semantic-back, solution-back, cot, text-back, or a text.")
    ] = None,
    system_prompt: Annotated[str | None, typer.Option(help="As the recipe's data.system_prompt.")] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Responses per question.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy, as in the paper.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 2048,
    batch_size: Annotated[int, typer.Option(min=1, help="Responses at once.")] = 16,
    layers: Annotated[str, typer.Option(help="Decoder layers to read; their shares are averaged.")] = "all",
    window: Annotated[int, typer.Option(min=1, help="Tokens before a span that it is compared with.")] = 20,
    panels: Annotated[int, typer.Option(min=1, help="Responses to draw, those with <back> first.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
) -> None:
    """Measure Look-Back's attention trend: the image's share of each token's attention.

    The lift of a <back> span is its mean share over that of the tokens
    before it. Stretches of the same length elsewhere in the response are
    its control; a second control is another run with --user-suffix
    text-back, whose checks do not look at the image.

    Example: sayo trend runs/look_back --data prepared/mix --user-suffix semantic-back --out trend
    """
    import torch

    from sayo.evaluation.local import LocalModel
    from sayo.processors import load_auto_processor
    from sayo.recipes import DataSection, ModelSection, RecipeError
    from sayo.training.setup import load_data, load_policy
    from sayo.trend import plot_trend

    try:
        section = DataSection(path=data, system_prompt=system_prompt, user_suffix=user_suffix, max_samples=limit)
        rows = load_data(section, split)
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        policy = load_policy(ModelSection(name_or_path=model, dtype=dtype))
        answerer = LocalModel(
            policy.cuda() if torch.cuda.is_available() else policy,
            load_auto_processor(model),
            num_samples=num_samples,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            layers=layers,
            seed=seed,
        )
        asked = ({**rows[index], "index": index} for index in range(len(rows)))
        measured = [
            response_record(row, reply, window)
            for row, replies in answerer.answer(asked, attention=True)
            for reply in replies
        ]
    except (RecipeError, ValueError, OSError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None
    records, traces = zip(*measured, strict=True)
    summary = summarise(records)
    out.mkdir(parents=True, exist_ok=True)
    (out / "trend.json").write_text(json.dumps({"summary": summary, "responses": records}, indent=2) + "\n")
    drawn = [index for index, trace in enumerate(traces) if trace is not None]
    drawn = sorted(drawn, key=lambda index: not records[index]["spans"])[:panels]
    if drawn:
        spans, titles = [records[index]["spans"] for index in drawn], [records[index]["id"] for index in drawn]
        plot_trend([traces[index] for index in drawn], spans, out / "trend.png", titles)
    typer.echo(json.dumps(summary, indent=2))
    typer.echo(f"{out / 'trend.json'}" + (f", {out / 'trend.png'}" if drawn else "; no response to draw"))


def response_record(row: dict[str, Any], reply: Any, window: int) -> tuple[dict[str, Any], Any]:
    """What `trend.json` holds of one response, and its trace where it has an image and a token."""
    from sayo.answers.extract import parse_look_back
    from sayo.evaluation.scoring import grade
    from sayo.trend import look_back_lift, tag_spans, trend

    text = reply.text or ""
    found = grade(text, row, "reward") if reply.text is not None else None
    usable = reply.trace is not None and len(reply.trace) > 0 and reply.trace.sizes.get("image", 0) > 0
    record = {
        "id": str(row["id"]),
        "response": reply.text,
        "error": reply.error,
        "correct": found.score if found else None,
        "strict": parse_look_back(text).strict,
        "spans": tag_spans(text, reply.offsets) if usable and reply.offsets else [],
        **dict.fromkeys(("lift", "control", "gain")),
        "image_share": [],
    }
    if usable:
        series = trend(reply.trace)["image"]
        lift = look_back_lift(series, record["spans"], window)
        record |= {"lift": lift.mean, "control": lift.control, "gain": lift.gain, "image_share": series.tolist()}
    return record, reply.trace if usable else None


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates over the responses, means of what is defined, and the image's share in each tenth of a response."""
    import numpy as np

    def mean(values: list) -> float | None:
        known = [float(value) for value in values if value is not None]
        return sum(known) / len(known) if known else None

    answered = [record for record in records if record["response"] is not None]
    back = [record["spans"] != [] for record in answered]
    tenths = [[part.mean() for part in np.array_split(record["image_share"], 10)] for record in answered
              if len(record["image_share"]) >= 10]  # fmt: skip
    return {
        "responses": len(answered),
        "failed": len(records) - len(answered),
        "back_rate": mean(back),
        "strict_rate": mean([record["strict"] for record in answered]),
        "accuracy": mean([record["correct"] for record in answered]),
        "accuracy_with_back": mean(
            [record["correct"] for record, is_back in zip(answered, back, strict=True) if is_back]
        ),
        "accuracy_without_back": mean(
            [record["correct"] for record, is_back in zip(answered, back, strict=True) if not is_back]
        ),
        **{name: mean([record[name] for record in answered]) for name in ("lift", "control", "gain")},
        "image_share_by_tenth": np.mean(tenths, axis=0).tolist() if tenths else None,
        "responses_of_ten_tokens": len(tenths),
    }
