"""Does a right answer keep looking at the image until its end? A reward in the style of Reflection-V."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sayo.attention.trace import AttentionTrace, Rows
from sayo.metrics.reflection import half_means, late_attention
from sayo.rewards.accuracy import accuracy_reward


def late_attention_reward(
    completions: list,
    attention: list[AttentionTrace | None],
    solution: list,
    answers: list | None = None,
    rows: Rows = "of_token",
    floor: float = 0.1,
    min_tokens: int = 32,
    trim: int = 2,
    whole_text: bool = False,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """`min(1, m2 / max(m1, floor))` of a right answer, 0 for a wrong or a short one.

    `m1`, `m2`: mean attention mass on the image over the first and the second half of the response. Reflection-V
    (arXiv 2509.12132) did not publish its reward; the ratio is known from descriptions, and `floor` prevents reward
    hacking by looking less in the first half. Set it to the base model's `reflection/first_half`.

    Args:
        completions, solution, answers, whole_text: as in `accuracy_reward`, which is the gate.
        min_tokens: shorter responses score 0 (halves of a few tokens are meaningless).
        trim: number of tokens to drop at both ends.
        log_metric: TRL's hook; receives `reflection/first_half` and `reflection/second_half` per sufficiently long
            response.

    Returns:
        None without an image, a response token or a reference answer.

    Raises:
        ValueError: `min_tokens` leaves fewer than two tokens after trimming.
    """
    if min_tokens - 2 * trim < 2:
        raise ValueError(f"min_tokens={min_tokens} must exceed 2 * trim + 1 = {2 * trim + 1}")
    correct = accuracy_reward(completions, solution, answers, whole_text)
    rewards: list[float | None] = []
    for trace, right in zip(attention, correct, strict=True):
        if trace is None or right is None or not trace.sizes.get("image") or len(trace) == 0:
            rewards.append(None)
        elif len(trace) < min_tokens:
            rewards.append(0.0)
        else:
            series = trace.mass("image", rows).astype(np.float64).mean(axis=0)[trim : len(trace) - trim]
            if log_metric is not None:
                for half, mean in zip(("first_half", "second_half"), half_means(series), strict=True):
                    log_metric(f"reflection/{half}", mean)
            rewards.append(min(1.0, late_attention(series, floor)) if right else 0.0)
    return rewards
