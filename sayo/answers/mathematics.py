r"""Mathematical equality by math-verify, behind a gate that rejects prose, dates and slow expressions.

math-verify extracts expressions from paragraphs: it reads "10 cats", "11 = 10" and "3 or 10" as 10, adds "3 4" up to
7, drops `\text{...}` and reads "12:30" as two fifths. A reward built on that can be hacked, so an answer reaches
math-verify only if *all* of it is one expression, and then in LaTeX mode, which parses the whole string.

math-verify limits its time with SIGALRM, which works only in the main thread. The gate therefore also rejects what can
be slow (towers of powers, big factorials, sums, integrals); in other threads math-verify runs without its alarm.
"""

import re
import threading
from functools import lru_cache

from math_verify import LatexExtractionConfig, LatexNormalizationConfig, parse, verify

_MAX_CHARACTERS = 200
_SECONDS = 2
# Units are handled here: math-verify's list treats "apple", "less" and a bare "m" as units.
_LATEX = (LatexExtractionConfig(normalization_config=LatexNormalizationConfig(malformed_operators=True, nits=True)),)

_UNITS = {  # a single letter is a unit only after a space: "5m" is algebra, "5 m" a length
    "°": r"°|\^\{?\\circ\}?|\\degree|degrees?|deg",
    "%": r"\\?%|percent",
    "mm": "mm|millimet(?:er|re)s?",
    "cm": "cm|centimet(?:er|re)s?",
    "m": r"(?<=\s)m|met(?:er|re)s?",
    "km": "km|kilomet(?:er|re)s?",
    "in": "in|inch(?:es)?",
    "ft": "ft|feet|foot",
    "g": r"(?<=\s)g|grams?",
    "kg": "kg|kilograms?",
    "s": r"(?<=\s)s|sec|seconds?",
    "min": "min|minutes?",
    "h": r"(?<=\s)h|hours?",
    "ml": "m[lL]|millilit(?:er|re)s?",
    "l": r"(?<=\s)[lL]|lit(?:er|re)s?",
}
_UNIT = re.compile(
    r"(?<=[\d})])\s*(?:"
    + "|".join(f"(?P<u{i}>{pattern})" for i, pattern in enumerate(_UNITS.values()))
    + r")(?:\s*\^\{?(?P<power>[23])\}?)?$"
)
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{([^{}]*)\}")
_DELIMITER = re.compile(r"\\[()\[\]]|\\?\$|\\[,;!]|\\left(?![a-z])|\\right(?![a-z])|~")
_SIGNS = str.maketrans({"π": "\\pi ", "×": "\\times ", "·": "\\cdot ", "÷": "/", "²": "^2", "³": "^3"})
_MIXED_NUMBER = re.compile(r"(?<![\d.])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_ASSIGNMENT = re.compile(r"[A-Za-z]\s*=\s*([^=]+)")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[a-z]+\*?\}")

_NOT_ONE_EXPRESSION = re.compile(
    r"[^\W\d_]{2,}"  # a word (two letters in a row)
    r"|\d\s+\d"  # two numbers side by side
    r"|[:?#@_\"']"  # clock times, ratios, prose
    r"|^\d+(?:[-/]\d+){2,}$|^\d+\s*-\s*\d+$"  # dates, phone numbers, ranges
)
_HEAVY = re.compile(
    r"\*\*|\d{40,}"
    r"|\d{3,}\s*!|[!)}\]]\s*!"  # big or nested factorials
    r"|\^\s*\{[^{}]*[\^!]|\^\s*[\w.]+\s*\^"  # towers of powers
    r"|\^\s*[({]*\s*-?\d{4,}|[)}]\s*\^\s*\{?\s*-?\d{2,}"  # huge exponents
    r"|\\(?:sum|prod|i*int|oint|binom|dbinom|lim|frac\{d)"
)


def math_equal(gold: str, answer: str) -> bool:
    """Whether two strings are, each as a whole, expressions of the same value.

    One unit may be missing ("5 cm" and "5"), but two units must agree. A percentage equals the same number ("50%" and
    "50", as in chart labels) and its value ("0.5"). `x = 5` equals `5`. Never raises.
    """
    (gold, gold_unit), (answer, answer_unit) = _split_unit(gold), _split_unit(answer)
    if gold_unit and answer_unit and gold_unit != answer_unit:
        return False
    if ("=" in gold) != ("=" in answer):
        gold, answer = _assigned(gold), _assigned(answer)
    if ("=" in gold) != ("=" in answer) or not (_is_expression(gold) and _is_expression(answer)):
        return False
    if _same(gold, answer):
        return True
    if gold_unit == answer_unit or "%" not in (gold_unit, answer_unit):
        return False
    percent = "({})/100".format
    return _same(percent(gold), answer) if gold_unit == "%" else _same(gold, percent(answer))


def _split_unit(text: str) -> tuple[str, str]:
    """`(expression, canonical unit or "")`, without delimiters and text wrappers."""
    if len(text) > 2 * _MAX_CHARACTERS:
        return "", ""
    text = _DELIMITER.sub(" ", _TEXT.sub(r" \1 ", text.translate(_SIGNS))).strip(" .,;")
    text = _MIXED_NUMBER.sub(r"\1\\frac{\2}{\3}", text)
    unit = _UNIT.search(text)
    if unit is None:
        return text, ""
    name = next(name for i, name in enumerate(_UNITS) if unit[f"u{i}"])
    return text[: unit.start()].strip(), name + (unit["power"] or "")


def _assigned(text: str) -> str:
    """`x = 5` -> `5`; any other text as it is."""
    assignment = _ASSIGNMENT.fullmatch(text)
    return assignment[1] if assignment else text


def _is_expression(text: str) -> bool:
    """Whether all of `text` is one expression that is cheap to evaluate."""
    if not text or len(text) > _MAX_CHARACTERS or _HEAVY.search(text):
        return False
    bare = _COMMAND.sub(" ", _ENVIRONMENT.sub("", text))
    # A lone letter is a choice or a name, not mathematics; a relation between two values ("11 = 10") is not a value.
    if "=" in bare and not re.search(r"[A-Za-z]", bare):
        return False
    return bool(re.search(r"[\d\\+*/^=<>]", text)) and not _NOT_ONE_EXPRESSION.search(bare)


def _same(gold: str, answer: str) -> bool:
    alarm = _SECONDS if threading.current_thread() is threading.main_thread() else None
    try:
        return bool(verify(_parse(gold, alarm), _parse(answer, alarm), timeout_seconds=alarm))
    except Exception:  # sympy raises almost anything on malformed input
        return False


@lru_cache(maxsize=4096)
def _parse(expression: str, alarm: int | None) -> list:
    return parse(f"${expression}$", extraction_config=_LATEX, fallback_mode="no_fallback", parsing_timeout=alarm)
