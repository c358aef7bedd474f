"""The little grammar that questions about named things need: plurals and articles."""

from __future__ import annotations

_IRREGULAR = dict(
    pair.split("/")
    for pair in "person/people man/men woman/women child/children mouse/mice knife/knives sheep/sheep fish/fish "
    "tooth/teeth foot/feet shelf/shelves leaf/leaves".split()
)
PLURAL_ONLY = frozenset({"skis", "scissors", "pants", "glasses", "jeans", "shorts"})
UNCOUNTABLE = frozenset({"broccoli", "grass", "water", "furniture", "food", "bread", "rice", "sand", "snow"})


def plural(name: str) -> str:
    """The plural of a thing's name; only its last word changes."""
    if name in PLURAL_ONLY:
        return name
    head, _, last = name.rpartition(" ")
    if last in _IRREGULAR:
        return f"{head} {_IRREGULAR[last]}".strip()
    if last.endswith(("s", "x", "z", "ch", "sh")):
        return name + "es"
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def is_countable(name: str) -> bool:
    """True if "How many ...?" can be asked."""
    return name not in PLURAL_ONLY and name not in UNCOUNTABLE


def is_there(name: str) -> str:
    """ "Is there a dog", "Is there an apple", "Are there any skis", "Is there any broccoli"."""
    if name in PLURAL_ONLY:
        return f"Are there any {name}"
    if name in UNCOUNTABLE:
        return f"Is there any {name}"
    return f"Is there {'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def is_the(name: str) -> str:
    """ "Is the dog", "Are the skis"."""
    return f"{'Are' if name in PLURAL_ONLY else 'Is'} the {name}"
