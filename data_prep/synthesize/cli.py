"""`sayo synthesize` (mounted by sayo.cli). Heavy imports stay inside the commands."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

synthesize_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Let models behind an OpenAI-compatible server write training data for supervised tuning.",
)

Prepared = Annotated[Path, typer.Argument(metavar="PREPARED", help="Folder that `sayo prepare` wrote.")]
Out = Annotated[Path, typer.Option(help="Folder for the data, summary.json, rejects.jsonl and journal.jsonl.")]
Server = Annotated[str, typer.Option(help="Base address, ending in /v1. One for all roles, or ROLE=URL,ROLE=URL.")]
KeyEnv = Annotated[
    str, typer.Option(help="Environment variable that holds the key (or ROLE=VARIABLE,...); may be unset.")
]
Split = Annotated[str, typer.Option(help="Split to read and write.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many rows. Try 20 before you pay for all.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Rows at once.")]
PriceIn = Annotated[str | None, typer.Option(help="Price per million prompt tokens, or ROLE=PRICE,...")]
PriceOut = Annotated[str | None, typer.Option(help="Price per million completion tokens, or ROLE=PRICE,...")]
Tries = Annotated[int, typer.Option(min=1, help="Samples of a step before a row is given up.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Of one answer; a longer one rejects the row as `truncated`.")]
Temperature = Annotated[float, typer.Option(min=0)]
Seed = Annotated[int, typer.Option(help="Sent with every request; another one draws other samples.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one request; failed ones are sent 6 times.")]
MaxOverlap = Annotated[
    float, typer.Option(min=0, max=1, help="Share of 5-grams with an earlier completion that is no near duplicate.")
]
Extra = Annotated[
    str, typer.Option(help='JSON put into every request; null takes a field out, as in {"temperature": null}.')
]


@synthesize_app.command("visual-anchors")
def visual_anchors(
    prepared: Prepared,
    out: Out,
    server: Server,
    describe_model: Annotated[str, typer.Option(help="Sees the image and describes it (a strong VLM).")],
    reason_model: Annotated[str, typer.Option(help="Sees only that text and reasons (a strong LLM).")],
    anchor_model: Annotated[str, typer.Option(help="Rewrites the reasoning with visual anchors (an LLM).")],
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    split: Split = "train",
    limit: Limit = None,
    concurrency: Concurrency = 8,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    tries: Tries = 2,
    max_tokens: MaxTokens = 4096,
    temperature: Temperature = 0.7,
    seed: Seed = 0,
    timeout: Timeout = 300.0,
    max_overlap: MaxOverlap = 0.8,
    extra: Extra = "{}",
) -> None:
    """AVAR's data: reasoning that keeps looking back at the image.

    Three roles: [bold]describe[/] sees the image and writes down everything in it;
    [bold]reason[/] sees only that text and reasons; [bold]anchor[/] rewrites the
    reasoning with visual anchors ("look back at the triangle").

    Example:

        sayo synthesize visual-anchors data/gqa --out data/anchors \\
            --server http://localhost:8000/v1 --limit 20 \\
            --describe-model Qwen/Qwen3-VL-32B-Instruct \\
            --reason-model Qwen/Qwen3-32B --anchor-model Qwen/Qwen3-32B

    Several servers: --server describe=URL,reason=URL,anchor=URL

    Kept: rows with the right answer and an anchor after the first third,
    without a word about the description, no near duplicates. The others are
    counted by reason in OUT/summary.json and listed in OUT/rejects.jsonl.

    A run that was stopped goes on when the same line is typed again: every
    answer is kept in OUT/journal.jsonl and never paid for twice. Rows that
    failed at the server are asked again.

    OUT holds the prepared columns and `completion`: TRL's prompt-completion
    format, for an SFT recipe with data.path=OUT.

    Exit status: 0 when rows were kept, 2 when none was, or the server or the
    input cannot be used.
    """
    from data_prep.synthesize.visual_anchors import ROLES, VisualAnchors

    models = {"describe": describe_model, "reason": reason_model, "anchor": anchor_model}
    settings = {"kind": "visual-anchors", "models": models, "tries": tries}
    _run(prepared, out, ROLES, models, lambda roles: VisualAnchors(roles, tries), settings, locals())


@synthesize_app.command("look-back")
def look_back(
    prepared: Prepared,
    out: Out,
    server: Server,
    back_model: Annotated[str, typer.Option(help="Sees image and right answer and writes the check (a strong VLM).")],
    style: Annotated[
        Literal["semantic", "solution"],
        typer.Option(help="The check stands in the midst of the reasoning, or after a preliminary answer."),
    ] = "semantic",
    cot_model: Annotated[str | None, typer.Option(help="Samples the chain of thought (your policy, served).")] = None,
    cots: Annotated[
        Path | None, typer.Option(help="Or: chains of thought, as samples.jsonl of `sayo evaluate`.", dir_okay=False)
    ] = None,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    split: Split = "train",
    limit: Limit = None,
    concurrency: Concurrency = 8,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    tries: Tries = 2,
    max_tokens: MaxTokens = 4096,
    temperature: Temperature = 0.7,
    seed: Seed = 0,
    timeout: Timeout = 300.0,
    max_overlap: MaxOverlap = 0.8,
    extra: Extra = "{}",
) -> None:
    """Look-Back's data: a chain of thought with a <back> check.

    A chain of thought comes from --cot-model (your policy, served) or from a
    file (--cots). --back-model is shown image, question, chain and right
    answer, and puts a check against the image into it.

    Example:

        sayo synthesize look-back data/gqa --out data/back \\
            --server http://localhost:8000/v1 --style semantic --limit 20 \\
            --cot-model Qwen/Qwen2.5-VL-7B-Instruct \\
            --back-model Qwen/Qwen3-VL-32B-Instruct

    Kept: rows with one well-formed check of ten words or more that names
    something to be seen, with the right answer boxed, and no hint that the
    answer was given. Their prompts carry the instruction of the style, which
    RL must use, too: sayo.prompts.USER_SUFFIX.

    It goes on, counts and exits like visual-anchors.
    """
    from data_prep.synthesize.look_back import LookBack, read_chains

    if (cot_model is None) == (cots is None):
        raise typer.BadParameter("give either --cot-model or --cots: the chains of thought come from one of them")
    models = {"back": back_model, **({"cot": cot_model} if cot_model else {})}
    settings = {"kind": f"look-back {style}", "models": models, "tries": tries, "cots": cots.name if cots else None}

    def writer(roles):
        return LookBack(roles, style, read_chains(cots) if cots else None, tries)

    _run(prepared, out, tuple(models), models, writer, settings, locals())


def _run(
    prepared: Path,
    out: Path,
    names: Sequence[str],
    models: dict[str, str],
    make_writer: Callable[[Any], Any],
    settings: dict[str, Any],
    options: dict[str, Any],
) -> None:
    import logging

    # Answers are compared in threads, where its alarm cannot ring; sayo.rewards refuses what is heavy beforehand.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    with _one_line_errors():
        from data_prep.synthesize.journal import Journal
        from data_prep.synthesize.pipeline import JOURNAL, check_folders, synthesize
        from data_prep.synthesize.roles import Roles
        from data_prep.synthesize.rows import count_rows
        from data_prep.workers import progress_bar

        extra = _json_object(options["extra"])
        sampling = {name: options[name] for name in ("max_tokens", "temperature", "seed")}
        asked = _roles(names, models, options)
        check_folders(prepared, out)
        total = count_rows(prepared, options["split"], options["limit"])
        with Journal(out / JOURNAL) as journal, progress_bar(total, "asking") as (advance, say):
            if len(journal):
                say(f"going on: {len(journal)} answers are in {out / JOURNAL} already")
            summary = synthesize(
                prepared,
                out,
                make_writer(Roles(asked, journal, **sampling, extra=extra)),
                **{name: options[name] for name in ("split", "limit", "concurrency", "max_overlap")},
                settings={**settings, **sampling, "extra": extra},
                on_row=lambda: advance(1),
            )
    _report(summary, out)


def _roles(names: Sequence[str], models: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
    import os

    from data_prep.synthesize.client import ChatClient
    from data_prep.synthesize.roles import Role

    servers, keys = (_by_role(options[name], names, name) for name in ("server", "api_key_env"))
    prices = [
        {role: _price(value) for role, value in _by_role(options[name], names, name).items()} for name in _PRICES
    ]
    return {
        role: Role(
            ChatClient(servers[role], api_key=os.environ.get(keys[role]), timeout=options["timeout"]),
            models[role],
            *(price[role] for price in prices),
        )
        for role in names
    }


_PRICES = ("price_in", "price_out")


def _by_role(value: str | None, roles: Sequence[str], option: str) -> dict[str, str | None]:
    """ "x" for all roles, or "describe=x,reason=y"."""
    parts = [part.partition("=") for part in (value or "").split(",")]
    if not any(name in roles for name, equals, _ in parts if equals):
        return dict.fromkeys(roles, value)
    given = {name: text for name, _, text in parts}
    if set(given) != set(roles):
        raise ValueError(
            f"--{option.replace('_', '-')} {value}: give one value, or one for each of {', '.join(roles)}"
        )
    return given


def _price(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        price = float(value)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise ValueError(f"{value!r} is no price; give a number per million tokens, such as 0.15")
    return price


def _json_object(text: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--extra is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError('--extra must be a JSON object such as {"top_p": 0.9}')
    return value


@contextmanager
def _one_line_errors() -> Iterator[None]:
    from data_prep.examples import PrepareError
    from data_prep.synthesize.client import ServerUnusable

    try:
        yield
    except (PrepareError, ServerUnusable, OSError, ValueError) as error:
        line = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
        more = " What was answered is kept: the same command goes on." if isinstance(error, ServerUnusable) else ""
        typer.secho(f"error: {line}{more}", fg="red", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.secho("stopped; what was answered is kept: the same command goes on", fg="yellow", err=True)
        raise typer.Exit(130) from None


def _report(summary: dict, out: Path) -> None:
    reasons = ", ".join(f"{name} {count}" for name, count in summary["rejected_by_reason"].items())
    total = summary["cost"]["total"]
    cost = f", cost {total['cost']:.4g}" if total.get("cost") is not None else ""
    typer.echo(f"{summary['kept']} of {summary['read']} rows kept; rejected: {reasons or 'none'}")
    tokens = f"{total.get('prompt_tokens', 0):,} prompt and {total.get('completion_tokens', 0):,} completion tokens"
    typer.echo(f"{total.get('calls', 0):,} answers so far, {tokens}{cost}")
    if uncounted := total.get("calls_without_counts"):
        typer.secho(
            f"{uncounted:,} answers came without a count of tokens: the sums are too small", fg="yellow", err=True
        )
    if failed := summary["rejected_by_reason"].get("server_error"):
        typer.secho(f"{failed} rows failed at the server; the same command asks them again", fg="yellow", err=True)
    if summary["kept"] == 0:
        typer.secho(f"error: nothing was kept; {out / 'rejects.jsonl'} says why for each row", fg="red", err=True)
        raise typer.Exit(2)
    typer.echo(f"{out}")
