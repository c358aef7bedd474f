"""Words as they are compared, and what a sentence says: "The lamp is on the left." says "left"."""

import re
import unicodedata
from collections.abc import Iterator

from sayo.answers.extract import PATTERNS

_FOUND = {
    name: re.compile(text, re.IGNORECASE)
    for name, text in PATTERNS.items()
    if name not in ("fillers", "yes_no_fillers", "stated", "lead", "phrase")
}
_FILLERS, _YES_NO_FILLERS = (frozenset(PATTERNS[name].split()) for name in ("fillers", "yes_no_fillers"))
_MAX_WORDS = 30  # of a sentence that is read as an answer

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_ONES += ["seventeen", "eighteen", "nineteen"]
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBERS = {word: value for value, word in enumerate(_ONES)} | {word: 10 * i for i, word in enumerate(_TENS, 2)}
_NUMBER_WORD = re.compile(
    rf"\b(?:({'|'.join(_TENS)})[- ]({'|'.join(_ONES[1:10])})|({'|'.join(sorted(_NUMBERS, key=len, reverse=True))}))\b",
    re.IGNORECASE,
)
_SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "⁄": "/"}
    | {"：": ":", "。": ". ", "（": "(", "）": ")", "，": ", ", "．": ". "}
)
_ARTICLE = re.compile(r"\b(?:a|an|the)\s+(?=(?!and\b|or\b)\w{2,})")
_DISPLAY = re.compile(r"(?:\$\$?|\\\(|\\\[)\s*([^$]*?)\s*(?:\$\$?|\\\)|\\\])\.?")
_WHOLE_TEXT = re.compile(r"\$?(?:\\\(\s*)?\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}\s*(?:\\\))?\$?")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_NUMBER = re.compile(r"(?<![\w.,/:^%\-\\])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\w/:^!]|[.,%-]\d|-)")
_NO_COUNT = re.compile(r"[<>=+*^\\/{}]|\d\s*-?\s+-?\d")


def clean(text: str) -> str:
    """Unify characters and strip surrounding white space, markup, quotes and LaTeX text commands."""
    text = unicodedata.normalize("NFC", text).translate(_SYMBOLS).replace("**", "").strip(" \t\r\n*_`~\"'")
    display = _DISPLAY.fullmatch(text)
    text = display[1].strip() if display else text
    whole = _WHOLE_TEXT.fullmatch(text)
    return whole[1].strip() if whole else _TEXT.sub(r" \1 ", text).strip()


def normalize(text: str) -> str:
    """Normalise case, white space, articles, sentence punctuation, markup and number words (0 to 99).

    "The red T-shirt." -> "red t-shirt"; "Two Cats" -> "2 cats"; "1,000" -> "1000". Meaningful signs are kept: "-5",
    "1.5", "3/4", "x-y", "50%", "5!", brackets inside the text.
    """
    text = digits(clean(text).casefold())
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d)\s*:\s*(?=\d)", ":", text)
    text = re.sub(
        r"[.,;?]+(?=\s|$)|(?<!\d)!+(?=\s|$)|[\"`]|(?<=\w)'(?=\w)|(?<=[^\W\d]{2})-(?=[^\W\d]{2})", _drop, text
    )
    text = _ARTICLE.sub("", text.replace("_", " "))
    text = re.sub(r"^\(([^\d()\[\]]+)\)$", r"\1", text.strip())
    return " ".join(text.split())


def same_words(one: str, other: str) -> bool:
    """Whether two texts are the same when normalised; "30cm" is "30 cm"."""
    one, other = (re.sub(r"(?<=\d) (?=[^\W\d])", "", normalize(text)) for text in (one, other))
    return bool(one) and one == other


def digits(text: str) -> str:
    """Number words as digits: "twenty-one" -> "21"."""

    def number(match: re.Match[str]) -> str:
        tens, units, word = (group and group.lower() for group in match.groups())
        return str(_NUMBERS[tens] + _NUMBERS[units] if tens else _NUMBERS[word])

    return _NUMBER_WORD.sub(number, text)


def one_sentence(text: str) -> str:
    """The sentence that answers, without an opening ("Therefore, ...") and its reasons ("..., because ...").

    The first one, if nothing after it takes it back; of several lines that end in a short one, the last.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and len(lines[-1].split()) <= 4 < len(lines[0].split()):
        text = lines[-1]
    first, *rest = _FOUND["sentence_end"].split(text, maxsplit=1)
    text = text if rest and _FOUND["rest"].search(rest[0]) else first
    text = _FOUND["opening"].sub("", clean(text), count=1)
    return clean(_FOUND["clause_end"].split(text, maxsplit=1)[0])


def hedges(sentence: str, question: str) -> bool:
    """Whether a sentence says nothing for certain, or what is not; words of the question are no hedges of it."""
    unasked = [word for word in _FOUND["unasked"].findall(sentence) if word.casefold() not in question.casefold()]
    return bool(unasked or _FOUND["hedge"].search(sentence))


def forms(answer: str, question: str) -> Iterator[str]:
    """The answer, its sentence, and what that says about something ("The angle is 25 degrees" -> "25 degrees")."""
    yield answer
    sentence = one_sentence(answer)
    if sentence != answer:
        yield sentence
    complement = _FOUND["complement"].match(sentence)
    if complement and not hedges(sentence, question):
        yield clean(complement["said"])


def says_words(answer: str, gold: str, question: str) -> bool:
    """Whether a sentence adds to the words of `gold` only fillers and words of the question."""
    sentence, gold = normalize(one_sentence(answer)), normalize(gold)
    words, wanted, asked = sentence.split(), gold.split(), set(normalize(question).split())
    if not wanted or len(words) > _MAX_WORDS or hedges(sentence, question) or re.search(r"\band\b", sentence):
        return False
    known = _FILLERS if asked & set(wanted) or "or" in asked else _FILLERS | asked
    return [word for word in words if word not in known or word in wanted] == wanted


def mentions(answer: str, words: str, question: str) -> bool:
    """Whether the sentence that answers has these words, which are no number and not the question's."""
    sentence, words = f" {normalize(one_sentence(answer))} ", f" {normalize(words)} "
    is_known = words in f" {normalize(question)} " or not re.search(r"[^\W\d]{2}", words)
    return (
        words in sentence and not is_known and not hedges(sentence, question) and len(sentence.split()) <= _MAX_WORDS
    )


def says_number(answer: str, gold: str, question: str) -> bool:
    """Whether a sentence holds the number `gold` and no other, but for those of the question."""
    sentence = digits(one_sentence(answer))
    if not _NUMBER.fullmatch(gold) or len(sentence.split()) > _MAX_WORDS:
        return False
    found, asked = _NUMBER.findall(sentence), _NUMBER.findall(digits(_asked(question)))
    numbers = [number for number in found if number not in asked] or list(set(found))
    if re.search(r"\d", _NUMBER.sub("", sentence)) or _NO_COUNT.search(sentence):
        return False
    if hedges(sentence, question) or _FOUND["scale"].search(sentence):
        return False
    return [number.replace(",", "") for number in numbers] == [gold.replace(",", "")]


def says_yes_or_no(answer: str, question: str) -> str | None:
    """ "yes" or "no" by the first word, or by a sentence that states or denies what was asked; None for neither.

    Without a question, "There is (no) ..." states or denies.
    """
    answer = normalize_quotes(answer)
    if _FOUND["both"].search(answer):
        return None
    for word in ("yes", "no"):
        if _FOUND[word].search(answer):
            return word
    sentence = one_sentence(answer)
    asked = [word for word in re.findall(r"\w+", _asked(question).casefold()) if word not in _YES_NO_FILLERS]
    said = re.findall(r"\w+", sentence.casefold())
    is_about = all(word in said for word in asked) if asked else bool(_FOUND["exists"].search(sentence))
    if any(word.isdigit() and word not in asked for word in said):  # "The median of Blue is 20": neither yes nor no
        return None
    if not is_about or _FOUND["unsure"].search(sentence) or len(said) > _MAX_WORDS:
        return None
    return "no" if _FOUND["negation"].search(sentence) else "yes"


def _asked(question: str) -> str:
    """The sentence that ends in the first question mark."""
    return re.split(r"[.:!]\s|\n", question.split("?")[0])[-1]


def normalize_quotes(text: str) -> str:
    return " ".join(clean(text).split())


def _drop(match: re.Match[str]) -> str:
    return " " if match[0] == "-" else ""
