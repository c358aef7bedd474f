r"""What a response answers: tags or a box first, then "the answer is ...", then a response that is only an answer.

An answer that cannot be told (two letters, "yes and no", no answer at all) is None: counted, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sayo.answers.compare import normalize
from sayo.answers.extract import boxed_answer, extract_answer, tagged_answer

LETTERS = "ABCDEFGHIJ"
_STATED = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s+(?:here|to\s+(?:the|this)\s+question))?"
    r"(?:\s+(?:is|would\s+be|should\s+be|must\s+be)\b(?!\s+not\b)\s*:?|\s*[:：=])\s*"
    r"|\bI(?:\s+(?:would|will)|['’](?:d|ll))?\s+(?:choose|pick|select|go\s+(?:with|for))\s+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\n|(?<!\bSt)(?<!\bMr)(?<!\bDr)(?<!\bMrs)[.!?](?=\s+[A-Z]|\s*$)")
_MARKUP = re.compile(r"\*\*|__|`|\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_LABEL = re.compile(
    r"(?:option\s+|choice\s+|answer\s+)?[(\[]?([A-J])(?:[)\]]|[.:,;](?=\s|$)|(?=\s*(?:\n|$)))", re.IGNORECASE
)
_LETTER_THEN_REASON = re.compile(r"(?:option\s+)?([A-J])\s+(?:because|since|is\s+(?:the\s+)?(?:correct|right))\b")
_CALLED_RIGHT = re.compile(r"(?<![A-Za-z])[(\[]?([A-J])[)\]]?\s+is\s+(?:the\s+)?(?:correct|right|best)\b")
_BRACKETED = re.compile(r"[(\[]([A-J])[)\]]")
_SEVERAL_LETTERS = re.compile(
    r"^\W*(?:(?:options?|both|either)\s+)?\(?[A-J]\)?\s*(?:,|or|and|/|&)\s*(?:or\s+|and\s+|option\s+)?\(?[A-J]\b"
)
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+−]?(?<!\d)\.\d+")
_BEFORE_A_NUMBER = re.compile(r"\s*(?:(?:about|around|approximately|roughly|nearly|usd|eur)\s+|[~≈$€£])*\s*", re.I)
_UNIT = re.compile(r"\s*(?:%|percent\b|thousand\b|million\b|billion\b|trillion\b)", re.IGNORECASE)
_MAGNITUDES = {"thousand": 1e3, "k": 1e3, "million": 1e6, "m": 1e6, "billion": 1e9, "b": 1e9, "trillion": 1e12}


def stated_answer(response: str, longest: int = 200) -> str | None:
    """The answer that a response states, as text.

    Args:
        longest: a response of one line and at most so many characters without tags, box or phrase is an answer.
    """
    if _is_marked(response):
        return extract_answer(response) or None
    text = _plain(response)
    phrase = _last_phrase(text)
    if phrase or "\n" in text or len(text) > longest:
        return phrase
    return text.removesuffix(".") or None


def readings(response: str) -> list[str]:
    """Readings of the value that a response ends with, the most literal first; empty where there is none.

    The stated answer; what follows the last `=` of it (or of the last line); the only number in it. A marked answer
    (tags, box) is read literally.
    """
    stated = stated_answer(response)
    if _is_marked(response):
        return [stated] if stated else []
    lines = _plain(response).splitlines()
    text = stated or (lines[-1] if lines else "")
    found = [stated] if stated else []
    if 0 < len(tail := text.rpartition("=")[2].strip(" $.")) <= 40 and "=" in text:
        found.append(tail)
    numbers = list(_NUMBER.finditer(text))
    if len(numbers) == 1:
        unit = _UNIT.match(text, numbers[0].end())
        found.append(numbers[0][0] + (unit[0] if unit else ""))
    return list(dict.fromkeys(found))


def choice_letter(response: str, options: Sequence[str] | None = None) -> str | None:
    """The option that a response chooses, as a capital letter, or None.

    Args:
        options: texts of the options, in order. With them an option's text is an answer as well, and a letter beyond
            the last one is none.
    """
    letters = LETTERS[: len(options)] if options else LETTERS
    if _is_marked(response):
        return _letter_of(_plain(extract_answer(response) or ""), letters, options)
    text = _plain(response)
    phrase = _last_phrase(text)
    last = text.splitlines()[-1] if text else ""
    if phrase is None and _CALLED_RIGHT.search(last):
        return _only(_CALLED_RIGHT, last, letters)
    for candidate in (phrase, text, last):
        if candidate and _SEVERAL_LETTERS.match(candidate):
            return None
        letter = _letter_of(candidate or "", letters, options)
        if letter is not None:
            return letter
    return _only(_BRACKETED, last, letters)


def yes_or_no(response: str) -> str | None:
    """ "yes" or "no", or None where the response says neither or both."""
    text = stated_answer(response, longest=0) or _plain(response)
    first = re.match(r"\W*(yes|no|true|false)\b(?!\s*(?:/|or|and)\s*(?:yes|no)\b)", text, re.IGNORECASE)
    if first:
        return {"true": "yes", "false": "no"}.get(first[1].lower(), first[1].lower())
    last = text.splitlines()[-1] if text else ""
    said = {word.lower() for word in re.findall(r"\b(yes|no)\b", last, re.IGNORECASE)}
    return said.pop() if len(said) == 1 and len(last) <= 200 else None


def only_number(text: str) -> float | None:
    """The number of a text that holds exactly one, or None."""
    found = _NUMBER.findall(text)
    return _value(found[0]) if len(found) == 1 else None


def numbers_of(text: str) -> list[float]:
    """Readings of a text that is one number with an optional sign, currency, unit, percent or magnitude word.

    "$1,200" -> [1200]; "12%" -> [12, 0.12]; "3.4 million" -> [3.4, 3400000]; anything with a second number: [].
    """
    found = list(_NUMBER.finditer(text))
    if len(found) != 1 or not _BEFORE_A_NUMBER.fullmatch(text[: found[0].start()]):
        return []
    value, rest = _value(found[0][0]), text[found[0].end() :].strip().rstrip(".").lower()
    if len(rest.split()) > 3:
        return []
    if rest.startswith(("%", "percent")):
        return [value, value / 100]
    magnitude = _MAGNITUDES.get(rest.split()[0]) if rest else None
    return [value, value * magnitude] if magnitude else [value]


def _value(number: str) -> float:
    return float(number.replace(",", "").replace("−", "-"))


def _is_marked(response: str) -> bool:
    return tagged_answer(response).content is not None or boxed_answer(response) is not None


def _plain(text: str) -> str:
    """What stands after the reasoning in `<think>` tags, without markup."""
    text = text.rpartition("</think>")[2]
    return _MARKUP.sub(lambda found: found[1] or "", text).strip()


def _last_phrase(text: str) -> str | None:
    """What follows the last "the answer is", up to the end of its sentence; None without such a phrase."""
    phrases = list(_STATED.finditer(text))
    if not phrases:
        return None
    rest = text[phrases[-1].end() :].strip()
    end = _SENTENCE_END.search(rest)
    return (rest[: end.start()] if end else rest).strip(" \t\"'.") or None


def _only(pattern: re.Pattern, text: str, letters: str) -> str | None:
    """The one letter that a pattern finds; None for several or none."""
    found = {one for one in pattern.findall(text) if one in letters}
    return found.pop() if len(found) == 1 else None


def _letter_of(text: str, letters: str, options: Sequence[str] | None) -> str | None:
    text = text.strip()
    label = None if _SEVERAL_LETTERS.match(text) else _LABEL.match(text) or _LETTER_THEN_REASON.match(text)
    if label and label[1].upper() in letters:
        return label[1].upper()
    same = [letter for letter, option in zip(letters, options or [], strict=False) if _same(option, text)]
    return same[0] if len(same) == 1 else None


def _same(option: str, text: str) -> bool:
    return bool(normalize(option)) and normalize(option) == normalize(text)
