"""Look-Back's attention trend: where each step of a response looks, and whether a `<back>` span looks back.

Source: Look-Back (arXiv 2507.03019), `vis_demo/att_trend_viz.py` of the public release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def attention_trend(masses: Mapping[str, np.ndarray], prefix: np.ndarray) -> dict[str, np.ndarray]:
    """Share of each key group in the attention outside the prefix, per step.

    The prefix (everything before the first visual token) contains the attention sink; excluding it makes the shares
    independent of the sink. They sum to less than 1 if some keys are in no group.

    Args:
        masses: group -> `(L, T)` attention mass, heads averaged ("image", "query", "generated").
        prefix: `(L, T)` mass on the prefix.

    Returns:
        group -> `(T,)` mean over layers of `mass / (1 - prefix)`; 0 for a layer that attends only to the prefix.
    """
    left = 1.0 - np.asarray(prefix, dtype=np.float64)
    return {
        group: np.divide(mass, left, out=np.zeros_like(left), where=left > 1e-12).mean(axis=0)
        for group, mass in masses.items()
    }


def token_span(characters: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Half-open token span that covers a character span.

    Computed from offsets, because a tag's characters merge with their neighbours into tokens like `><` and `.</`.

    Args:
        characters: half-open character span of the decoded response.
        offsets: `(start, end)` characters of each response token, ascending, as a fast tokenizer returns them.

    Returns:
        `(first, last + 1)` of the tokens that overlap the span; an empty span if there are none.
    """
    start, end = characters
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    return (inside[0], inside[-1] + 1) if inside else (len(offsets), len(offsets))


def lift(series: np.ndarray, spans: Sequence[tuple[int, int]], window: int = 20) -> list[float | None]:
    """Mean image attention of a span relative to the `window` steps before it.

    A lift above 1 does not prove that the tag caused it: compare with spans of text-only verification.

    Args:
        series: `(T,)` share of attention on the image.
        spans: half-open token spans `(start, end)`.

    Returns:
        One number per span; None if the span is empty, no step precedes it, or the preceding steps have no attention
        on the image.
    """
    series = np.asarray(series, dtype=np.float64)
    lifts: list[float | None] = []
    for start, end in spans:
        inside, before = series[start:end], series[max(0, start - window) : start]
        defined = len(inside) > 0 and len(before) > 0 and before.mean() > 0
        lifts.append(float(inside.mean() / before.mean()) if defined else None)
    return lifts
