"""Questions about the annotated objects of one image, by templates and without a random state.

Every choice is made by sha1(seed | image | template | ids), so a question depends on nothing but its image and the
seed. A class of which a crowd ("iscrowd") or an unusable annotation lies in the image is never counted, denied or
referred to: nobody knows how many of it there are, or which one is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from itertools import combinations
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

    def digest(self, *parts: Any) -> str:
        """The hash by which every choice is made."""
        digest = self._start.copy()
        digest.update("|".join(map(str, parts)).encode("utf-8", "replace"))
        return digest.hexdigest()

    @cached_property
    def _start(self) -> Any:
        return sha1(f"{self.seed}|{self.image_id}|".encode("utf-8", "replace"))

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
    found: list[tuple[str, Question]] = []
    for template in TEMPLATES:
        candidates = [(scene.digest(question.template, question.name), question) for question in template(scene)]
        found += sorted(candidates, key=lambda entry: entry[0])[:_PER_TEMPLATE]
    return sorted(found, key=lambda entry: entry[0])[:most]


def count(scene: Scene) -> Iterator[Question]:
    """ "How many dogs are in the image?": all are large enough to be seen, and few enough to be counted."""
    for key, group in scene.by_class.items():
        name = scene.categories[key].name
        visible = all(thing.area >= scene.least_area for thing in group)
        if visible and len(group) <= MOST_COUNTED and is_countable(name):
            text = f"How many {plural(name)} are in the image?"
            yield Question("count", f"count-{key}", key, text, str(len(group)), _ids(group))


def exist_yes(scene: Scene) -> Iterator[Question]:
    """ "Is there a dog in the image?": yes. Only classes that have siblings, of which the no-questions are made."""
    for key, group in scene.by_class.items():
        visible = [thing for thing in group if thing.area >= scene.least_area]
        if visible and scene.siblings[key]:
            text = f"{is_there(scene.categories[key].name)} in the image?"
            yield Question("exist", f"exist-{key}", key, text, "yes", _ids(visible))


def exist_no(scene: Scene) -> Iterator[Question]:
    """The hard no: a class that is not there although one of the same supercategory is."""
    there = {thing.category for thing in scene.things} | scene.blocked
    for key in dict.fromkeys(sibling for present in scene.by_class for sibling in scene.siblings[present]):
        if key not in there:
            text = f"{is_there(scene.categories[key].name)} in the image?"
            yield Question("exist", f"exist-{key}", key, text, "no")


def kind(scene: Scene) -> Iterator[Question]:
    """ "What kind of vehicle is in the image?": exactly one class of that supercategory is there."""
    present: dict[str, set[Any]] = {}
    for key in [*(thing.category for thing in scene.things), *scene.blocked]:
        if key in scene.categories:
            present.setdefault(scene.categories[key].supercategory, set()).add(key)
    groups = scene.by_class
    for name, keys in present.items():
        (key, *others) = keys
        if name in KINDS and not others and key in groups and max(t.area for t in groups[key]) >= scene.least_area:
            answer = scene.categories[key].name
            text = f"What kind of {name} is in the image?"
            yield Question("category", f"category-{name}", key, text, answer, _ids(groups[key]))


def position(scene: Scene) -> Iterator[Question]:
    """ "Is the dog on the left or on the right side of the image?": it lies wholly in one half."""
    for thing in scene.singles:
        left, right = thing.box[2] <= scene.width / 2, thing.box[0] >= scene.width / 2
        if left or right:
            text = f"{is_the(scene.name_of(thing))} on the left or on the right side of the image?"
            answer = "left" if left else "right"
            yield Question("position", f"position-{thing.category}", thing.category, text, answer, (thing.id,))


def relation(scene: Scene) -> Iterator[Question]:
    """ "Is the dog to the left or to the right of the cat in the image?", and the same for above and below."""
    for pair in combinations(scene.singles, 2):
        for axis, side, words, phrase in (
            (0, scene.width, ("left", "right"), "to the left or to the right of"),
            (1, scene.height, ("above", "below"), "above or below"),
        ):
            name = "horizontal" if axis == 0 else "vertical"
            if not _apart(pair[0].box, pair[1].box, axis, side):
                continue
            asked, anchor = _ordered(scene, name, pair)
            before = _centre(asked.box, axis) < _centre(anchor.box, axis)
            text = f"{is_the(scene.name_of(asked))} {phrase} the {scene.name_of(anchor)} in the image?"
            label = f"{name}-{asked.category}-{anchor.category}"
            yield Question("relation", label, asked.category, text, words[not before], (asked.id,), (anchor.id,))


def size(scene: Scene) -> Iterator[Question]:
    """ "Which takes up more of the image, the dog or the cat?": one has at least twice the area of the other."""
    for pair in combinations(scene.singles, 2):
        small, large = sorted(pair, key=lambda thing: thing.area)
        if large.area >= _SIZE_RATIO * small.area:
            first, second = (scene.name_of(thing) for thing in _ordered(scene, "size", pair))
            text = f"Which takes up more of the image, the {first} or the {second}?"
            label = f"size-{large.category}-{small.category}"
            yield Question("size", label, large.category, text, scene.name_of(large), (large.id,), (small.id,))


TEMPLATES: tuple[Callable[[Scene], Iterator[Question]], ...] = (
    count,
    exist_yes,
    exist_no,
    kind,
    position,
    relation,
    size,
)


def _ids(group: Sequence[Thing]) -> tuple[Any, ...]:
    return tuple(thing.id for thing in group)


def _ordered(scene: Scene, template: str, pair: tuple[Thing, Thing]) -> tuple[Thing, Thing]:
    """The pair in an order that the hash decides, so that no answer goes with being named first."""
    first, second = pair
    return (first, second) if scene.digest(template, first.id, second.id) < "8" else (second, first)


def _centre(box: Box, axis: int) -> float:
    return (box[axis] + box[axis + 2]) / 2


def _apart(a: Box, b: Box, axis: int, side: int) -> bool:
    overlap = min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis])
    shorter = min(a[axis + 2] - a[axis], b[axis + 2] - b[axis])
    return abs(_centre(a, axis) - _centre(b, axis)) >= _CENTRE_GAP * side and overlap <= _MOST_OVERLAP * shorter
