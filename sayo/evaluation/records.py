"""One question's line of `samples.jsonl`: what was answered, whether it was right, and where each response looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sayo.answers.extract import parse_look_back
from sayo.attention.trace import AttentionTrace
from sayo.evaluation.scoring import grade
from sayo.metrics import attention_trend, lift, pooled_attention, region_ratio, region_score, tas, token_weights, vas


@dataclass(frozen=True)
class Reply:
    """One response to one question, or why there is none.

    Attributes:
        text: the response, None where asking failed.
        error: kind of the failure ("image", "row", "processor", "http 500", "timeout", "garbage", ...).
        message: what happened, for people.
        length: tokens, where known.
        truncated: it was cut off at the limit of new tokens.
        trace: its attention, where read.
        other_layers: that of the layers which `trace` leaves out.
        offsets: `(start, end)` characters of each token of `text`, for spans of the response.
    """

    text: str | None = None
    error: str | None = None
    message: str | None = None
    length: int | None = None
    truncated: bool = False
    trace: AttentionTrace | None = field(default=None, repr=False)
    other_layers: AttentionTrace | None = field(default=None, repr=False)
    offsets: Sequence[tuple[int, int]] | None = field(default=None, repr=False)


ATTENTION = (
    "tas",
    "tas_of_token",
    "region_score",
    "region_ratio",
    "rrar",
    "vas",
    "look_back_lift",
    "image_mass",
    "entropy",
)
"""Attention values of a response, in the order in which they are reported."""


def question_record(row: Mapping[str, Any], replies: Sequence[Reply], scorer: str) -> dict[str, Any]:
    """The record of a question that was asked.

    A failed reply has `correct` None and is no wrong answer; a response without an answer is wrong, and `answers`
    holds None for it. Attention values are means over the responses, None where nothing defines them; the single
    ones are under `responses`.
    """
    grades = [grade(reply.text, row, scorer) if reply.text is not None else None for reply in replies]
    responses = [{**response_values(reply), "tas_by_layer": tas_by_layer(reply)} for reply in replies]
    correct = [one.score if one else None for one in grades]
    means = {name: _mean([values[name] for values in responses]) for name in ATTENTION}
    return {
        "id": row["id"],
        "index": row.get("index"),
        "question": row["question"],
        "question_type": row["question_type"],
        "solution": row["solution"],
        "completions": [reply.text for reply in replies],
        "answers": [one.answer if one else None for one in grades],
        "correct": correct,
        "accuracy": _mean(correct),
        **means,
        "length": _mean([None if reply.length is None else float(reply.length) for reply in replies]),
        "truncated": sum(reply.truncated for reply in replies),
        "errors": [{"kind": reply.error, "message": reply.message} for reply in replies if reply.error],
        "responses": responses if any(means[name] is not None for name in ATTENTION) else [],
        "regions": [{"box": region["box"], "role": region["role"]} for region in row.get("regions") or []],
        "regions_dropped": row.get("regions_dropped", 0),
        "image_size": row["image_sizes"][0] if row.get("image_sizes") else None,
        "groups": row.get("groups") or {},
        "image": None,
        "map": None,
    }


def failed_record(index: int, question_id: str, kind: str, message: str) -> dict[str, Any]:
    """The record of a row that could not even be asked."""
    empty = {"id": question_id, "question": "", "question_type": "(not asked)", "solution": None, "image_sizes": []}
    return question_record({**empty, "index": index}, [Reply(error=kind, message=message)], "reward")


def response_values(reply: Reply) -> dict[str, float | None]:
    """Attention values of one response (see `ATTENTION`); None where they are not defined.

    `tas`, `tas_of_token`, `region_score`, `region_ratio`, `image_mass`: SAYO's, over its 30% most uncertain tokens
    (`tas_of_token` by the rows of the tokens, all others by the rows that decided them). `rrar`: VRGA's ratio, of the
    last row of the prompt. `vas`: AVAR's, response rows, mean of ratios over heads-averaged masses, against everything
    before the first visual token. `look_back_lift`: Look-Back's, mean over `<back>` spans. `entropy`: mean, nats.
    """
    values: dict[str, float | None] = dict.fromkeys(ATTENTION)
    trace = reply.trace
    if trace is None or len(trace) == 0:
        return values
    values["entropy"] = float(trace.entropy.mean())
    if not trace.sizes.get("image"):
        return values
    if trace.sizes.get("prefix"):
        values["vas"] = vas(*(trace.mass(group, "deciding")[:, None] for group in ("image", "prefix")))
        values["look_back_lift"] = _look_back(reply, trace)
    if trace.has_region:
        one, own = pooled_attention(trace, "deciding"), pooled_attention(trace, "of_token")
        prompt_end = [
            float(trace.mean(group, "deciding")[:, 0].astype(np.float64).mean()) for group in ("region", "image")
        ]
        values |= {
            "tas": tas(one.region, one.image),
            "tas_of_token": tas(own.region, own.image),
            "region_score": region_score(one.region, one.image),
            "region_ratio": region_ratio(one.region, one.image),
            "rrar": region_ratio(*prompt_end),
            "image_mass": one.image_mass,
        }
    return {name: None if value is None else float(value) for name, value in values.items()}


def tas_by_layer(reply: Reply) -> dict[str, float]:
    """Decoder layer -> TAS of that layer alone, at the rows and tokens of `tas`; empty where it is not defined."""
    found: dict[int, float] = {}
    for trace in (reply.trace, reply.other_layers):
        if trace is None or len(trace) == 0 or not trace.has_region:
            continue
        weights = token_weights(trace.entropy)
        target, image = (trace.mean(group, "deciding").astype(np.float64) @ weights for group in ("region", "image"))
        # A sliding window that has left the image behind looks at nothing: no preference would be a wrong answer.
        found |= {layer: float(tas(a, v)) for layer, a, v in zip(trace.layers, target, image, strict=True) if v > 0}
    return {str(layer): found[layer] for layer in sorted(found)}


def grid_map(values: np.ndarray, cells: Any) -> np.ndarray:
    """`(N,)` -> `(rows, columns)` for a single-grid layout; one row of all tokens for any other."""
    if cells.grid is None:
        return values[None].astype(np.float32)
    columns, rows = cells.grid
    return values.reshape(rows, columns).astype(np.float32)


def _look_back(reply: Reply, trace: AttentionTrace) -> float | None:
    from sayo.metrics import token_span

    spans = parse_look_back(reply.text or "").spans
    if not spans or reply.offsets is None:
        return None
    series = attention_trend({"image": trace.mass("image", "deciding")}, trace.mass("prefix", "deciding"))["image"]
    return _mean(lift(series, [token_span(span, reply.offsets) for span in spans]))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
