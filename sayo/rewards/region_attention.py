"""Does the response look at the region that contains the answer? SAYO's attention reward."""

from typing import Any

from sayo.attention.trace import AttentionTrace, Rows
from sayo.metrics.region import RegionAttention, Select, pooled_attention, region_score, tas


def region_attention_reward(
    completions: list,
    attention: list[AttentionTrace | None],
    rows: Rows = "of_token",
    select: Select = "top_entropy",
    top_share: float = 0.3,
    eps: float = 1e-8,
    positive: bool = False,
    **kwargs: Any,
) -> list[float | None]:
    """`r_v = tanh(log((a + eps) / (v + eps)))` in (-1, 1); None without a region or without a token.

    `a` and `v` are the attention per region token and per visual token, averaged over heads, keys, captured layers
    and the selected response tokens *before* the ratio is taken: 0 means that the region gets its share, 0.6 twice
    its share. Source: SAYO (arXiv 2602.08241), reward of the high-entropy tokens; `k` is per response here.

    Args:
        completions: B completions (only their number is used).
        attention: B traces, or None.
        rows: which row reads token t: its own (as published) or the one that predicted it.
        select: which response tokens count (see `metrics.region.token_weights`).
        top_share: share of the tokens for `"top_entropy"`.
        eps: floor of both means.
        positive: return the target attention score `(1 + r_v) / 2` in (0, 1), so that in a gated reward a right
            answer never scores less than a wrong one, which scores 0.
    """
    score = tas if positive else region_score
    pooled = pooled_regions(completions, attention, rows, select, top_share)
    return [None if of_row is None else score(of_row.region, of_row.image, eps) for of_row in pooled]


def pooled_regions(
    completions: list, attention: list[AttentionTrace | None], rows: Rows, select: Select, top_share: float
) -> list[RegionAttention | None]:
    """`metrics.region.pooled_attention` of every completion; None without a region or without a token."""
    if len(attention) != len(completions):
        raise ValueError(f"{len(completions)} completions but {len(attention)} attention traces; one each is needed")
    return [
        pooled_attention(trace, rows, select, top_share)
        if trace is not None and trace.has_region and len(trace)
        else None
        for trace in attention
    ]
