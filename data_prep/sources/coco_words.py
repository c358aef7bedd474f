"""English for the names of classes: COCO's 80, and those of people's own files as far as simple rules go."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_LETTERS = frozenset("AEFHILMNORSX")  # whose names begin with a vowel: "an SUV"
_VOWEL = re.compile(r"(?!uni(?!n|m)|use|ute|uri|uku|eu|ewe|one\b)[aeiou]|hour|heir|honest")
_PLURAL = re.compile(r".*(?<![suia])s")


@cache
def words() -> dict[str, Any]:
    """The tables of coco_words.yaml."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def spoken(name: str, supercategory: str) -> str:
    """A class name as it is said: "traffic_light" and "Traffic Light" (LVIS, Objects365) are a traffic light."""
    name = re.sub(r"\(.*?\)|/.*", "", name.replace("_", " ")).strip() or name
    name = words()["say"].get(supercategory, {}).get(name, name)
    return name.lower() if name.istitle() else name


def accepted(answer: str) -> tuple[str, ...]:
    """The answer, and what else people call it."""
    return answer, *words()["also"].get(answer, ())


def is_plural(name: str) -> bool:
    """True for a class of things that are named as several: skis, scissors, sneakers."""
    last = name.rpartition(" ")[2]
    return last in words()["plural_only"] or (bool(_PLURAL.fullmatch(last)) and last not in words()["singular"])


def is_uncountable(name: str) -> bool:
    return name.rpartition(" ")[2] in words()["uncountable"]


def plural(name: str) -> str:
    """The plural of a thing's name; only its last word changes."""
    if is_plural(name):
        return name
    endings = [ending for ending in words()["plurals"] if name.endswith(ending)]
    if endings:
        ending = max(endings, key=len)
        return name.removesuffix(ending) + words()["plurals"][ending]
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def is_there(name: str) -> str:
    """ "Is there a dog", "Is there an SUV", "Are there any skis", "Is there any broccoli"."""
    if is_plural(name):
        return f"Are there any {name}"
    if is_uncountable(name):
        return f"Is there any {name}"
    spelt = name[:2].isupper() or name[1:2] == "-"  # by its letters: "an X-ray"
    vowel = name[0] in _LETTERS if spelt else _VOWEL.match(name.lower())
    return f"Is there {'an' if vowel else 'a'} {name}"


def is_the(name: str) -> str:
    """ "Is the dog", "Are the skis"."""
    return f"{'Are' if is_plural(name) else 'Is'} the {name}"
