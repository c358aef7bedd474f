"""Whether an answer matches an accepted one: the same choice, yes or no, the same value, or the same words."""

from collections.abc import Sequence

from sayo.answers.choices import choice_of, contradicts, letters_named, split_options
from sayo.answers.mathematics import math_equal
from sayo.answers.words import (
    clean,
    digits,
    forms,
    mentions,
    normalize,
    same_words,
    says_number,
    says_words,
    says_yes_or_no,
)

_MAX_CHARACTERS = 2000  # no accepted answer is longer


def answer_matches(answer: str | Sequence[str], accepted: list[str], question: str = "") -> bool:
    """Whether `answer` matches one of `accepted`; what is accepted for which kind of answer is in docs/methods.md.

    Never raises; an empty answer or one of more than 2000 characters matches nothing.

    Args:
        answer: or several readings of one response, the likeliest first: a later one counts only for a choice, where
            the earlier ones name no option.
        question: as the model was asked, for its options, and for what sentences repeat of it.
    """
    readings = [clean(text) for text in ([answer] if isinstance(answer, str) else answer)]
    readings = [text for text in readings if len(text) <= _MAX_CHARACTERS]
    question, options = split_options(question)
    return bool(readings) and any(_agrees(readings, gold, question, options) for gold in map(clean, accepted) if gold)


def _agrees(readings: list[str], gold: str, question: str, options: dict[str, str]) -> bool:
    if same_words(gold, readings[0]) and not options:
        return True
    choice = choice_of(gold, options)
    if choice is None:
        return bool(readings[0]) and _says(readings[0], gold, question)
    letter, text = choice
    for reading in readings:
        if named := letters_named(reading, options):
            return named == {letter} and not (text and not options and contradicts(reading, text))
    said = {other for other, words in options.items() if _says(readings[0], words, question)}
    said = said or {other for other, words in options.items() if mentions(readings[0], words, question)}
    return said == {letter} if options else bool(text and readings[0]) and _says(readings[0], text, question)


def _says(answer: str, gold: str, question: str) -> bool:
    words = normalize(gold)
    if words in ("yes", "no"):
        return says_yes_or_no(answer, question) == words
    gold = digits(gold)
    for form in forms(answer, question):
        if same_words(gold, form) or math_equal(gold, digits(form)):
            return True
    return says_number(answer, words, question) or says_words(answer, gold, question)
