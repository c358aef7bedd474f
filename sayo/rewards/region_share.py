"""How much of the attention on the image lies on the region? Saliency-R1's reward, read from attention."""

from typing import Any

from sayo.attention.trace import AttentionTrace, Rows
from sayo.metrics.region import Select
from sayo.rewards.format import format_reward
from sayo.rewards.region_attention import pooled_regions


def region_share_reward(
    completions: list,
    attention: list[AttentionTrace | None],
    rows: Rows = "deciding",
    select: Select = "all",
    top_share: float = 0.3,
    think: bool = False,
    **kwargs: Any,
) -> list[float | None]:
    """Attention on the region / attention on the image, in [0, 1]; 0 without a well-formed answer.

    Source: Saliency-R1 (arXiv 2604.04500), whose saliency maps decompose the logits and follow the answer back through
    the reasoning; this takes the attention of the rows instead, so it is a neighbour and no reproduction.

    Args:
        completions: B completions (messages or strings).
        attention: B traces, or None.
        rows, select, top_share: as of `region_attention_reward`.
        think: as of `format_reward`, which decides what is well-formed.

    Returns:
        None without a region, without a token, and where the image gets no attention at all.
    """
    well_formed = format_reward(completions, min_tokens=None, max_tokens=None, think=think)
    pooled = pooled_regions(completions, attention, rows, select, top_share)
    return [
        formed * of_row.region_mass / of_row.image_mass if of_row is not None and of_row.image_mass > 0 else None
        for of_row, formed in zip(pooled, well_formed, strict=True)
    ]
