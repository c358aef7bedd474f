"""Is the answer in tags and the response within the length window? SAYO's format reward."""

import re
from typing import Any

from sayo.answers.extract import completion_text, tagged_answer

_THINK = re.compile(r"<think>.*</think>\s*<answer>.*</answer>", re.DOTALL)


def format_reward(
    completions: list,
    completion_ids: list[list[int]] | None = None,
    min_tokens: int | None = 60,
    max_tokens: int | None = 100,
    outside: float = 0.6,
    require_reasoning: bool = False,
    think: bool = False,
    **kwargs: Any,
) -> list[float]:
    """1 for a well-formed answer, less if the response is shorter or longer than the window.

    `[one non-empty <answer>...</answer>] * (outside * max / n above the window) * (outside * n / min below it)`. The
    step at the window's edge (1.0 at `n = max`, 0.6 just above) is the release's.
    Source: SAYO, `train/reward/format_rewards.py` of the public release; stricter here: a second tag scores 0.

    Args:
        completions: B completions (messages or strings).
        completion_ids: B lists of token ids including the end of sequence, as TRL passes them; their lengths are `n`.
        min_tokens, max_tokens: the window, inclusive; None for no bound.
        outside: factor at the window's edge.
        require_reasoning: score 0 unless a word precedes the answer.
        think: score 0 unless the whole response is `<think>...</think>`, white space or nothing, and the answer in its
            tags (AVAR, arXiv 2603.03825).

    Raises:
        ValueError: a window without `completion_ids`.
    """
    if completion_ids is None:
        if min_tokens or max_tokens:
            raise ValueError("the length window counts tokens: pass completion_ids, or set min_tokens=max_tokens=None")
        completion_ids = [[]] * len(completions)
    return [
        _well_formed(completion_text(completion), require_reasoning, think)
        * _length_factor(len(ids), min_tokens, max_tokens, outside)
        for completion, ids in zip(completions, completion_ids, strict=True)
    ]


def _well_formed(text: str, require_reasoning: bool, think: bool) -> float:
    if think and not _THINK.fullmatch(text):
        return 0.0
    answer = tagged_answer(text)
    answered = answer.tags == 2 and bool((answer.content or "").strip())
    return float(answered and (not require_reasoning or re.search(r"\w", text[: answer.start]) is not None))


def _length_factor(n: int, min_tokens: int | None, max_tokens: int | None, outside: float) -> float:
    above = outside * max_tokens / n if max_tokens and n > max_tokens else 1.0
    below = outside * n / min_tokens if min_tokens and n < min_tokens else 1.0
    return above * below
