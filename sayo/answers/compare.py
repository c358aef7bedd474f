"""Whether an answer matches an accepted one: the same words, the same choice, or the same value."""

import re
import unicodedata

from sayo.answers.mathematics import math_equal

_MAX_CHARACTERS = 2000  # no accepted answer is longer

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_ONES += ["seventeen", "eighteen", "nineteen"]
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBERS = {word: value for value, word in enumerate(_ONES)} | {word: 10 * i for i, word in enumerate(_TENS, 2)}
_NUMBER_WORD = re.compile(
    rf"\b(?:({'|'.join(_TENS)})[- ]({'|'.join(_ONES[1:10])})|({'|'.join(sorted(_NUMBERS, key=len, reverse=True))}))\b",
    re.IGNORECASE,
)
_SYMBOLS = str.maketrans({"−": "-", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "⁄": "/"})
_PREFIX = re.compile(
    r"^(?:(?:so|therefore|thus)\W+)?(?:the\s+)?(?:final\s+|correct\s+)*(?:answer|option|choice)(?:\s+is\b)?"
    r"(?:\s*[:=]\s*|\s+)(?:option\s+|choice\s+)?",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\b(?:a|an|the)\s+(?=(?!and\b|or\b)\w{2,})")
_CHOICE = re.compile(r"\(?([A-Za-z])(?:(?:\)[.:]?\s*|[.:](?:\s+|$))(?P<text>\S.*)?)?$", re.DOTALL)
_WHOLE_TEXT = re.compile(r"\$?\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}\$?")
_ANOTHER_LABEL = re.compile(r"(?:^|[\s(])[A-Z][).:]")


def answer_matches(answer: str, accepted: list[str]) -> bool:
    """Whether `answer` matches one of `accepted` by words (`normalize`), `choice_equal` or `math_equal`.

    Never raises; an empty answer or one of more than 2000 characters matches nothing.
    """
    if len(answer) > _MAX_CHARACTERS:
        return False
    answer = _clean(answer)
    forms = {answer, _clean(_PREFIX.sub("", answer, count=1))} - {""}
    return any(_agrees(form, gold) for gold in map(_clean, accepted) if gold for form in forms)


def _agrees(answer: str, gold: str) -> bool:
    words = normalize(gold)
    if words and normalize(answer) == words:
        return True
    return choice_equal(gold, answer) or math_equal(_digits(gold), _digits(answer))


def normalize(text: str) -> str:
    """Normalise case, white space, articles, sentence punctuation, markup and number words (0 to 99).

    "The red T-shirt." -> "red t-shirt"; "Two Cats" -> "2 cats"; "1,000" -> "1000". Meaningful signs are kept: "-5",
    "1.5", "3/4", "x-y", "50%", brackets inside the text.
    """
    text = _digits(_clean(text).casefold())
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"[.,;!?]+(?=\s|$)|[\"`]|(?<=\w)'(?=\w)|(?<=[^\W\d]{2})-(?=[^\W\d]{2})", _drop, text)
    text = _ARTICLE.sub("", text.replace("_", " "))
    text = re.sub(r"^\(([^\d()\[\]]+)\)$", r"\1", text.strip())
    return " ".join(text.split())


def choice_equal(gold: str, answer: str) -> bool:
    """Whether two answers name the same choice: "B", "(B)", "b.", "B. cat" (and "cat" if the gold is "B. cat").

    If both contain the choice's text, it must agree ("B. dog" is not "B. cat"). Several labels match nothing.
    """
    gold_choice, answer_choice = _CHOICE.match(gold), _CHOICE.match(answer)
    if gold_choice is None:
        return False
    gold_text = gold_choice["text"]
    if answer_choice is None:
        return gold_text is not None and normalize(answer) == normalize(gold_text)
    answer_text = answer_choice["text"]
    if answer_text and (_ANOTHER_LABEL.search(answer_text.rstrip(".")) or len(answer_text.strip("(). ")) < 2):
        return False
    same_letter = gold_choice[1].upper() == answer_choice[1].upper()
    return same_letter and (not gold_text or not answer_text or normalize(gold_text) == normalize(answer_text))


def _clean(text: str) -> str:
    """Unify characters and strip surrounding white space, markup, quotes and LaTeX text commands."""
    text = unicodedata.normalize("NFC", text).translate(_SYMBOLS).strip(" \t\r\n*_`~\"'")
    whole = _WHOLE_TEXT.fullmatch(text)
    return whole[1].strip() if whole else text


def _digits(text: str) -> str:
    """Number words as digits: "twenty-one" -> "21"."""

    def number(match: re.Match[str]) -> str:
        tens, units, word = (group and group.lower() for group in match.groups())
        return str(_NUMBERS[tens] + _NUMBERS[units] if tens else _NUMBERS[word])

    return _NUMBER_WORD.sub(number, text)


def _drop(match: re.Match[str]) -> str:
    return " " if match[0] == "-" else ""
