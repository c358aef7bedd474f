"""Cold-start data: a policy that perceives well but looks in the wrong place.

The data set teaches two things. Dense descriptions of all objects teach perception. Answers teach the format of a
response and a habit: a share of them looks at the salient object instead of the one in question. That is the papers'
diagnosis of vision-language models, and what GRPO then has to correct.

| question | looks at | the habit looks at |
|---|---|---|
| attribute | the frame in question | the large object |
| chain | the first frame, then the one it leads to | the first frame, then the large object |
| existence | the frame, or where it would be | the large object |
| count | every frame in turn | the large object only |

The habit draws the right conclusion from what it looked at: only the look is wrong. Another habit does not look
at all: it answers an attribute question with the frame's usual colour (`USUAL`), in the same words.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, Features, Image, List, Value

from sayo.toyworld.scenes import COLORS, USUAL, FramedDisc

DESCRIBE = "Describe the picture."
Habit = Literal["salient", "usual"]
_IDS = re.compile(r"\(([\d,]+|-)\)$")

MESSAGES = List({"role": Value("string"), "content": Value("string")})


def write_cold_start(
    world: Path,
    out: Path,
    num_rows: int = 22400,
    warm_up: float = 0.33,
    descriptions: float = 0.05,
    wrong_looks: float = 0.5,
    look_back: bool = False,
    seed: int = 0,
    habit: Habit = "salient",
) -> None:
    """Writes the cold-start data for the train split of a world written by `write_gqa`.

    The rows are in training order (a random sampler would lose the warm-up).

    Args:
        out: the parquet file to write; columns `prompt`, `completion` (one message each) and `images`: TRL's
            conversational prompt-completion format with images.
        num_rows: questions repeat, in another order, if there are fewer.
        warm_up: share of the rows, at the start, that are all descriptions.
        descriptions: share of descriptions among the rest.
        wrong_looks: share of the answers that follow the habit.
        look_back: answer in Look-Back's format (`in_look_back_form`).
        habit: what wrong looks do.
    """
    rng, rows = np.random.default_rng(seed), []
    for k, (record, objects, picture) in zip(range(num_rows), _questions(world, rng), strict=False):
        if k < round(num_rows * warm_up) or rng.random() < descriptions:
            rows.append((DESCRIBE, describe(objects), picture))
            continue
        wrong = [habit if rng.random() < wrong_looks else None for _ in range(2 if look_back else 1)]
        looks = [answer(record, objects, wrong_look) for wrong_look in wrong]
        rows.append((record["question"], in_look_back_form(*looks) if look_back else looks[0], picture))
    write_completions(rows, out)


def _questions(world: Path, rng: np.random.Generator) -> Iterator[tuple[dict, dict, bytes]]:
    """Endless questions in random order: record, framed discs and picture file."""
    questions = list(json.loads((world / "train_questions.json").read_text()).values())
    scenes = read_scenes(world, "train")
    while True:
        for record in (questions[k] for k in rng.permutation(len(questions))):
            yield record, *scenes[record["imageId"]]


def read_scenes(world: Path, split: str) -> dict[str, tuple[dict[str, FramedDisc], bytes]]:
    """Image id -> the picture's framed discs (`framed_discs`) and its PNG bytes."""
    graphs = json.loads((world / f"{split}_sceneGraphs.json").read_text())
    return {i: (framed_discs(graph), (world / "images" / f"{i}.png").read_bytes()) for i, graph in graphs.items()}


def write_completions(rows: Iterable[tuple[str, str, bytes]], out: Path) -> None:
    """Writes rows of prompt, completion and picture file to parquet in TRL's prompt-completion format."""
    out.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": prompt}],
                "completion": [{"role": "assistant", "content": completion}],
                "images": [{"path": None, "bytes": picture}],
            }
            for prompt, completion, picture in rows
        ],
        features=Features({"prompt": MESSAGES, "completion": MESSAGES, "images": List(Image())}),
    ).to_parquet(out)


def framed_discs(graph: dict[str, Any]) -> dict[str, FramedDisc]:
    """Scene graph -> its framed discs, each under its frame's id and its disc's id."""
    objects = {}
    for disc_id, disc in graph["objects"].items():
        if disc["name"] == "disc":
            frame_id = disc["relations"][0]["object"]
            frame = graph["objects"][frame_id]
            color, size = frame["attributes"]
            box = (frame["x"], frame["y"], frame["x"] + frame["w"], frame["y"] + frame["h"])
            item = FramedDisc(color, disc["attributes"][0], box, size == "large")
            objects[frame_id] = objects[disc_id] = item
    return objects


def describe(objects: dict[str, FramedDisc]) -> str:
    """All objects of a picture: `The red one holds blue. The ...`."""
    return " ".join(hold(item) for item in _in_turn(objects))


def answer(record: dict[str, Any], objects: dict[str, FramedDisc], habit: Habit | None = None) -> str:
    """The response to a question: what is looked at, what is there, and the answer in `<answer>` tags.

    `objects` are the `framed_discs` of the picture. By habit it looks at the salient one, not the one in question, or
    says that a disc asked for has its frame's usual colour.
    """
    program, operation = record["semantic"], record["semantic"][-1]["operation"]
    large, elsewhere = large_object(objects), habit == "salient"
    if operation == "count":
        looked = [large] if elsewhere else _in_turn(objects)
        return f"I look at {' and '.join(item.frame for item in looked)}. <answer> {len(looked)} </answer>"
    if operation == "exist":
        if not elsewhere and record["answer"] == "no":
            return f"The {program[1]['argument']} one holds nothing. <answer> no </answer>"
        seen = large if elsewhere else objects[_ids(program[0])[0]]
        return f"{hold(seen)} <answer> yes </answer>"
    first, *others = dict.fromkeys(objects[i] for step in program for i in _ids(step))
    seen = large if elsewhere else [first, *others][-1]
    if habit == "usual" and not others:
        seen = replace(seen, disc=USUAL[seen.frame])
    said = f"{hold(first)} {hold(seen)}" if others else look_at_disc(seen)
    return f"{said} <answer> {seen.disc} </answer>"


def in_look_back_form(first: str, second: str) -> str:
    r"""Two answers in Look-Back's format: a look in think tags, another in back tags, and its result in `\boxed`.

    The habit applies to each look independently, so these responses are right as often as those with one look: the
    format alone does not tell the policy where to look.
    """
    (seen, _), (again, result) = (text.removesuffix(" </answer>").split(" <answer> ") for text in (first, second))
    return f"<think> {seen} </think> <back> {again} </back> <think> It is {result}. </think> \\boxed{{ {result} }}"


def large_object(objects: dict[str, FramedDisc]) -> FramedDisc:
    """The salient object of a scene."""
    return next(item for item in objects.values() if item.large)


def _in_turn(objects: dict[str, FramedDisc]) -> list[FramedDisc]:
    """In a fixed order of colours, so that every word of a description teaches which frames there are."""
    return sorted(set(objects.values()), key=lambda item: list(COLORS).index(item.frame))


def hold(item: FramedDisc) -> str:
    """The sentence about a framed disc that was looked at."""
    return f"The {item.frame} one holds {item.disc}."


def look_at_disc(item: FramedDisc) -> str:
    """The sentences about the framed disc in question."""
    return f"I look at the {item.frame} one. It holds {item.disc}."


def _ids(step: dict[str, Any]) -> list[str]:
    ids = _IDS.search(step["argument"].strip())
    return ids[1].split(",") if ids else []
