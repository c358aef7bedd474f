"""`sayo evaluate` and `sayo compare`."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sayo.errors import SayoError

MODEL = "Checkpoint, exported folder, hub id or a name in recipes/model."
LAYERS = "Decoder layers: last, all, 4-7, 0.5, 3,7,11. By default those that MODEL was trained on, else"
SIZE = "Pixel limits other than the model's, as model.size: longest_edge=1048576,... (of Qwen-VL, areas in pixels)."


def layers_of(model: str, asked: str | None, otherwise: str) -> Any:
    """What `--layers` says, else the layers that the model was trained on, else `otherwise`."""
    from sayo.recipes import trained_layers

    if asked is None:
        trained = trained_layers(model)
        return otherwise if trained is None else trained
    return [float(part) if "." in part else part for part in asked.replace(" ", "").split(",") if part]


class SamplesFailed(SayoError):
    """The evaluation is done, but too many samples have no answer: `failed` is kind -> how many."""

    exit_status = 1

    def __init__(self, failed: dict[str, int]):
        counts = ", ".join(f"{count} {kind}" for kind, count in failed.items())
        super().__init__(f"samples failed: {counts}; the same command asks them again")


def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL)],
    data: Annotated[str, typer.Option("--data", help="Prepared rows (folder of `sayo prepare`, parquet file).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results; the same command resumes in it.")],
    split: Annotated[str, typer.Option(help="Split of --data.")] = "test",
    size: Annotated[str | None, typer.Option(help=SIZE)] = None,
    system_prompt: Annotated[str | None, typer.Option(help="As the recipe's data.system_prompt.")] = None,
    user_suffix: Annotated[str | None, typer.Option(help="As the recipe's data.user_suffix.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Responses per question.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest response.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Responses at once.")] = 64,
    whole_text: Annotated[bool, typer.Option(help="Without <answer> or \\boxed, all of it is the answer.")] = False,
    attention: Annotated[bool, typer.Option(help="Read where the model looks (of --server: MODEL itself).")] = True,
    faithful: Annotated[
        bool,
        typer.Option("--faithfulness", help="Also: are answers lost when the region is blanked? About 5x the time."),
    ] = False,
    layers: Annotated[str | None, typer.Option(help=f"{LAYERS} the last. Their mean is reported.")] = None,
    steer: Annotated[Literal["vrga"] | None, typer.Option(help="Steer attention: vrga (no training).")] = None,
    num_maps: Annotated[int, typer.Option(min=0, help="Questions whose attention picture is kept.")] = 6,
    server: Annotated[str | None, typer.Option(help="OpenAI-compatible server, http://localhost:8000/v1.")] = None,
    server_model: Annotated[str | None, typer.Option(help="Its name on the server; MODEL if not given.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions at once to the server.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that one request may take.")] = 300.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    max_failed: Annotated[float, typer.Option(min=0, max=1, help="Share of failed samples that is no error.")] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Forget the results that are in --out.")] = False,
) -> None:
    """Ask questions with known answers, and measure whether the model is right and where it looks.

    Examples:

    sayo evaluate runs/demo/export --data runs/demo/prepared --out results/demo

    sayo evaluate my-model --data prepared/gqa --split val --server http://localhost:8000/v1 --out results/my-model
    """
    from sayo.client import ChatClient
    from sayo.evaluation.evaluate import evaluate as ask_all
    from sayo.evaluation.journal import files_mark
    from sayo.evaluation.local import LocalModel
    from sayo.evaluation.server import ServerModel
    from sayo.evaluation.tables import print_summary, progress
    from sayo.prompts import suffix_text
    from sayo.recipes import DataSection, ModelSection, model_section
    from sayo.steering import AttentionSteering
    from sayo.training.setup import load_data

    if steer and server:
        raise SayoError("--steer needs the model in this process: leave --server out.")
    if faithful and not attention:
        raise SayoError("--faithfulness reads attention: leave --no-attention out.")
    sampling = {"num_samples": num_samples, "temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    prompts = {"system_prompt": system_prompt, "user_suffix": user_suffix}
    rows = load_data(DataSection(path=data, max_samples=limit, **prompts), split)
    reads = attention and "regions" in rows.column_names
    is_local = not server or reads
    section = model_section(model, size) if is_local else ModelSection(name_or_path=model)
    name = section.name_or_path
    settings = {"model": name, "server_model": (server_model or name) if server else None, "data": data}
    settings |= {"split": split, **prompts, **sampling, "whole_text": whole_text, "attention": attention}
    settings |= {"faithfulness": True} if faithful else {}
    settings |= {"size": section.size, "steer": steer, "model_files": files_mark(name)}
    settings |= {"data_files": files_mark(data, "**/*")}
    reading = {"batch_size": batch_size, "layers": layers_of(name, layers, "last")}
    local = LocalModel.from_pretrained(section, **reading, **sampling) if is_local else None
    settings |= {"layers": list(local.layers) if reads else None}
    client = ChatClient(server, server_model or name, timeout=timeout) if server else None
    answerer = ServerModel(client, local, concurrency=concurrency, **sampling) if client else local
    suffix = suffix_text(user_suffix) if user_suffix else ""
    with AttentionSteering(answerer.model, answerer.processor, suffix=suffix) if steer else nullcontext():
        options = {
            "attention": attention,
            "faithful": faithful,
            "whole_text": whole_text,
            "num_maps": num_maps,
            "overwrite": overwrite,
        }
        summary = ask_all(answerer, rows, out, settings, **options, progress=progress)
    print_summary(model, summary)
    failed = sum(summary["failed"].values())
    if failed > max_failed * (failed + summary["num_completions"]):
        raise SamplesFailed(summary["failed"])


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of `sayo evaluate` or lmms-eval: the one to beat.")],
    b: Annotated[Path, typer.Argument(help="The same of another model, on the same data.")],
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the figures.")] = None,
) -> None:
    """Compare two results question by question: the difference, its interval, and an exact paired test.

    Example: sayo compare results/before results/after
    """
    from sayo.evaluation.compare import compare_results
    from sayo.evaluation.tables import print_comparison

    results = compare_results(a, b)
    print_comparison(a, b, results)
    for name, values in results.items():
        for warning in values["warnings"]:
            typer.echo(f"{name}: not the same in both: {warning}")
        for key in ("only_in_a", "only_in_b", "not_scored_in_both"):
            if values[key]:
                typer.echo(f"{name}: {values[key]} questions not compared: {key.replace('_', ' ')}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
