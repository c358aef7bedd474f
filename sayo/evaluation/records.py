"""One question's line of `samples.jsonl`: what was answered, whether it was right, and where each response looked."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sayo import metrics
from sayo.answers.extract import extract_answer
from sayo.attention.trace import AttentionTrace
from sayo.metrics.lookback import mean_of_known
from sayo.rewards.accuracy import accuracy_reward


class Reply(NamedTuple):
    """One response to one question, or why there is none.

    Attributes:
        text: the response, None where asking failed.
        error: kind of the failure ("processor", "http 500", "timeout", "garbage", ...).
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
    trace: AttentionTrace | None = None
    other_layers: AttentionTrace | None = None
    offsets: Sequence[tuple[int, int]] | None = None


_OF_REGION = ("tas", "tas_of_token", "region_score", "region_ratio", "rrar", "image_mass")
ATTENTION = (*_OF_REGION, "vas", "look_back_lift", "entropy")
"""Attention values of a response, in the order in which they are reported."""

FAITHFULNESS = (
    "pointing", "pointing_sink_free", "energy", "energy_sink_free", "region_share", "insertion", "deletion",
    "accuracy_other_blank", "accuracy_region_blank", "use",
)  # fmt: skip
"""What `sayo evaluate --faithfulness` adds to a record; see `sayo.evaluation.faithfulness`."""


def question_record(row: Mapping[str, Any], replies: Sequence[Reply], whole_text: bool = False) -> dict[str, Any]:
    """The record of a question that was asked.

    Responses are judged as in training (`rewards.accuracy_reward`): `correct` holds scores in [0, 1], None where the
    row has no reference. A failed reply has `correct` None and is not a wrong answer; a response without an answer is
    wrong, and `answers` holds None for it. Attention values are means over the responses, None where nothing defines
    them; the single ones are under `responses`. `links`: of `links_of`; `prompt`: a digest.
    """
    texts = [reply.text or "" for reply in replies]
    columns = {"solution": row["solution"], "answers": row.get("answers"), "prompts": row.get("prompt")}
    columns["image_sizes"] = [image.size for image in row.get("images", ())]
    repeated = {name: [value] * len(texts) for name, value in columns.items()}
    scores = accuracy_reward(texts, **repeated, whole_text=whole_text)
    correct = [None if reply.text is None else score for reply, score in zip(replies, scores, strict=True)]
    responses = [{**response_values(reply), "tas_by_layer": tas_by_layer(reply)} for reply in replies]
    means = {name: mean_of_known([values[name] for values in responses]) for name in ATTENTION}
    return {
        "id": row["id"],
        "index": row.get("index"),
        "question": row["question"],
        "question_type": row["question_type"],
        "links": links_of(row),
        "prompt": hashlib.sha1(str(row.get("prompt")).encode(), usedforsecurity=False).hexdigest()[:16],
        "solution": row["solution"],
        "completions": [reply.text for reply in replies],
        "answers": [extract_answer(text, whole_text) or None for text in texts],
        "correct": correct,
        "accuracy": mean_of_known(correct),
        **means,
        "length": mean_of_known([reply.length for reply in replies]),
        "truncated": sum(reply.truncated for reply in replies),
        "errors": [{"kind": reply.error, "message": reply.message} for reply in replies if reply.error],
        "responses": responses if any(means[name] is not None for name in ATTENTION) else [],
        "regions": [{"box": region["box"], "role": region["role"]} for region in row.get("regions") or []],
        "regions_dropped": row.get("regions_dropped", 0),
        "image": None,
        "map": None,
    }


def links_of(row: Mapping[str, Any]) -> list[str]:
    """What makes questions one cluster (`intervals.clusters_of`): pixels of their pictures, their column `problem`."""
    pictures = [
        hashlib.sha1(image.tobytes(), usedforsecurity=False).hexdigest()[:16] for image in row.get("images", ())
    ]
    problem = row.get("problem")
    return [*pictures, *([] if problem is None else [f"problem {problem}"])]


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
    values["entropy"] = trace.entropy.mean()
    if trace.sizes.get("image"):
        weights = metrics.token_weights(trace.entropy)
        values["image_mass"] = metrics.pooled_mass(trace, "image", "deciding", weights)
    if trace.sizes.get("prefix"):
        values["vas"] = metrics.vas(*(trace.mass(group, "deciding")[:, None] for group in ("image", "prefix")))
        spans = metrics.back_spans(reply.text or "", reply.offsets or ())
        trend = metrics.attention_trend(trace, "deciding")
        values["look_back_lift"] = mean_of_known(metrics.lift(trend["image"], spans))
    if trace.has_region:
        deciding, of_token = metrics.pooled_attention(trace, "deciding"), metrics.pooled_attention(trace, "of_token")
        prompt_end = [trace.mean(group, "deciding")[:, 0].mean(dtype=np.float64) for group in ("region", "image")]
        values |= {
            "tas": metrics.tas(deciding.region, deciding.image),
            "tas_of_token": metrics.tas(of_token.region, of_token.image),
            "region_score": metrics.region_score(deciding.region, deciding.image),
            "region_ratio": metrics.region_ratio(deciding.region, deciding.image),
            "rrar": metrics.region_ratio(*prompt_end),
        }
    return {name: None if value is None else float(value) for name, value in values.items()}


def tas_by_layer(reply: Reply) -> dict[str, float]:
    """Decoder layer -> TAS of that layer alone, at the rows and tokens of `tas`; empty where it is not defined."""
    scores: dict[int, float] = {}
    for trace in (reply.trace, reply.other_layers):
        if trace is None or len(trace) == 0 or not trace.has_region:
            continue
        weights = metrics.token_weights(trace.entropy)
        region, image = (trace.mean(group, "deciding").astype(np.float64) @ weights for group in ("region", "image"))
        # A sliding window that has left the image behind looks at nothing: no preference would be a wrong answer.
        scores |= {layer: metrics.tas(a, v) for layer, a, v in zip(trace.layers, region, image, strict=True) if v > 0}
    return {str(layer): float(scores[layer]) for layer in sorted(scores)}
