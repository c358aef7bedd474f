"""Questions about the annotated objects of one image, by templates and without a random state.

Every choice is made by sha1(seed | image | template | ids), so a question depends on nothing but its image and the
seed. A class of which a crowd ("iscrowd") or an unusable annotation lies in the image is never counted, denied or
referred to: nobody knows how many of it there are, or which one is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha1
from itertools import combinations
from operator import itemgetter
from typing import Any, NamedTuple

from data_prep.examples import Box
from data_prep.sources.english import is_countable, is_the, is_there, plural

LEAST_AREA = (
    32**2
)  # pixels: COCO's border between small and medium objects; below it, "is it there?" is a matter of taste
MOST_COUNTED = 9
KINDS = frozenset({"animal", "vehicle", "food", "furniture", "appliance"})
_CENTRE_GAP = 0.1  # share of the image's side that two centres lie apart at least
_MOST_OVERLAP = 0.25  # of the shorter of two extents along the asked direction
_SIZE_RATIO = 2.0
_PER_TEMPLATE = 2  # questions of one template about one image


@dataclass(frozen=True)
class Category:
    """A class of objects."""

    id: Any
    name: str
    supercategory: str


class Thing(NamedTuple):
    """One annotated object; box xyxy and area (of its mask) in pixels."""

    id: Any
    category: Any
    box: Box
    area: float


class Question(NamedTuple):
    """One question about one image.

    Attributes:
        name: unique within the image, such as "count-18".
        category: the class asked for, by which answers are balanced.
        answer_ids, evidence_ids: the annotations of its regions.
    """

    template: str
    name: str
    category: Any
    text: str
    answer: str
    answer_ids: tuple[Any, ...] = ()
    evidence_ids: tuple[Any, ...] = ()


Ask = Callable[[], Question]
Candidates = Iterator[tuple[str, Ask]]
"""Names of the questions that a template could ask, and how to put each in words: few of them are chosen."""


@dataclass(frozen=True)
class Scene:
    """The objects of one image.

    `blocked`: classes with a crowd or an unusable annotation; `siblings`: see `siblings_of`.
    """

    image_id: Any
    width: int
    height: int
    things: Sequence[Thing]
    blocked: frozenset[Any]
    categories: Mapping[Any, Category]
    siblings: Mapping[Any, Sequence[Any]]
    seed: int
    least_area: float = LEAST_AREA

    def digest(self, template: str, rest: str) -> str:
        """The hash by which every choice is made."""
        return sha1(f"{self.seed}|{self.image_id}|{template}|{rest}".encode()).hexdigest()

    @cached_property
    def by_class(self) -> dict[Any, list[Thing]]:
        """Things of each class that may be asked for."""
        groups: dict[Any, list[Thing]] = {}
        for thing in self.things:
            if thing.category not in self.blocked:
                groups.setdefault(thing.category, []).append(thing)
        return groups

    @cached_property
    def singles(self) -> list[Thing]:
        """Things that are the only one of their class and large enough: "the dog"."""
        groups = self.by_class.values()
        return [group[0] for group in groups if len(group) == 1 and group[0].area >= self.least_area]

    def name_of(self, thing: Thing) -> str:
        return self.categories[thing.category].name


def siblings_of(categories: Collection[Category]) -> dict[Any, list[Any]]:
    """The other classes of the same supercategory, of each class."""
    return {
        one.id: [other.id for other in categories if other.supercategory == one.supercategory and other.id != one.id]
        for one in categories
    }


def questions(scene: Scene, most: int) -> list[tuple[str, Question]]:
    """(digest, question) of at most `most` questions about the image, at most two of one template."""
    found: list[tuple[str, Ask]] = []
    for template, candidates in TEMPLATES:
        digests = [(scene.digest(template, name), ask) for name, ask in candidates(scene)]
        found += sorted(digests, key=itemgetter(0))[:_PER_TEMPLATE]
    return [(digest, ask()) for digest, ask in sorted(found, key=itemgetter(0))[:most]]


def count(scene: Scene) -> Candidates:
    """ "How many dogs are in the image?": all are large enough to be seen, and few enough to be counted."""

    def ask(name: str, key: Any, group: list[Thing]) -> Question:
        text = f"How many {plural(scene.categories[key].name)} are in the image?"
        return Question("count", name, key, text, str(len(group)), _ids(group))

    for key, group in scene.by_class.items():
        visible = all(thing.area >= scene.least_area for thing in group)
        if visible and len(group) <= MOST_COUNTED and is_countable(scene.categories[key].name):
            name = f"count-{key}"
            yield name, partial(ask, name, key, group)


def exist_yes(scene: Scene) -> Candidates:
    """ "Is there a dog in the image?": yes. Only classes that have siblings, of which the no-questions are made."""
    for key, group in scene.by_class.items():
        visible = [thing for thing in group if thing.area >= scene.least_area]
        if visible and scene.siblings[key]:
            yield f"exist-{key}", partial(_exist, scene, key, "yes", visible)


def exist_no(scene: Scene) -> Candidates:
    """The hard no: a class that is not there although one of the same supercategory is."""
    there = {thing.category for thing in scene.things} | scene.blocked
    for key in dict.fromkeys(sibling for present in scene.by_class for sibling in scene.siblings[present]):
        if key not in there:
            yield f"exist-{key}", partial(_exist, scene, key, "no", ())


def _exist(scene: Scene, key: Any, answer: str, visible: Sequence[Thing]) -> Question:
    text = f"{is_there(scene.categories[key].name)} in the image?"
    return Question("exist", f"exist-{key}", key, text, answer, _ids(visible))


def kind(scene: Scene) -> Candidates:
    """ "What kind of vehicle is in the image?": exactly one class of that supercategory is there."""

    def ask(name: str, key: Any) -> Question:
        text = f"What kind of {name} is in the image?"
        answer = scene.categories[key].name
        return Question("category", f"category-{name}", key, text, answer, _ids(scene.by_class[key]))

    present: dict[str, set[Any]] = {}
    for key in [*(thing.category for thing in scene.things), *scene.blocked]:
        if key in scene.categories:
            present.setdefault(scene.categories[key].supercategory, set()).add(key)
    groups = scene.by_class
    for name, keys in present.items():
        (key, *others) = keys
        if name in KINDS and not others and key in groups and max(t.area for t in groups[key]) >= scene.least_area:
            yield f"category-{name}", partial(ask, name, key)


def position(scene: Scene) -> Candidates:
    """ "Is the dog on the left or on the right side of the image?": it lies wholly in one half."""

    def ask(name: str, thing: Thing, answer: str) -> Question:
        text = f"{is_the(scene.name_of(thing))} on the left or on the right side of the image?"
        return Question("position", name, thing.category, text, answer, (thing.id,))

    for thing in scene.singles:
        left, right = thing.box[2] <= scene.width / 2, thing.box[0] >= scene.width / 2
        if left or right:
            name = f"position-{thing.category}"
            yield name, partial(ask, name, thing, "left" if left else "right")


def relation(scene: Scene) -> Candidates:
    """ "Is the dog to the left or to the right of the cat in the image?", and the same for above and below."""

    def ask(name: str, axis: int, words: tuple[str, str], phrase: str, asked: Thing, anchor: Thing) -> Question:
        after = asked.box[axis] + asked.box[axis + 2] >= anchor.box[axis] + anchor.box[axis + 2]  # by their centres
        text = f"{is_the(scene.name_of(asked))} {phrase} the {scene.name_of(anchor)} in the image?"
        return Question("relation", name, asked.category, text, words[after], (asked.id,), (anchor.id,))

    for first, second in combinations(scene.singles, 2):
        for axis, side, direction, words, phrase in (
            (0, scene.width, "horizontal", ("left", "right"), "to the left or to the right of"),
            (1, scene.height, "vertical", ("above", "below"), "above or below"),
        ):
            if _apart(first.box, second.box, axis, side):
                asked, anchor = _ordered(scene, direction, first, second)
                name = f"{direction}-{asked.category}-{anchor.category}"
                yield name, partial(ask, name, axis, words, phrase, asked, anchor)


def size(scene: Scene) -> Candidates:
    """ "Which takes up more of the image, the dog or the cat?": one has at least twice the area of the other."""

    def ask(name: str, large: Thing, small: Thing, pair: tuple[Thing, Thing]) -> Question:
        first, second = (scene.name_of(thing) for thing in _ordered(scene, "size", *pair))
        text = f"Which takes up more of the image, the {first} or the {second}?"
        return Question("size", name, large.category, text, scene.name_of(large), (large.id,), (small.id,))

    for pair in combinations(scene.singles, 2):
        large, small = pair if pair[0].area > pair[1].area else pair[::-1]
        if large.area >= _SIZE_RATIO * small.area:
            name = f"size-{large.category}-{small.category}"
            yield name, partial(ask, name, large, small, pair)


TEMPLATES: tuple[tuple[str, Callable[[Scene], Candidates]], ...] = (
    ("count", count),
    ("exist", exist_yes),
    ("exist", exist_no),
    ("category", kind),
    ("position", position),
    ("relation", relation),
    ("size", size),
)


def _ids(group: Sequence[Thing]) -> tuple[Any, ...]:
    return tuple(thing.id for thing in group)


def _ordered(scene: Scene, template: str, first: Thing, second: Thing) -> tuple[Thing, Thing]:
    """The pair in an order that the hash decides, so that no answer goes with being named first."""
    return (first, second) if scene.digest(template, f"{first.id}|{second.id}") < "8" else (second, first)


def _apart(a: Box, b: Box, axis: int, side: int) -> bool:
    """True if the centres lie far enough apart along the axis and the extents hardly overlap."""
    a1, a2, b1, b2 = a[axis], a[axis + 2], b[axis], b[axis + 2]
    if abs((a1 + a2) / 2 - (b1 + b2) / 2) < _CENTRE_GAP * side:
        return False
    return min(a2, b2) - max(a1, b1) <= _MOST_OVERLAP * min(a2 - a1, b2 - b1)
