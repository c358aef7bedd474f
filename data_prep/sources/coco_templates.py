"""Questions about the annotated objects of one image, by templates and without a random state.

Every choice is made by sha1(seed | image | template | ids), so a question depends on nothing but its image and the
seed. A class of which a crowd ("iscrowd") or an unusable annotation lies in the image is never counted, denied or
referred to: nobody knows how many of it there are, or which one is meant.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from itertools import combinations
from operator import itemgetter
from typing import Any, NamedTuple

from data_prep.examples import Box
from data_prep.sources.coco_words import is_plural, is_the, is_there, is_uncountable, plural, words

MOST_COUNTED = 9
KINDS = frozenset({"animal", "vehicle"})  # of furniture or food there is much that COCO has no class for
_CENTRE_GAP = 0.1  # share of the image's side that two centres lie apart at least
_MOST_OVERLAP = 0.25  # of the shorter of two extents along the asked direction
_SIZE_RATIO = 2.0
_PER_TEMPLATE = {"exist_yes": 1, "exist_no": 1}  # most questions of one template about one image; of others two


class Category(NamedTuple):
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


class SceneQuestion(NamedTuple):
    """One question about one image.

    Attributes:
        name: unique within the image, such as "count-18".
        category: the class asked for, by which answers are balanced.
        answer_things, evidence_things: the objects of its regions.
    """

    template: str
    name: str
    category: Any
    text: str
    answer: str
    answer_things: Sequence[Thing] = ()
    evidence_things: Sequence[Thing] = ()


@dataclass(frozen=True)
class AnnotatedImage:
    """The objects of one image.

    `blocked`: classes with a crowd or an unusable annotation; `siblings`: see `siblings_of`; `least_area`: pixels that
    an object must have to be asked for: of a smaller one, "is it there?" is a matter of taste.
    """

    image_id: Any
    width: int
    height: int
    things: Sequence[Thing]
    blocked: frozenset[Any]
    categories: Mapping[Any, Category]
    siblings: Mapping[Any, Sequence[Any]]
    seed: int
    least_area: float

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

    def ordered(self, template: str, first: Thing, second: Thing) -> tuple[Thing, Thing]:
        """The pair in an order that the hash decides, so that no answer goes with being named first."""
        return (first, second) if self.digest(template, f"{first.id}|{second.id}") < "8" else (second, first)


def siblings_of(categories: Collection[Category]) -> dict[Any, list[Any]]:
    """The other classes of the same supercategory, of each class."""
    return {
        key: [other.id for other in categories if other.supercategory == supercategory and other.id != key]
        for key, _, supercategory in categories
    }


def questions(scene: AnnotatedImage, most: int) -> list[tuple[str, SceneQuestion]]:
    """(digest, question) of at most `most` questions about the image, at most two of one kind."""
    chosen: list[tuple[str, SceneQuestion]] = []
    for template in TEMPLATES:
        candidates = ((scene.digest(question.template, question.name), question) for question in template(scene))
        chosen += sorted(candidates, key=itemgetter(0))[: _PER_TEMPLATE.get(template.__name__, 2)]
    return sorted(chosen, key=itemgetter(0))[:most]


def count(scene: AnnotatedImage) -> Iterator[SceneQuestion]:
    """ "How many dogs are in the image?": all are large enough to be seen, and few enough to be counted.

    Not food (one box may hold a bunch of bananas, and an orange lie in pieces), nor where a mirror is likely.
    """
    if any(scene.name_of(thing) in words()["mirrors"] for thing in scene.things):
        return
    for key, group in scene.by_class.items():
        _, name, supercategory = scene.categories[key]
        visible = all(thing.area >= scene.least_area for thing in group)
        countable = supercategory != "food" and not is_plural(name) and not is_uncountable(name)
        if visible and countable and len(group) <= MOST_COUNTED:
            text = f"How many {plural(name)} are in the image?"
            yield SceneQuestion("count", f"count-{key}", key, text, str(len(group)), group)


def exist_yes(scene: AnnotatedImage) -> Iterator[SceneQuestion]:
    """ "Is there a dog in the image?": yes. Only classes that have siblings, of which the no-questions are made."""
    for key, group in scene.by_class.items():
        visible = [thing for thing in group if thing.area >= scene.least_area]
        if visible and scene.siblings[key]:
            yield _exist(scene, key, "yes", visible)


def exist_no(scene: AnnotatedImage) -> Iterator[SceneQuestion]:
    """The hard no: a class that is not there although one of the same supercategory is."""
    there = {thing.category for thing in scene.things} | scene.blocked
    for key in dict.fromkeys(sibling for present in scene.by_class for sibling in scene.siblings[present]):
        if key not in there:
            yield _exist(scene, key, "no", ())


def _exist(scene: AnnotatedImage, key: Any, answer: str, visible: Sequence[Thing]) -> SceneQuestion:
    text = f"{is_there(scene.categories[key].name)} in the image?"
    return SceneQuestion("exist", f"exist-{key}", key, text, answer, visible)


def kind(scene: AnnotatedImage) -> Iterator[SceneQuestion]:
    """ "What kind of vehicle is in the image?": exactly one class of that supercategory is there."""
    present: dict[str, set[Any]] = {}
    for key in [*(thing.category for thing in scene.things), *scene.blocked]:
        if key in scene.categories:
            present.setdefault(scene.categories[key].supercategory, set()).add(key)
    for name, (key, *others) in present.items():
        group = scene.by_class.get(key, ())
        if name in KINDS and not others and any(thing.area >= scene.least_area for thing in group):
            text, answer = f"What kind of {name} is in the image?", scene.categories[key].name
            yield SceneQuestion("category", f"category-{name}", key, text, answer, group)


def position(scene: AnnotatedImage) -> Iterator[SceneQuestion]:
    """ "Is the dog on the left or on the right side of the image?": it lies wholly in one half."""
    for thing in scene.singles:
        left, right = thing.box[2] <= scene.width / 2, thing.box[0] >= scene.width / 2
        if left or right:
            name, answer = f"position-{thing.category}", "left" if left else "right"
            text = f"{is_the(scene.name_of(thing))} on the left or on the right side of the image?"
            yield SceneQuestion("position", name, thing.category, text, answer, (thing,))


def relation(scene: AnnotatedImage) -> Iterator[SceneQuestion]:
    """ "Is the dog to the left or to the right of the cat in the image?", and the same for above and below."""
    for pair in combinations(scene.singles, 2):
        for axis, side, direction, answers, phrase in (
            (0, scene.width, "horizontal", ("left", "right"), "to the left or to the right of"),
            (1, scene.height, "vertical", ("above", "below"), "above or below"),
        ):
            if _apart(pair[0].box, pair[1].box, axis, side):
                asked, anchor = scene.ordered(direction, *pair)
                name = f"{direction}-{asked.category}-{anchor.category}"
                text = f"{is_the(scene.name_of(asked))} {phrase} the {scene.name_of(anchor)} in the image?"
                after = asked.box[axis] + asked.box[axis + 2] >= anchor.box[axis] + anchor.box[axis + 2]  # by centres
                yield SceneQuestion("relation", name, asked.category, text, answers[after], (asked,), (anchor,))


def _apart(a: Box, b: Box, axis: int, side: int) -> bool:
    """True if the centres lie far enough apart along the axis and the extents hardly overlap."""
    a1, a2, b1, b2 = a[axis], a[axis + 2], b[axis], b[axis + 2]
    if abs((a1 + a2) / 2 - (b1 + b2) / 2) < _CENTRE_GAP * side:
        return False
    return min(a2, b2) - max(a1, b1) <= _MOST_OVERLAP * min(a2 - a1, b2 - b1)


def size(scene: AnnotatedImage) -> Iterator[SceneQuestion]:
    """ "Which takes up more of the image, the dog or the cat?": one has at least twice the area of the other."""
    for pair in combinations(scene.singles, 2):
        large, small = pair if pair[0].area > pair[1].area else pair[::-1]
        if large.area >= _SIZE_RATIO * small.area:
            name = f"size-{large.category}-{small.category}"
            first, second = (scene.name_of(thing) for thing in scene.ordered("size", *pair))
            text = f"Which takes up more of the image, the {first} or the {second}?"
            yield SceneQuestion("size", name, large.category, text, scene.name_of(large), (large,), (small,))


TEMPLATES = (count, exist_yes, exist_no, kind, position, relation, size)
