r"""Does the response stop to look back at the image? Look-Back's format.

Source: Look-Back (arXiv 2507.03019): `<think>...</think> <back>...</back> <think>...</think> \boxed{...}`. Its reward
was never released; this one pays the format once, never by the number of spans.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sayo.rewards.text import boxed_answer, completion_text

_TAG = re.compile(r"<(/?)(think|back)>")
_STRICT = ["<think>", "</think>", "<back>", "</back>", "<think>", "</think>"]


class LookBack(NamedTuple):
    r"""What a response does with `<back>`.

    Attributes:
        strict: exactly think, back, think, with nothing but white space around and between them, all non-empty, and
            then a non-empty `\boxed{}`.
        lenient: at least one complete, non-empty back span, and a non-empty `\boxed{}`.
        spans: half-open character spans of the insides of complete back spans.
    """

    strict: bool
    lenient: bool
    spans: list[tuple[int, int]]


def parse_look_back(text: str) -> LookBack:
    """Read the tags of a response (linear in its length). A truncated span is no span."""
    tags = list(_TAG.finditer(text))
    spans, opened = [], None
    for tag in tags:
        if tag[2] != "back":
            continue
        if tag[1]:
            if opened is not None:
                spans.append((opened.end(), tag.start()))
            opened = None
        else:
            opened = tag
    boxed = bool((boxed_answer(text) or "").strip())
    lenient = boxed and any(text[start:end].strip() for start, end in spans)
    strict = lenient and [tag[0] for tag in tags] == _STRICT and _well_spaced(text, tags)
    return LookBack(strict, lenient, spans)


def _well_spaced(text: str, tags: list[re.Match[str]]) -> bool:
    outside = [text[: tags[0].start()]] + [text[tags[i].end() : tags[i + 1].start()] for i in (1, 3)]
    inside = [text[tags[i].end() : tags[i + 1].start()] for i in (0, 2, 4)]
    answered = (boxed_answer(text[tags[-1].end() :]) or "").strip()
    return not any(part.strip() for part in outside) and all(part.strip() for part in inside) and bool(answered)


def look_back_reward(completions: list, strict: bool = True, min_words: int = 10, **kwargs: Any) -> list[float]:
    """1.0 for a response in the Look-Back format whose first span holds at least `min_words` words, else 0.0.

    Args:
        completions: B completions (messages or strings).
        strict: the whole format; False: any complete span and a boxed answer.
        min_words: so that an empty ritual earns nothing.
    """
    rewards = []
    for completion in completions:
        text = completion_text(completion)
        found = parse_look_back(text)
        formatted = found.strict if strict else found.lenient
        rewards.append(float(formatted and len(text[slice(*found.spans[0])].split()) >= min_words))
    return rewards
