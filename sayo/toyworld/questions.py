"""Questions about a scene, as GQA records: semantic programs, annotated spans, scene graphs (datasets.md, 2.2)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from sayo.toyworld.scenes import COLORS, Box, FramedDisc, Scene

RELATIONS = ("to the left of", "to the right of", "above", "below")
KINDS = ("attribute", "chain", "existence", "count", "position")
LEARNABLE_KINDS = KINDS[:-1]
"""What the tiny policy learns in a cold start of minutes. Places of objects it did not: they stayed at chance."""
OPPOSITE = dict(zip(RELATIONS, (RELATIONS[1], RELATIONS[0], RELATIONS[3], RELATIONS[2]), strict=True))


def related(relation: str, a: Box, b: Box) -> bool:
    """Whether box `a` lies `relation` box `b`: wholly on that side (xyxy pixels)."""
    return {
        "to the left of": a[2] <= b[0],
        "to the right of": a[0] >= b[2],
        "above": a[3] <= b[1],
        "below": a[1] >= b[3],
    }[relation]


def scene_graph(scene: Scene, image_id: int) -> dict[str, Any]:
    """GQA scene graph of one image: a `frame` and a `disc` object for every framed disc."""
    objects: dict[str, Any] = {}
    for i, item in enumerate(scene.objects):
        frame, disc = object_ids(image_id, i)
        relations = [
            {"name": relation, "object": object_ids(image_id, j)[0]}
            for j, other in enumerate(scene.objects)
            for relation in RELATIONS
            if j != i and related(relation, item.box, other.box)
        ]
        size = "large" if item.large else "small"
        objects[frame] = _node("frame", item.box, [item.frame, size], relations)
        objects[disc] = _node("disc", item.disc_box, [item.disc], [{"name": "in", "object": frame}])
    return {"width": scene.width, "height": scene.height, "objects": objects}


def object_ids(image_id: int, position: int) -> tuple[str, str]:
    """Scene-graph ids of the frame and of the disc of the object at `position` in the scene."""
    return str(image_id * 100 + 2 * position), str(image_id * 100 + 2 * position + 1)


def make_questions(
    scene: Scene, image_id: int, rng: np.random.Generator, kinds: Collection[str] = LEARNABLE_KINDS
) -> dict[str, dict[str, Any]]:
    """The questions of the given kinds about one scene: question id -> GQA record.

    - attribute: the colour of the disc in a frame.
    - chain: two objects in a relation; the disc in one frame has the colour that names the other frame. Left out when
      the scene has no such pair.
    - existence: a frame, absent half of the time.
    - count: the number of frames.
    - position: whether two frames stand in a relation of place; half of them do not.
    """
    by_kind = {
        "attribute": [_attribute(image_id, *pair) for pair in _sample(rng, list(enumerate(scene.objects)), 1)],
        "chain": [_chain(image_id, *pair) for pair in _sample(rng, _chains(scene), 1)],
        "existence": [_existence(scene, image_id, rng)],
        "count": [_count(scene, image_id)],
        "position": [
            _position(image_id, *pair, holds=bool(rng.random() < 0.5))
            for pair in _sample(rng, _related_pairs(scene), 1)
        ],
    }
    records = [record for kind, asked in by_kind.items() if kind in kinds for record in asked]
    ids = [f"{image_id:06d}{k:02d}" for k in range(len(records))]
    return {i: _finish(record, i, image_id) for i, record in zip(ids, records, strict=True)}


def _sample(rng: np.random.Generator, items: list, most: int) -> list:
    picked = rng.permutation(len(items))[:most]
    return [items[i] for i in picked]


def _related_pairs(scene: Scene) -> list[tuple[int, FramedDisc, str, int, FramedDisc]]:
    """(object, relation, other) for every relation that holds between two frames."""
    return [
        (i, item, relation, j, other)
        for i, item in enumerate(scene.objects)
        for j, other in enumerate(scene.objects)
        for relation in RELATIONS
        if i != j and related(relation, item.box, other.box)
    ]


def _chains(scene: Scene) -> list[tuple[int, FramedDisc, int, FramedDisc]]:
    """(object, other) such that the object's disc has the colour of the other's frame."""
    numbered = list(enumerate(scene.objects))
    return [(i, item, j, other) for i, item in numbered for j, other in numbered if item.disc == other.frame]


def _attribute(image_id: int, i: int, item: FramedDisc) -> dict[str, Any]:
    frame, disc = object_ids(image_id, i)
    return {
        "semantic": [
            _step("select", [], f"frame ({frame})"),
            _step("filter color", [0], item.frame),
            _step("relate", [1], f"disc,in,s ({disc})"),
            _step("query", [2], "color"),
        ],
        "question": f"What color is the disc in the {item.frame} frame?",
        "answer": item.disc,
        "fullAnswer": f"The disc in the {item.frame} frame is {item.disc}.",
        "annotations": {"answer": {}, "question": {"4": disc, "8": frame}, "fullAnswer": {"1": disc, "5": frame}},
        "types": {"structural": "query", "semantic": "attr", "detailed": "directOf"},
        "groups": {"global": "color", "local": "10q-disc_color"},
    }


def _position(
    image_id: int, i: int, item: FramedDisc, relation: str, j: int, other: FramedDisc, holds: bool
) -> dict[str, Any]:
    """Asks for the relation itself, or for its opposite."""
    frame, other_frame = object_ids(image_id, i)[0], object_ids(image_id, j)[0]
    question = f"Is the {item.frame} frame {relation if holds else OPPOSITE[relation]} the {other.frame} frame?"
    full = f"{'Yes' if holds else 'No'}, the {item.frame} frame is {relation} the {other.frame} frame."
    return {
        "semantic": [
            _step("select", [], f"frame ({frame})"),
            _step("filter color", [0], item.frame),
            _step("verify rel", [1], f"frame,{relation if holds else OPPOSITE[relation]},o ({other_frame})"),
        ],
        "question": question,
        "answer": "yes" if holds else "no",
        "fullAnswer": full,
        "annotations": {
            "answer": {},
            "question": {"3": frame, str(len(question.split(" ")) - 1): other_frame},
            "fullAnswer": {"3": frame, str(len(full.split(" ")) - 1): other_frame},
        },
        "types": {"structural": "verify", "semantic": "rel", "detailed": "relVerify" if holds else "relVerifyCr"},
        "groups": {"global": None, "local": "13-frame_frame"},
    }


def _existence(scene: Scene, image_id: int, rng: np.random.Generator) -> dict[str, Any]:
    exists = bool(rng.random() < 0.5)
    if exists:
        position = int(rng.integers(len(scene.objects)))
        color, frame = scene.objects[position].frame, object_ids(image_id, position)[0]
    else:
        color, frame = str(rng.choice([c for c in COLORS if c not in {o.frame for o in scene.objects}])), "-"
    article = "an" if color[0] in "aeiou" else "a"
    full = f"Yes, there is {article} {color} frame." if exists else f"No, there is no {color} frame."
    return {
        "semantic": [
            _step("select", [], f"frame ({frame})"),
            _step("filter color", [0], color),
            _step("exist", [1], "?"),
        ],
        "question": f"Is there {article} {color} frame?",
        "answer": "yes" if exists else "no",
        "fullAnswer": full,
        "annotations": {
            "answer": {},
            "question": {"4": frame} if exists else {},
            "fullAnswer": {"5": frame} if exists else {},
        },
        "types": {"structural": "verify", "semantic": "obj", "detailed": "exist" if exists else "existC"},
        "groups": {"global": None, "local": "13-frame_exist"},
    }


def _chain(image_id: int, i: int, item: FramedDisc, j: int, other: FramedDisc) -> dict[str, Any]:
    (frame, disc), (other_frame, other_disc) = object_ids(image_id, i), object_ids(image_id, j)
    relation = "same color as"
    return {
        "semantic": [
            _step("select", [], f"frame ({frame})"),
            _step("filter color", [0], item.frame),
            _step("relate", [1], f"disc,in,s ({disc})"),
            _step("relate", [2], f"frame,{relation},s ({other_frame})"),
            _step("relate", [3], f"disc,in,s ({other_disc})"),
            _step("query", [4], "color"),
        ],
        "question": f"What color is the disc in the frame the {relation} the disc in the {item.frame} frame?",
        "answer": other.disc,
        "fullAnswer": f"The disc in the {other.frame} frame is {other.disc}.",
        "annotations": {
            "answer": {},
            "question": {"4": other_disc, "7": other_frame, "13": disc, "17": frame},
            "fullAnswer": {"1": other_disc, "5": other_frame},
        },
        "types": {"structural": "query", "semantic": "rel", "detailed": "sameColorRelate"},
        "groups": {"global": "color", "local": "10q-disc_color"},
    }


def _count(scene: Scene, image_id: int) -> dict[str, Any]:
    joined = ",".join(object_ids(image_id, i)[0] for i in range(len(scene.objects)))
    return {
        "semantic": [_step("select", [], f"frame ({joined})"), _step("count", [0], "?")],
        "question": "How many frames are there?",
        "answer": str(len(scene.objects)),
        "fullAnswer": f"There are {len(scene.objects)} frames.",
        "annotations": {"answer": {}, "question": {"2": joined}, "fullAnswer": {"3": joined}},
        "types": {"structural": "query", "semantic": "obj", "detailed": "count"},
        "groups": {"global": "number", "local": "15-frame_count"},
    }


def _step(operation: str, dependencies: list[int], argument: str) -> dict[str, Any]:
    return {"operation": operation, "dependencies": dependencies, "argument": argument}


def _node(name: str, box: Box, attributes: list[str], relations: list[dict[str, str]]) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "name": name, "x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1, "attributes": attributes, "relations": relations,
    }  # fmt: skip


def _finish(record: dict[str, Any], question_id: str, image_id: int) -> dict[str, Any]:
    """Adds what every GQA record carries; `semanticStr` repeats the program in one line."""
    program = "->".join(
        f"{step['operation']}: {step['argument']}"
        + (f" [{', '.join(map(str, step['dependencies']))}]" if step["dependencies"] else "")
        for step in record["semantic"]
    )
    return {
        **record,
        "semanticStr": program,
        "imageId": str(image_id),
        "isBalanced": True,
        "entailed": [],
        "equivalent": [question_id],
    }
