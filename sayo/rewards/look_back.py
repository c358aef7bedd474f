r"""Does the response look back at the image explicitly? Look-Back's format.

Source: Look-Back (arXiv 2507.03019): `<think>...</think> <back>...</back> <think>...</think> \boxed{...}`. Its reward
was not released; this one scores the format once, regardless of the number of spans.
"""

from typing import Any

from sayo.answers.extract import completion_text, parse_look_back


def look_back_reward(completions: list, strict: bool = True, min_words: int = 10, **kwargs: Any) -> list[float]:
    """1.0 for a response in the Look-Back format whose first span has at least `min_words` words, else 0.0.

    Args:
        completions: B completions (messages or strings).
        strict: require the whole format; False: any complete span and a boxed answer.
    """
    rewards = []
    for completion in completions:
        text = completion_text(completion)
        look_back = parse_look_back(text)
        formatted = look_back.strict if strict else look_back.lenient
        rewards.append(float(formatted and len(text[slice(*look_back.spans[0])].split()) >= min_words))
    return rewards
