"""`sayo synthesize` and `sayo ground` (mounted by sayo.cli). Heavy imports stay inside the commands."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sayo.errors import SayoError

Concurrency = Annotated[int, typer.Option(min=1, help="Rows at once.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Of one answer; a longer one rejects the row as `truncated`.")]
Temperature = Annotated[float, typer.Option(min=0)]
Seed = Annotated[int, typer.Option(help="Sent with every request; another one draws other samples.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one request; failed ones are sent 6 times.")]
MaxFailed = Annotated[
    float, typer.Option(min=0, max=1, help="Share of rows that may fail at the server with exit status 0.")
]
Extra = Annotated[
    str, typer.Option(help='JSON put into every request; null takes a field out: {"temperature": null}.')
]


def synthesize(
    method: Annotated[Literal["visual-anchors", "look-back"], typer.Argument(help="What is written; see above.")],
    prepared: Annotated[Path, typer.Argument(help="Folder that `sayo prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for data, summary.json, rejected.jsonl and journal.jsonl.")],
    server: Annotated[str, typer.Option(help="Address that ends in /v1: one for all roles, or ROLE=URL,ROLE=URL.")],
    model: Annotated[str, typer.Option(help="Name of the served model: one for all roles, or ROLE=NAME,ROLE=NAME.")],
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable of the key, or ROLE=VARIABLE,...; may be unset.")
    ] = "OPENAI_API_KEY",
    style: Annotated[
        Literal["semantic", "solution"],
        typer.Option(help="look-back: the check is in the midst of the reasoning, or after a preliminary answer."),
    ] = "semantic",
    split: Annotated[str, typer.Option(help="Split to read and write.")] = "train",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many rows. Try 20 before you pay for all.")
    ] = None,
    concurrency: Concurrency = 8,
    tries: Annotated[int, typer.Option(min=1, help="Samples of a step before a row is given up.")] = 2,
    max_tokens: MaxTokens = 4096,
    temperature: Temperature = 0.7,
    seed: Seed = 0,
    timeout: Timeout = 300.0,
    max_overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Share of 5-grams that a completion may share with an earlier one.")
    ] = 0.8,
    max_failed: MaxFailed = 0.05,
    extra: Extra = "{}",
) -> None:
    """Let models behind an OpenAI-compatible server write data for SFT.

    [bold]visual-anchors[/], AVAR's data: [bold]describe[/] sees the image and writes down
    everything in it (a strong VLM); [bold]reason[/] sees only that text and reasons
    (a strong LLM); [bold]anchor[/] rewrites the reasoning so that it keeps looking back
    ("look back at the triangle"; an LLM). Kept: rows with the right answer and
    an anchor after the first third, without a word about the description.

    [bold]look-back[/], Look-Back's data: [bold]cot[/] (your policy, served) writes a chain of
    thought; [bold]back[/] (a strong VLM) sees image, chain and right answer, and puts a
    <back> check against the image into it. Kept: rows with
    one well-formed check of ten words or more that names something to be seen,
    with the right answer boxed, and no hint that it was given. Their prompts
    carry the style's instruction, which RL must use, too (sayo.prompts).

    Example:

        sayo synthesize visual-anchors data/gqa --out data/anchors --limit 20 \\
            --server http://localhost:8000/v1 \\
            --model describe=Qwen3-VL-32B,reason=Qwen3-32B,anchor=Qwen3-32B

    OUT holds the prepared columns and `completion`: TRL's prompt-completion
    format, for an SFT recipe with data.path=OUT. Near duplicates are left out.
    Other rows are counted by reason in summary.json; see rejected.jsonl.

    The same command resumes a run that was stopped: no answer in journal.jsonl
    is asked for twice. Rows that failed at the server are asked again.

    Exit status: 0; 1 when more than --max-failed of the rows failed at the
    server; 2 when no row was kept, or the server or the input cannot be used.
    """
    from data_prep.synthesize.pipeline import synthesize_rows
    from data_prep.synthesize.roles import Roles, clients_of
    from data_prep.synthesize.rows import PreparedRows
    from data_prep.synthesize.writers import ROLES, writer_of

    # Answers are compared in a thread, where its alarm cannot ring; sayo.answers refuses what is heavy beforehand.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    clients = clients_of(ROLES[method], model, server, api_key_env, concurrency=concurrency, timeout=timeout)
    fields = {"max_tokens": max_tokens, "temperature": temperature, **_json_object(extra)}
    ask = partial(Roles, clients, seed=seed, fields=fields)
    name, write, suffix = writer_of(method, style, tries)
    models = {role: client.model for role, client in clients.items()}
    kwargs = {"suffix": suffix, "num_workers": concurrency, "max_overlap": max_overlap}
    kwargs["settings"] = {"method": name, "models": models, "tries": tries, "seed": seed, **fields}
    with _said_how_to_resume():
        summary = synthesize_rows(PreparedRows(prepared, split, limit), out, write, ask, **kwargs)
    _report(summary, out, max_failed)


def ground(
    prepared: Annotated[Path, typer.Argument(help="Folder that `sayo prepare` or `sayo mix` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set to write.")],
    server: Annotated[str | None, typer.Option(help="Address of a vision-language server; ends in /v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model that it serves.")] = None,
    detector: Annotated[str | None, typer.Option(help="Grounding-DINO instead: folder or hub id.")] = None,
    least_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least score of a region; default .5, of a detector .35.")
    ] = None,
    processor: Annotated[str | None, typer.Option(help="As of `sayo map`: also store the regions' tokens.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also draw 12 rows with their regions, such as sheet.png.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Replies of the server to each question.")] = 3,
    coordinates: Annotated[
        Literal["thousand", "pixels"], typer.Option(help="How the server's model counts: 0 to 1000, or pixels.")
    ] = "thousand",
    api_key_env: Annotated[str, typer.Option(help="Variable of the server's key; may be unset.")] = "OPENAI_API_KEY",
    concurrency: Concurrency = 8,
    max_tokens: MaxTokens = 4096,
    temperature: Temperature = 0.7,
    seed: Seed = 0,
    timeout: Timeout = 300.0,
    max_failed: MaxFailed = 0.05,
    extra: Extra = "{}",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make the data set again if it is there.")] = False,
) -> None:
    """Find regions for prepared rows that have none. Boxes of models are guesses:
    look at a sheet before you train on them.

    A vision-language server is asked several times where the answer is to be
    seen; a box's score is how well the other replies agree with it (mean
    intersection over union). A detector is given question and answer, and has
    scores of its own. Rows keep regions that they have.

    Example:

        sayo ground data/mine --out data/mine-grounded --sheet sheet.png \\
            --server http://localhost:8000/v1 --model Qwen3-VL-32B

    The column grounding says who found a row's regions, with their scores. Rows
    for which nothing is found are kept without a region; those that could not
    be asked are rejected (OUT/rejected.jsonl). The same command resumes a run
    that was stopped; with --overwrite, failed rows are asked again, and no
    answer in OUT/journal.jsonl is asked for twice.

    Exit status: 0; 1 when more than --max-failed of the rows failed at the
    server; 2 when no row was kept, or the server or the input cannot be used.
    """
    from data_prep.cli import report_counts, token_mapper
    from data_prep.mapping import rewrite
    from data_prep.shards import JOURNAL
    from data_prep.synthesize.grounding import DetectorFinder, Grounding, ServerFinder
    from data_prep.synthesize.pipeline import failed_at_server
    from data_prep.synthesize.roles import ReplyJournal, Roles, clients_of
    from data_prep.workers import only_writer

    if bool(detector) == bool(server and model):
        raise SayoError("give --server and --model, or --detector")
    least_score = (0.35 if detector else 0.5) if least_score is None else least_score
    mapper = token_mapper(processor)
    settings = {
        "--grounded-by": detector or model,
        "--least-score": least_score,
        **(mapper.settings() if mapper else {}),
    }
    with ExitStack() as stack:
        stack.enter_context(only_writer(out))
        if detector:
            find, concurrency = DetectorFinder(detector, least_score), 1
        else:
            fields = {"max_tokens": max_tokens, "temperature": temperature, **_json_object(extra)}
            settings |= {"--samples": samples, "--coordinates": coordinates, "--seed": seed, **fields}
            clients = clients_of(["ground"], model, server, api_key_env, concurrency=concurrency, timeout=timeout)
            out.mkdir(parents=True, exist_ok=True)
            journal = stack.enter_context(ReplyJournal(out / JOURNAL))
            find = ServerFinder(Roles(clients, journal, seed, fields), samples, coordinates)
            stack.enter_context(_said_how_to_resume())
        change = Grounding(find, Path(detector).name if detector else model, least_score, concurrency, mapper)
        summary = rewrite(prepared, out, change, settings, "grounding", overwrite=overwrite)
    report_counts(summary, out)
    if sheet:
        from sayo.viz.inspection import pick_rows, prepared_files, save_rows

        typer.echo(save_rows(pick_rows(prepared_files(out), 12), sheet))
    failed = failed_at_server(summary["rejected_by_reason"])
    if failed > max_failed * summary["read"]:
        typer.secho(f"{failed} rows failed at the server; --overwrite asks them again", fg="yellow", err=True)
        raise typer.Exit(1)


@contextmanager
def _said_how_to_resume() -> Iterator[None]:
    from data_prep.workers import Stopped
    from sayo.client import ServerUnusable

    try:
        yield
    except ServerUnusable as error:
        raise ServerUnusable(f"{error}. What was answered is kept: the same command resumes.") from None
    except KeyboardInterrupt:
        raise Stopped("what was answered is kept: the same command resumes") from None


def _json_object(text: str) -> dict[str, Any]:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(dict[str, Any]).validate_json(text)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise SayoError(f'--extra must be a JSON object such as {{"top_p": 0.9}}; {text}: {why}') from None


def _report(summary: dict[str, Any], out: Path, max_failed: float) -> None:
    reasons = ", ".join(f"{name} {count}" for name, count in summary["rejected_by_reason"].items())
    typer.echo(f"{summary['kept']} of {summary['read']} rows kept; rejected: {reasons or 'none'}")
    if total := summary["tokens"].get("total"):
        tokens = f"{total['prompt_tokens']:,} prompt and {total['completion_tokens']:,} completion tokens"
        typer.echo(f"{total['answers']:,} answers so far, {tokens}")
        if uncounted := total["answers_without_counts"]:
            typer.secho(f"{uncounted:,} answers came without counts: the sums are too small", fg="yellow", err=True)
    failed = summary["failed"]
    if failed:
        typer.secho(f"{failed} rows failed at the server; the same command asks them again", fg="yellow", err=True)
    if summary["kept"] == 0:
        raise SayoError(f"nothing was kept; {out / 'rejected.jsonl'} says why for each row")
    typer.echo(f"{out}")
    if failed > max_failed * summary["read"]:
        raise typer.Exit(1)
