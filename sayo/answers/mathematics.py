r"""Mathematical equality by math-verify, behind a gate that rejects prose, dates and slow expressions.

math-verify extracts expressions from paragraphs: it reads "10 cats", "11 = 10" and "3 or 10" as 10, adds "3 4" up to
7, drops `\text{...}` and reads "12:30" as two fifths. A reward built on that can be hacked, so an answer reaches
math-verify only if *all* of it is one expression, and then in LaTeX mode, which parses the whole string.

math-verify limits its time by the clock on the wall, so on a loaded machine right answers would be wrong. Here the
limit counts the processor time of the thread (`_limited`); it needs the main thread. The gate therefore also rejects
what can be slow (towers of powers, big factorials, sums, integrals).
"""

import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import yaml
from math_verify import LatexExtractionConfig, LatexNormalizationConfig, parse, verify

_MAX_CHARACTERS = 200
_SECONDS = 2.0
# Units are handled here: math-verify's list treats "apple", "less" and a bare "m" as units.
_LATEX = (LatexExtractionConfig(normalization_config=LatexNormalizationConfig(malformed_operators=True, nits=True)),)
_LOG = logging.getLogger(__name__)
logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that it has no limit; the limit is ours

_UNITS = yaml.safe_load(Path(__file__).with_name("units.yaml").read_text(encoding="utf-8"))
_UNIT = re.compile(
    r"(?<=[\d\w})°])(?P<space>\s*)(?P<kind>(?:square|sq\.?|cubic)\s+)?(?:"
    + "|".join(f"(?P<u{i}>{pattern})" for i, (_, _, pattern) in enumerate(_UNITS.values()))
    + r")(?:\s*\^\s*\{?(?P<power>[23])\}?)?$"
)
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|mbox|textbf|textnormal|operatorname|rm)\s*\{([^{}]*)\}")
_UNIT_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([A-Za-z]+)\s*\}\s*\{\s*([A-Za-z]+)\s*\}$")
_DELIMITER = re.compile(r"\\[()\[\]]|\\?[$€£¥]|\\[,;! ]|\\q?quad|\\left(?![a-z])|\\right(?![a-z])|~")
_SIGNS = str.maketrans(
    {"π": "\\pi ", "×": "\\times ", "·": "\\cdot ", "÷": "/", "²": "^2", "³": "^3", "∞": "\\infty ", "≈": "="}
)
_ROOT = re.compile(r"√\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+|\w))")
_MIXED_NUMBER = re.compile(r"(?<![\d.^_])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,|\{,\})\d{3})+(?![\d,])")
_LIST = re.compile(r"\s*,?\s*(?:\b(?:and|or)\b|\\text\s*\{\s*(?:and|or)\s*\})\s*|;\s*")
_NAME = re.compile(
    r"\([A-Za-z](?:\s*,\s*[A-Za-z])*\)\s*"
    r"|(?:m\s*)?(?:(?:\\angle|∠|\\triangle|△)\s*)?[A-Za-z][A-Za-z ']*(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s*"
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[a-z]+\*?\}")

_NOT_ONE_EXPRESSION = re.compile(
    r"[^\W\d_]{3,}|[A-Z]{2}|[^\W\d_a-zA-Z]{2}"  # a word; two letters in a row are a product
    r"|(?i:am|an|as|at|be|by|do|go|he|hi|if|in|is|it|me|my|no|of|ok|on|or|pm|so|to|up|us|we|cm|ft|kg|km|mi|ml|mm)"
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

    One unit may be missing ("5 cm" and "5"), but two units must agree, after conversion ("0.3 m" is "30 cm"). A
    percentage equals the same number ("50%" and "50", as in chart labels) and its value ("0.5"). `x = 5`, `AB = 5` and
    `2 + 3 = 5` equal `5`. Never raises.
    """
    if max(len(gold), len(answer)) > 2 * _MAX_CHARACTERS:
        return False
    (gold, gold_unit), (answer, answer_unit) = _split_unit(gold), _split_unit(answer)
    if ("=" in gold) != ("=" in answer):
        gold, answer = _assigned(gold), _assigned(answer)
    # Letters alone are choices or names, not mathematics: "ab" is a product only beside "a \\cdot b".
    if not re.search(r"[\d\\+*/^=<>]", gold + answer):
        return False
    if ("=" in gold) != ("=" in answer) or not (_is_expression(gold) and _is_expression(answer)):
        return False
    scale = _conversion(gold_unit, answer_unit)
    if scale is None:
        return False
    if _same(gold if scale == 1 else f"({gold})*{scale}", answer):
        return True
    if gold_unit == answer_unit or "%" not in (gold_unit, answer_unit):
        return False
    percent = "({})/100".format
    return _same(percent(gold), answer) if gold_unit == "%" else _same(gold, percent(answer))


def _split_unit(text: str) -> tuple[str, str]:
    """`(expression, unit with its power or "")`, without delimiters and text wrappers."""
    text = _LIST.sub(", ", re.sub(r",\\!\s*", ",", text))
    text = _ROOT.sub(lambda root: f"\\sqrt{{{root[1] or root[2] or root[3]}}}", text.translate(_SIGNS))
    text = _UNIT_FRACTION.sub(r" \1/\2", _DELIMITER.sub(" ", _TEXT.sub(r" \1 ", text)).strip(" ,;").rstrip("."))
    text = _THOUSANDS.sub(lambda number: re.sub(r"[{},]", "", number[0]), text).removeprefix("=").strip()
    text = _MIXED_NUMBER.sub(r"\1\\frac{\2}{\3}", text)
    unit = _UNIT.search(text)
    name = next((name for i, name in enumerate(_UNITS) if unit[f"u{i}"]), "") if unit else ""
    before = text[: unit.start()] if unit else text
    # "5m" and "xin" are algebra; so is what follows a word: "the m".
    is_glued = unit and not unit["space"] and (unit.end() - unit.start() == 1 or before[-1].isalpha())
    if not name or (is_glued and name not in ("°", "%", "€", "Ω")) or not re.search(r"\d|\\pi\s*$", before):
        return text, ""
    power = {"s": "2", "c": "3"}.get((unit["kind"] or " ")[0].lower(), unit["power"] or "")
    return before.strip(), name + ("^" + power if power else "")


def _conversion(gold: str, answer: str) -> Fraction | None:
    """What a value of the first unit is multiplied by to be one of the second; None for another dimension.

    A missing unit, or "units", is any unit of that power.
    """
    if not gold or not answer or gold == answer:
        return Fraction(1)
    (name, _, power), (other, _, other_power) = (
        unit.rpartition("^") if unit not in _UNITS and "^" in unit else (unit, "", "1") for unit in (gold, answer)
    )
    (kind, size, _), (other_kind, other_size, _) = _UNITS[name], _UNITS[other]
    if "units" in (name, other):
        return Fraction(1)
    if kind != other_kind or power != other_power:
        return None
    return (Fraction(size) / Fraction(other_size)) ** int(power)


def _assigned(text: str) -> str:
    """`x = 5`, `AB = 5`, `2 + 3 = 5` (if true) -> `5`; `p = 5, q = 2` -> `5, 2`; any other text as it is."""
    parts = [part.split("=") for part in text.split(",")]
    if len(parts) > 1 and all(len(part) == 2 and _NAME.fullmatch(part[0].strip()) for part in parts):
        return ",".join(value for _, value in parts)
    left, sign, value = text.rpartition("=")
    last = left.rpartition("=")[2].strip()
    if not sign or not value.strip() or not last:
        return text
    if _NAME.fullmatch(last + " "):
        return value.strip()
    is_true = not re.search("[A-Za-z]", _COMMAND.sub("", last)) and math_equal(last, value)
    return value.strip() if is_true else text


def _is_expression(text: str) -> bool:
    """Whether all of `text` is one expression that is cheap to evaluate."""
    if not text or len(text) > _MAX_CHARACTERS or text.count("{") != text.count("}") or _HEAVY.search(text):
        return False
    bare = _COMMAND.sub("•", _ENVIRONMENT.sub("", text))  # a command is no space: `2\sqrt3` is one number
    # A relation between two values ("11 = 10") is not a value.
    if "=" in bare and not re.search(r"[A-Za-z]", bare):
        return False
    return not _NOT_ONE_EXPRESSION.search(bare)


def _same(gold: str, answer: str) -> bool:
    try:
        with _limited(_SECONDS):
            return bool(verify(_parse(gold), _parse(answer), timeout_seconds=None))
    except _OutOfTimeError:
        _LOG.warning("no answer within %s s of processor time, scored as wrong: %r against %r", _SECONDS, answer, gold)
        return False
    except Exception:  # sympy raises almost anything on malformed input
        return False


@lru_cache(maxsize=4096)
def _parse(expression: str) -> list:
    return parse(f"${expression}$", extraction_config=_LATEX, fallback_mode="no_fallback", parsing_timeout=None)


class _OutOfTimeError(BaseException):  # sympy catches every Exception
    pass


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise _OutOfTimeError once this thread has used so much processor time; no limit outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    end = time.thread_time() + seconds

    def check(*_: object) -> None:
        if time.thread_time() > end:
            raise _OutOfTimeError

    handler, timer = signal.signal(signal.SIGALRM, check), signal.setitimer(signal.ITIMER_REAL, 0.25, 0.25)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
