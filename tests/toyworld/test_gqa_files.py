"""The toy world as GQA files: the same records and promises as the real data set."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sayo.toyworld.gqa_files import split_scenes, write_gqa
from sayo.toyworld.questions import KINDS, make_questions
from sayo.toyworld.scenes import COLORS, draw, make_scene

NUM_IMAGES = 60
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    assert list(write_gqa(out, NUM_IMAGES, 3, KINDS))[-1] == NUM_IMAGES
    return out


def records(world):
    for split in SPLITS:
        questions = json.loads((world / f"{split}_questions.json").read_text())
        graphs = json.loads((world / f"{split}_sceneGraphs.json").read_text())
        for question_id, record in questions.items():
            yield question_id, record, graphs[record["imageId"]]


def span_words(text, key):
    start, _, end = key.partition(":")
    return text.split(" ")[int(start) : int(end or int(start) + 1)]


def named_ids(argument):
    found = re.search(r"\(([\d,\s]+|-)\)\s*$", argument)
    return found.group(1).split(",") if found and found.group(1) != "-" else []


def test_every_id_resolves_and_spans_point_at_the_objects_names(world):
    for _, record, graph in records(world):
        for step in record["semantic"]:
            assert set(named_ids(step["argument"])) <= graph["objects"].keys()
        for part in ("question", "fullAnswer"):
            for key, ids in record["annotations"][part].items():
                words = " ".join(span_words(record[part], key)).strip(".?").removesuffix("s")
                assert {graph["objects"][i]["name"] for i in ids.split(",")} == {words}
        assert record["annotations"]["answer"] == {}


def test_semantic_string_repeats_the_program(world):
    for _, record, _ in records(world):
        program = "->".join(
            f"{s['operation']}: {s['argument']}" + (f" {s['dependencies']}" if s["dependencies"] else "")
            for s in record["semantic"]
        )
        assert record["semanticStr"] == program


def test_boxes_lie_in_the_picture(world):
    for _, record, graph in records(world):
        with Image.open(world / "images" / f"{record['imageId']}.png") as picture:
            assert picture.size == (graph["width"], graph["height"])
        for node in graph["objects"].values():
            assert node["x"] >= 0 and node["y"] >= 0 and node["w"] > 0 and node["h"] > 0
            assert node["x"] + node["w"] <= graph["width"] and node["y"] + node["h"] <= graph["height"]


def seen_objects(picture):
    """Frames and discs found in the pixels alone: frame colour -> (disc colour, xyxy of the frame).

    A frame is a square whose whole rim has one colour; the disc is the colour in its middle.
    """
    pixels = np.asarray(picture)
    names = {rgb: name for name, rgb in COLORS.items()}
    grid = np.array([[names.get(tuple(p), "") for p in row] for row in pixels.tolist()])
    found = {}
    for color in COLORS:
        corners = np.argwhere(grid == color)
        for y, x in corners:
            if (y and grid[y - 1, x] == color) or (x and grid[y, x - 1] == color):
                continue  # not an upper left corner
            width = next((i for i, c in enumerate(grid[y, x:]) if c != color), grid.shape[1] - x)
            height = next((i for i, c in enumerate(grid[y:, x]) if c != color), grid.shape[0] - y)
            square = grid[y : y + height, x : x + width]
            rim = np.concatenate([square[0], square[-1], square[:, 0], square[:, -1]])
            middle = grid[y + height // 2, x + width // 2]
            if width == height >= 12 and (rim == color).all() and middle != color:
                found[color] = (middle, (x, y, x + width, y + height))
    return found


def answer_from_pixels(question, objects):
    if match := re.fullmatch(r"What color is the disc in the (\w+) frame\?", question):
        return objects[match[1]][0]
    if match := re.fullmatch(r"Is there an? (\w+) frame\?", question):
        return "yes" if match[1] in objects else "no"
    if match := re.fullmatch(r".* in the frame the same color as the disc in the (\w+) frame\?", question):
        return objects[objects[match[1]][0]][0]
    if question == "How many frames are there?":
        return str(len(objects))
    match = re.fullmatch(
        r"Is the (\w+) frame (to the left of|to the right of|above|below) the (\w+) frame\?", question
    )
    (_, a), (_, b) = objects[match[1]], objects[match[3]]
    centre = {"to the left of": (0, 1), "to the right of": (0, -1), "above": (1, 1), "below": (1, -1)}
    axis, sign = centre[match[2]]
    return "yes" if sign * (b[axis] + b[axis + 2] - a[axis] - a[axis + 2]) > 0 else "no"


def test_answers_are_right_by_the_pixels(world):
    kinds = set()
    for _, record, graph in records(world):
        with Image.open(world / "images" / f"{record['imageId']}.png") as picture:
            objects = seen_objects(picture)
        frames = {o["attributes"][0] for o in graph["objects"].values() if o["name"] == "frame"}
        assert objects.keys() == frames
        assert record["answer"] == answer_from_pixels(record["question"], objects), record["question"]
        kinds.add((record["types"]["structural"], record["types"]["semantic"]))
    assert len(kinds) == 5  # attribute, chain, existence, count, position


def rng():
    return np.random.default_rng(0)


def test_yes_and_no_are_balanced_and_absent_objects_have_no_id():
    stream = rng()
    asked = [r for i in range(1, 401) for r in make_questions(make_scene(0, i), i, stream, KINDS).values()]
    for detailed in (("exist", "existC"), ("relVerify", "relVerifyCr")):
        answers = [r["answer"] for r in asked if r["types"]["detailed"] in detailed]
        assert 0.4 < answers.count("yes") / len(answers) < 0.6
    for record in asked:
        assert ("(-)" in record["semanticStr"]) == (record["types"]["detailed"] == "existC")


def test_counts_vary():
    asked = [r for i in range(1, 201) for r in make_questions(make_scene(0, i), i, rng(), {"count"}).values()]
    assert Counter(r["answer"] for r in asked).keys() == {"3", "4", "5"} and len(asked) == 200


def test_kinds_choose_the_questions_and_leave_the_scene(tmp_path, world):
    list(write_gqa(tmp_path, NUM_IMAGES, 3, kinds={"attribute"}))
    questions = json.loads((tmp_path / "train_questions.json").read_text()).values()
    assert {r["types"]["detailed"] for r in questions} == {"directOf"}
    assert (tmp_path / "train_sceneGraphs.json").read_bytes() == (world / "train_sceneGraphs.json").read_bytes()


def test_same_seed_same_bytes_other_seed_other_world(tmp_path, world):
    for name, seed in (("again", 3), ("other", 4)):
        list(write_gqa(tmp_path / name, NUM_IMAGES, seed, KINDS))
    files = [Path("images/1.png"), *sorted(p.relative_to(world) for p in world.rglob("*.json"))]
    assert all((world / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)
    assert all((world / f).read_bytes() != (tmp_path / "other" / f).read_bytes() for f in files)


def test_no_image_is_in_two_splits(world):
    ids = [set(json.loads((world / f"{split}_sceneGraphs.json").read_text())) for split in SPLITS]
    assert sum(map(len, ids)) == len(set.union(*ids)) == NUM_IMAGES
    pictures = [draw(scene).tobytes() for scenes in split_scenes(NUM_IMAGES, 3).values() for _, scene in scenes]
    assert len(set(pictures)) == NUM_IMAGES


def test_too_few_images_is_an_error():
    with pytest.raises(ValueError, match="at least 10"):
        split_scenes(3, seed=0)
