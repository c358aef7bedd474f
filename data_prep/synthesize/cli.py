"""`sayo synthesize` (mounted by sayo.cli). Heavy imports stay inside the commands."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sayo.errors import SayoError


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
    concurrency: Annotated[int, typer.Option(min=1, help="Rows at once.")] = 8,
    tries: Annotated[int, typer.Option(min=1, help="Samples of a step before a row is given up.")] = 2,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Of one answer; a longer one rejects the row as `truncated`.")
    ] = 4096,
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    seed: Annotated[int, typer.Option(help="Sent with every request; another one draws other samples.")] = 0,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for one request; failed ones are sent 6 times.")
    ] = 300.0,
    max_overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Share of 5-grams that a completion may share with an earlier one.")
    ] = 0.8,
    max_failed: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows that may fail at the server with exit status 0.")
    ] = 0.05,
    extra: Annotated[
        str, typer.Option(help='JSON put into every request; null takes a field out: {"temperature": null}.')
    ] = "{}",
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
    clients = clients_of(ROLES[method], model, server, api_key_env, timeout=timeout, patience=max(20, 2 * concurrency))
    fields = {"max_tokens": max_tokens, "temperature": temperature, **_json_object(extra)}
    ask = partial(Roles, clients, seed=seed, fields=fields)
    name, write, suffix = writer_of(method, style, tries)
    models = {role: client.model for role, client in clients.items()}
    kwargs = {"suffix": suffix, "num_workers": concurrency, "max_overlap": max_overlap}
    kwargs["settings"] = {"method": name, "models": models, "tries": tries, "seed": seed, **fields}
    with _said_how_to_resume():
        summary = synthesize_rows(PreparedRows(prepared, split, limit), out, write, ask, **kwargs)
    _report(summary, out, max_failed)


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
