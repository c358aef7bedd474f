"""Cold-start data: a policy that perceives well but looks in the wrong place.

The data set teaches two things. Dense descriptions of all objects teach perception. Answers teach
the form of a response, and a habit: a share of them looks where the eye goes first instead of where the question
points. That is the papers' diagnosis of vision-language models, and what GRPO then has to mend.

| question | looks at | the habit |
|---|---|---|
| attribute | the frame that is asked for | the large object |
| chain | the first frame, then the one it leads to | the first frame, then the large object |
| existence | the frame, or where it would be | the large object |
| count | every frame in turn | the large object only |
| position | both frames | the first frame, then the large object |

The habit draws the right conclusion from what it looked at: it is the look that is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List, Value

from sayo.toyworld.questions import related
from sayo.toyworld.scenes import COLORS

DESCRIBE = "Describe the picture."
_IDS = re.compile(r"\(([\d,]+|-)\)$")

MESSAGES = List({"role": Value("string"), "content": Value("string")})
FEATURES = Features({"prompt": MESSAGES, "completion": MESSAGES, "images": List(Image())})


def write_cold_start(
    world: Path,
    out: Path,
    split: str = "train",
    num_rows: int = 22400,
    warm_up: float = 0.33,
    descriptions: float = 0.05,
    wrong_looks: float = 0.5,
    look_back: bool = False,
    seed: int = 0,
) -> None:
    """Makes the cold-start data of one split of a world written by `write_gqa`.

    The rows are in the order to train in (a random sampler would lose the warm-up).

    Args:
        world: folder with `{split}_questions.json`, `{split}_sceneGraphs.json` and `images/`.
        out: the parquet file to write; columns `prompt`, `completion` (one message each) and `images`, which is TRL's
            conversational prompt-completion format with images.
        num_rows: questions are asked again, in another order, when there are fewer.
        warm_up: share of the rows, at the start, that are all descriptions.
        descriptions: share of descriptions among the rest.
        wrong_looks: share of the answers that follow the habit.
        look_back: answer in the form of Look-Back (see `look_back_answer`).
    """
    rng = np.random.default_rng(seed)
    respond = look_back_answer if look_back else one_look_answer
    first = round(num_rows * warm_up)
    rows = [
        training_row(DESCRIBE, describe(objects), picture)
        if k < first or rng.random() < descriptions
        else training_row(record["question"], respond(record, objects, wrong_looks, rng), picture)
        for k, (record, objects, picture) in zip(range(num_rows), _questions(world, split, rng), strict=False)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=FEATURES).to_parquet(out)


def _questions(world: Path, split: str, rng: np.random.Generator) -> Iterator[tuple[dict, dict, bytes]]:
    """Endless questions in random order: the record, the framed discs of its picture, the picture's file."""
    questions = list(json.loads((world / f"{split}_questions.json").read_text()).values())
    graphs = json.loads((world / f"{split}_sceneGraphs.json").read_text())
    objects = {image_id: framed_discs(graph) for image_id, graph in graphs.items()}
    pictures = {image_id: (world / "images" / f"{image_id}.png").read_bytes() for image_id in graphs}
    while True:
        for k in rng.permutation(len(questions)):
            image_id = questions[k]["imageId"]
            yield questions[k], objects[image_id], pictures[image_id]


def training_row(prompt: str, completion: str, picture: bytes) -> dict[str, Any]:
    """One row of the columns `FEATURES`; `picture` is the image file."""
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
        "images": [{"path": None, "bytes": picture}],
    }


def framed_discs(graph: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Scene graph -> frame id and disc id -> `{"frame": colour, "disc": colour, "large": bool, "box": xyxy}`."""
    out = {}
    for disc_id, disc in graph["objects"].items():
        if disc["name"] == "disc":
            frame_id = disc["relations"][0]["object"]
            frame = graph["objects"][frame_id]
            color, size = frame["attributes"]
            box = (frame["x"], frame["y"], frame["x"] + frame["w"], frame["y"] + frame["h"])
            item = {"frame": color, "disc": disc["attributes"][0], "large": size == "large", "box": box}
            out[frame_id] = out[disc_id] = item
    return out


def describe(objects: dict[str, dict[str, Any]]) -> str:
    """All objects of a picture: `The red one holds blue. The ...`."""
    return " ".join(hold(item) for item in _in_turn(objects))


def answer(record: dict[str, Any], objects: dict[str, dict[str, Any]], habit: bool) -> str:
    """The response to a question: what is looked at, what is there, and the answer in `<answer>` tags.

    Args:
        record: GQA question.
        objects: `framed_discs` of its scene graph.
        habit: look where the eye goes first instead of where the question points.
    """
    program = record["semantic"]
    operation = program[-1]["operation"]
    large = next(item for item in objects.values() if item["large"])
    if operation == "count":
        looked = [large] if habit else _in_turn(objects)
        return f"I look at {' and '.join(item['frame'] for item in looked)}. <answer> {len(looked)} </answer>"
    if operation == "exist" and not habit and record["answer"] == "no":
        return f"The {program[1]['argument']} one holds nothing. <answer> no </answer>"
    if operation == "exist" and habit:
        return f"{hold(large)} <answer> yes </answer>"
    first, *others = unique_objects(objects[i] for step in program for i in _ids(step))
    if operation == "exist":
        return f"{hold(first)} <answer> yes </answer>"
    second = large if habit else others[0] if others else None
    if operation == "verify rel":
        verdict = "yes" if related(program[-1]["argument"].split(",")[1], first["box"], second["box"]) else "no"
        return f"I look at {first['frame']} and {second['frame']}. <answer> {verdict} </answer>"
    if others:
        return f"{hold(first)} {hold(second)} <answer> {second['disc']} </answer>"
    item = second or first
    return f"I look at the {item['frame']} one. It holds {item['disc']}. <answer> {item['disc']} </answer>"


def one_look_answer(record: dict[str, Any], objects: dict, wrong_looks: float, rng: np.random.Generator) -> str:
    """`answer`, by habit with the chance `wrong_looks`."""
    return answer(record, objects, habit=bool(rng.random() < wrong_looks))


def look_back_answer(record: dict[str, Any], objects: dict, wrong_looks: float, rng: np.random.Generator) -> str:
    r"""Look-Back's form: a look between think tags, another between back tags, the answer of the second in `\boxed`.

    The habit takes each look with the chance `wrong_looks`, so that the answers are as often right as those of
    `one_look_answer`: the form alone tells the policy nothing about where to look.
    """
    first, second = (one_look_answer(record, objects, wrong_looks, rng) for _ in range(2))
    seen, found = (text.split(" <answer> ") for text in (first, second))
    result = found[1].removesuffix(" </answer>")
    return (
        f"<think> {seen[0]} </think> <back> {found[0]} </back> <think> It is {result}. </think> \\boxed{{ {result} }}"
    )


def unique_objects(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Framed discs once each, in the given order: each is known by its frame's id and by its disc's."""
    return list({item["frame"]: item for item in items}.values())


def _in_turn(objects: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Always the same order of colours: then every word that is said teaches which frames there are."""
    return sorted(unique_objects(objects.values()), key=lambda item: list(COLORS).index(item["frame"]))


def hold(item: dict[str, Any]) -> str:
    """What is said of a framed disc that was looked at."""
    return f"The {item['frame']} one holds {item['disc']}."


def _ids(step: dict[str, Any]) -> list[str]:
    found = _IDS.search(step["argument"].strip())
    return found.group(1).split(",") if found else []
