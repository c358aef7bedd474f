"""Where a response looks, token by token: Look-Back's attention trend, its lift, control spans and the plot.

Source: Look-Back (arXiv 2507.03019), `vis_demo/att_trend_viz.py` of the public release. Differences: spans are found
by the characters of the response's own ids, any number of images, any end of the response; the arithmetic is
`sayo.metrics.lookback`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sayo.attention.trace import AttentionTrace, Rows
from sayo.metrics.lookback import attention_trend, lift, token_span

GROUPS = ("image", "question", "response")
COLORS = {"image": "#0072b2", "question": "#d55e00", "response": "#009e73"}  # Okabe and Ito's palette
SPAN_COLOR = "#e69f00"
Span = tuple[int, int]
"""Half-open range of response tokens."""


class Lift(NamedTuple):
    """How much more the `<back>` spans of a response look at the image than the steps before them.

    Attributes:
        spans: per span, mean share in it / mean share in the window before it; None where that is not defined.
        mean: of those that are defined; None without any.
        control: the same mean over stretches of the same length elsewhere in the response; None without any. Attention
            to the image decays, so this is usually below 1.
        gain: mean / control: what the tag adds to what any stretch of this response does.
    """

    spans: list[float | None]
    mean: float | None
    control: float | None
    gain: float | None


def trend(trace: AttentionTrace, rows: Rows = "of_token", prefix: str = "prefix") -> dict[str, np.ndarray]:
    """Share of image, question and response so far in the attention of each response token, without the prefix.

    Args:
        trace: with the group "image", the prefix, and what there is of "question" and "response" (keys of the response
            up to the row).
        rows: the reading; Look-Back's release reads the rows of the tokens. A trace read during `generate` has only
            `"deciding"`.
        prefix: the group that is left out of the denominator, because the sinks sit in it. It must hold every token
            before the first visual one (template markers included), as `sayo.attention.groups.prefix_weights` does.

    Returns:
        group -> `(T,)` float64: mean over layers of mass / (1 - prefix). They sum to less than 1: markers such as
        `<|vision_end|>` belong to no group.

    Raises:
        KeyError: the trace was read without the image or the prefix.
        ValueError: it has no rows of that reading.
    """
    masses = {group: trace.mass(group, rows) for group in GROUPS if group == "image" or group in trace.masses}
    return attention_trend(masses, trace.mass(prefix, rows))


def token_offsets(ids: Sequence[int], tokenizer: Any) -> tuple[str, list[Span]]:
    """The text of a response and the half-open character range of each of its ids, from the ids themselves.

    Tokenising the text again could cut it elsewhere, and then every index would be off. An id that ends within a
    character (bytes of an emoji) gets an empty range; the id that completes the character gets it. Special tokens stay
    in the text, for models in which the tags are special tokens.

    Args:
        ids: of the response, with or without an end of sequence.
        tokenizer: decodes them.
    """
    ids = [int(token) for token in ids]
    prefixes = [_decode(tokenizer, ids[:count]) for count in range(len(ids) + 1)]
    text = prefixes[-1]
    ends = np.array([_common(prefix, text) for prefix in prefixes])
    ends = np.minimum.accumulate(ends[::-1])[::-1].tolist()  # never back, whatever half characters decode to
    return text, list(pairwise(ends))


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _common(prefix: str, text: str) -> int:
    """Characters that a decoded prefix shares with the text: all, but for a half character at its end."""
    if text.startswith(prefix):
        return len(prefix)
    end = len(prefix.rstrip("\ufffd"))
    return end if text.startswith(prefix[:end]) else 0


def tag_spans(text: str, offsets: Sequence[Span], tag: str = "back") -> list[Span]:
    """Token spans of every complete, non-empty `<tag>...</tag>`, without the tags, in order; nested pairs count once.

    A token that holds a piece of the tag and a piece of the inside (`>I`) belongs to the span.
    """
    spans, opened = [], None
    for found in re.finditer(rf"<(/?){re.escape(tag)}>", text):
        if not found[1]:
            opened = found.end()
        elif opened is not None:
            if text[opened : found.start()].strip():
                spans.append(token_span((opened, found.start()), offsets))
            opened = None
    return spans


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


def look_back_lift(series: np.ndarray, spans: Sequence[Span], window: int = 20) -> Lift:
    """Lift of the spans of one response, beside that of control spans of equal length.

    Args:
        series: `(T,)` share of the image (`trend(trace)["image"]`).
        spans: `<back>` spans (`tag_spans`).
        window: tokens before a span that it is compared with; fewer at the start of the response.
    """
    lifts = lift(series, spans, window)
    controls = [
        _mean(lift(series, control_spans(span, spans, len(series), window), window))
        for span, value in zip(spans, lifts, strict=True)
        if value is not None
    ]
    mean, control = _mean(lifts), _mean(controls)
    return Lift(lifts, mean, control, mean / control if mean is not None and control else None)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def plot_trend(
    traces: Sequence[AttentionTrace],
    spans: Sequence[Sequence[Span]],
    path: str | Path,
    titles: Sequence[str] | None = None,
    rows: Rows = "of_token",
    prefix: str = "prefix",
) -> Path:
    """Draw the trend of each response below the other, `<back>` spans shaded, with their lift.

    Args:
        traces: one per response; see `trend`.
        spans: per response, its spans (`tag_spans`).
        path: of the picture; `.png` is put after a name without suffix.
        titles: per response.

    Returns:
        the path that was written.

    Raises:
        ValueError: nothing to draw, or lists of different lengths.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    titles = [f"response {number}" for number in range(1, len(traces) + 1)] if titles is None else titles
    if not traces or not len(traces) == len(spans) == len(titles):
        raise ValueError(f"{len(traces)} traces, {len(spans)} lists of spans, {len(titles)} titles: give one of each")
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".png")
    with rc_context({"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8.0, 2.4 * len(traces) + 0.6), layout="constrained")
        panels = figure.subplots(len(traces), squeeze=False)[:, 0]
        for axes, trace, own, title in zip(panels, traces, spans, titles, strict=True):
            _panel(axes, trend(trace, rows, prefix), own, title)
        panels[-1].set_xlabel("response token")
        panels[0].legend(loc="upper right", frameon=False, ncols=4)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return path


def _panel(axes: Any, series: dict[str, np.ndarray], spans: Sequence[Span], title: str) -> None:
    for group, values in series.items():
        axes.plot(np.arange(len(values)), values, color=COLORS[group], linewidth=1.3, label=group)
    for number, (start, end) in enumerate(spans):
        label = "<back>" if number == 0 else None
        axes.axvspan(start - 0.5, end - 0.5, color=SPAN_COLOR, alpha=0.25, linewidth=0, label=label)
    value = look_back_lift(series["image"], spans)
    if value.mean is not None:
        control = "" if value.control is None else f", control {value.control:.2f}"
        title = f"{title} (lift {value.mean:.2f}{control})"
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.5, max(len(series["image"]), 1) - 0.5)
    axes.set_ylabel("share without prefix", fontsize=9)
