"""Look-Back's attention trend: where each step of a response looks, and whether a `<back>` span looks back.

Source: Look-Back (arXiv 2507.03019), `vis_demo/att_trend_viz.py` of the public release.
"""

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from sayo.answers.extract import parse_look_back
from sayo.attention.trace import AttentionTrace, Rows

GROUPS = ("image", "question", "response")
Span = tuple[int, int]
"""Half-open range of response tokens."""


class LookBackLift(NamedTuple):
    """How much more the `<back>` spans of a response look at the image than the steps before them.

    Attention to the image decays, so `control` is usually below 1.
    """

    lift: float | None  # mean over spans of `lift`; None where it is not defined
    control: float | None  # the same over stretches of the same length elsewhere in the response; None without any
    gain: float | None  # lift / control: what the tag adds to what any stretch of this response does


def attention_trend(trace: AttentionTrace, rows: Rows = "of_token") -> dict[str, np.ndarray]:
    """Share of each key group in the attention that is left without the prefix, per response token.

    The prefix (everything before the first visual token) holds the attention sink; leaving it out of the denominator
    makes the shares independent of it. They sum to less than 1 where keys belong to no group.

    Args:
        trace: with the key group "prefix".
        rows: Look-Back's release reads the rows of the tokens.

    Returns:
        group -> `(T,)` float64, mean over layers of `mass / (1 - prefix)`, for those of `GROUPS` that were read; 0
        where a layer attends to the prefix only.
    """
    left = 1.0 - trace.mass("prefix", rows).astype(np.float64)
    return {
        group: np.divide(trace.mass(group, rows), left, out=np.zeros_like(left), where=left > 1e-12).mean(axis=0)
        for group in GROUPS
        if group in trace.masses
    }


def token_span(characters: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> Span:
    """Half-open span of the tokens that share a character with a half-open character span of the decoded response.

    By offsets, because a tag's characters merge with their neighbours into tokens like `><` and `.</`. An empty span
    at the end where no token does.

    Args:
        offsets: `(start, end)` characters of each response token, ascending, as a fast tokenizer returns them.
    """
    start, end = characters
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    return (inside[0], inside[-1] + 1) if inside else (len(offsets), len(offsets))


def back_spans(text: str, offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Token spans of every complete, non-empty `<back>...</back>`, without the tags.

    A token that holds a piece of the tag and a piece of the inside (`>I`) belongs to the span.
    """
    return [token_span(span, offsets) for span in parse_look_back(text).spans if text[slice(*span)].strip()]


def tag_spans(texts: Sequence[str]) -> dict[str, Span]:
    """Tag -> half-open token span of what the last `<tag>...</tag>` of a response encloses, the tags left out.

    `texts` are the texts of the tokens, which joined are the response; a token that holds a piece of both belongs.
    """
    offsets = list(pairwise(accumulate(map(len, texts), initial=0)))
    found = re.finditer(r"<(\w+)>((?:(?!<\1>).)*?)</\1>", "".join(texts), re.DOTALL)
    return {match[1]: token_span(match.span(2), offsets) for match in found}


def lift(series: np.ndarray, spans: Sequence[Span], window: int = 20) -> list[float | None]:
    """How much more a span looks than the steps before it: mean over the span / mean over the `window` steps before.

    One number per span; None where nothing precedes the span, the span is empty, or the steps before it do not look
    at the image at all. A lift above 1 does not prove that the tag did it: compare with spans of text-only
    verification. `series` is the `(T,)` share of attention on the image.
    """
    series = np.asarray(series, dtype=np.float64)
    lifts: list[float | None] = []
    for start, end in spans:
        inside, before = series[start:end], series[max(0, start - window) : start]
        defined = len(inside) > 0 and len(before) > 0 and before.mean() > 0
        lifts.append(float(inside.mean() / before.mean()) if defined else None)
    return lifts


def control_spans(span: Span, spans: Sequence[Span], num_tokens: int, window: int = 20) -> list[Span]:
    """All stretches of the response as long as `span` that, with the `window` before them, touch none of `spans`.

    A span that stands so early that its own window is shorter is compared with windows no shorter than that.

    What lift such stretches show is due to the course of attention alone. It does not show what more text does: for
    that, compare with responses to the text-only prompt (`sayo.prompts.USER_SUFFIX["text-back"]`).
    """
    length = span[1] - span[0]
    taken = np.zeros(num_tokens + 1, dtype=np.int64)
    for start, end in spans:
        taken[start + 1 : end + 1] = 1
    before = np.cumsum(taken)  # tokens of spans before a position
    first = max(1, min(window, span[0]))
    starts = np.arange(first, max(first, num_tokens - length + 1)) if length > 0 else np.arange(0)
    free = before[starts + length] == before[np.maximum(0, starts - window)]
    return [(int(start), int(start) + length) for start in starts[free]]


def look_back_lift(series: np.ndarray, spans: Sequence[Span], window: int = 20) -> LookBackLift:
    """Lift of the `back_spans` of one response, beside that of control spans of equal length.

    `series` is the share of the image, `attention_trend(trace)["image"]`; a span is compared with the `window` tokens
    before it, fewer at the start of the response.
    """
    lifts = lift(series, spans, window)
    controls = [
        mean_of_known(lift(series, control_spans(span, spans, len(series), window), window))
        for span, value in zip(spans, lifts, strict=True)
        if value is not None
    ]
    mean, control = mean_of_known(lifts), mean_of_known(controls)
    return LookBackLift(mean, control, mean / control if mean is not None and control else None)


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None without any."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
