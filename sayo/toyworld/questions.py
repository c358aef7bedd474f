"""Questions about a scene as GQA records (semantic programs, annotated spans), and GQA scene graphs.

Format: https://cs.stanford.edu/people/dorarad/gqa/download.html, with the fields that `sayo prepare gqa` reads.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from sayo.toyworld.scenes import COLORS, SIDE, Box, FramedDisc, Scene

# name: whether box `a` lies entirely on that side of box `b` (xyxy pixels)
RELATIONS: dict[str, Callable[[Box, Box], bool]] = {
    "to the left of": lambda a, b: a[2] <= b[0],
    "to the right of": lambda a, b: a[0] >= b[2],
    "above": lambda a, b: a[3] <= b[1],
    "below": lambda a, b: a[1] >= b[3],
}


def scene_graph(scene: Scene, image_id: int) -> dict[str, Any]:
    """GQA scene graph of one image, with a `frame` and a `disc` object for every framed disc."""
    objects: dict[str, Any] = {}
    for i, item in enumerate(scene.objects):
        frame, disc = object_ids(image_id, i)
        relations = [
            {"name": relation, "object": object_ids(image_id, j)[0]}
            for j, other in enumerate(scene.objects)
            for relation, holds in RELATIONS.items()
            if j != i and holds(item.box, other.box)
        ]
        size = "large" if item.large else "small"
        objects[frame] = _node("frame", item.box, [item.frame, size], relations)
        objects[disc] = _node("disc", item.disc_box, [item.disc], [{"name": "in", "object": frame}])
    return {"width": SIDE, "height": SIDE, "objects": objects}


def object_ids(image_id: int, position: int) -> tuple[str, str]:
    """Scene-graph ids of frame and disc of the object at `position` in the scene."""
    return str(image_id * 100 + 2 * position), str(image_id * 100 + 2 * position + 1)


def make_questions(scene: Scene, image_id: int, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Three or four questions about one scene, one per kind: question id -> GQA record.

    - attribute: the colour of the disc in a frame.
    - chain: two objects, where the disc in one frame has the colour of the other frame. Omitted if the scene has no
      such pair.
    - existence: a frame, absent half of the time.
    - count: the number of frames.
    """
    objects = [(item, *object_ids(image_id, i)) for i, item in enumerate(scene.objects)]
    chains = [pair for pair in itertools.permutations(objects, 2) if pair[0][0].disc == pair[1][0].frame]
    paths = [*_pick(rng, [(numbered,) for numbered in objects]), *_pick(rng, chains)]
    records = [*(_color(*path) for path in paths), _existence(objects, rng), _count(objects)]
    return {f"{image_id:06d}{k:02d}": {**record, "imageId": str(image_id)} for k, record in enumerate(records)}


def _pick(rng: np.random.Generator, items: list) -> list:
    """A list of one random item, or an empty list."""
    return [items[i] for i in rng.permutation(len(items))[:1]]


Numbered = tuple[FramedDisc, str, str]
"""An object with the ids of its frame and of its disc."""


def _color(first: Numbered, *then: Numbered) -> dict[str, Any]:
    """The colour of the disc in a frame: the first one, or the one that the chain leads to from there."""
    (item, frame, disc), (seen, *_) = first, (first, *then)[-1]
    where, types = f"the {item.frame} frame", ("query", "attr", "directOf")
    named, program = [disc, frame], [*_select(frame, item.frame), ("relate", f"disc,in,s ({disc})")]
    for _, frame, disc in then:
        where, types = f"the frame the same color as the disc in {where}", ("query", "rel", "sameColorRelate")
        named = [disc, frame, *named]
        program += [("relate", f"frame,same color as,s ({frame})"), ("relate", f"disc,in,s ({disc})")]
    full = f"The disc in the {seen.frame} frame is {seen.disc}."
    return _record(
        f"What color is the disc in {where}?", seen.disc, full, named, [*program, ("query", "color")], types
    )


def _existence(objects: list[Numbered], rng: np.random.Generator) -> dict[str, Any]:
    if exists := bool(rng.random() < 0.5):
        item, frame, _ = objects[rng.integers(len(objects))]
        color = item.frame
    else:
        present = {item.frame for item, *_ in objects}
        color, frame = str(rng.choice([c for c in COLORS if c not in present])), "-"
    article = "an" if color[0] in "aeiou" else "a"
    question, program = f"Is there {article} {color} frame?", [*_select(frame, color), ("exist", "?")]
    if exists:
        full = f"Yes, there is {article} {color} frame."
        return _record(question, "yes", full, [frame], program, ("verify", "obj", "exist"))
    return _record(question, "no", f"No, there is no {color} frame.", [], program, ("verify", "obj", "existC"))


def _count(objects: list[Numbered]) -> dict[str, Any]:
    frames = ",".join(frame for _, frame, _ in objects)
    program, full = [("select", f"frame ({frames})"), ("count", "?")], f"There are {len(objects)} frames."
    types = ("query", "obj", "count")
    return _record("How many frames are there?", str(len(objects)), full, [frames], program, types)


def _select(frame: str, color: str) -> list[tuple[str, str]]:
    return [("select", f"frame ({frame})"), ("filter color", color)]


def _record(
    question: str,
    answer: str,
    full: str,
    named: list[str],
    program: list[tuple[str, str]],
    types: tuple[str, str, str],
) -> dict[str, Any]:
    """A GQA record in which each step of the program depends on the previous one.

    Args:
        full: the answer as a sentence.
        named: object ids that the nouns of the question (and of the full answer) refer to, in order.
        types: structural, semantic and detailed type.
    """
    return {
        "semantic": [
            {"operation": operation, "dependencies": [k - 1] if k else [], "argument": argument}
            for k, (operation, argument) in enumerate(program)
        ],
        "question": question,
        "answer": answer,
        "fullAnswer": full,
        "annotations": {"answer": {}, "question": _spans(question, named), "fullAnswer": _spans(full, named)},
        "types": dict(zip(("structural", "semantic", "detailed"), types, strict=True)),
    }


def _spans(text: str, named: list[str]) -> dict[str, str]:
    """Word position of each noun -> the object ids that it refers to."""
    nouns = [str(k) for k, word in enumerate(text.split(" ")) if word.strip("?.") in ("frame", "frames", "disc")]
    return dict(zip(nouns, named, strict=False))


def _node(name: str, box: Box, attributes: list[str], relations: list[dict[str, str]]) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "name": name, "x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1, "attributes": attributes, "relations": relations,
    }  # fmt: skip
