"""Does a right answer attend to the image rather than to the system prompt? AVAR's visual reward."""

from typing import Any

from sayo.attention.trace import AttentionTrace, Rows
from sayo.metrics.avar import Order, vas
from sayo.rewards.accuracy import accuracy_reward


def visual_share_reward(
    completions: list,
    attention: list[AttentionTrace | None],
    solution: list,
    answers: list | None = None,
    rows: Rows = "of_token",
    anchor: str = "system",
    order: Order = "heads_first",
    bound: bool = True,
    eps: float = 1e-6,
    whole_text: bool = False,
    **kwargs: Any,
) -> list[float | None]:
    """AVAR's VARS: 0 for a wrong answer, else image mass / system mass over the response, squashed to [0, 1).

    The published ratio is unbounded (10 to 19 for panoramic models) and would dominate an accuracy reward of 1;
    `bound` maps it to `x / (1 + x)`. Source: AVAR (arXiv 2603.03825), weight 0.3 beside accuracy.

    Args:
        completions, solution, answers, whole_text: as in `accuracy_reward`, which is the gate.
        attention: B traces with the groups `"image"` and `anchor`.
        anchor: key group of the denominator: `"system"` (the words of the system prompt), or `"prefix"` (every token
            before the image) for prompts without one.
        order: what is averaged before the division (heads always are; see `metrics.avar.vas`).
        bound: False: the published form.

    Returns:
        None without an image, an anchor token, a response token or a reference answer.

    Raises:
        KeyError: `anchor` was not captured: an unknown group, or a system prompt that the chat template omitted.
    """
    correct = accuracy_reward(completions, solution, answers, whole_text)
    rewards: list[float | None] = []
    for trace, right in zip(attention, correct, strict=True):
        without_image = trace is None or len(trace) == 0 or not trace.sizes.get("image")
        if right is None or without_image or trace.sizes.get(anchor) == 0:
            rewards.append(None)
        elif right == 0:
            rewards.append(0.0)
        else:
            share = vas(*(trace.mass(group, rows)[:, None] for group in ("image", anchor)), order, eps)
            rewards.append(share / (1.0 + share) if bound else share)
    return rewards
