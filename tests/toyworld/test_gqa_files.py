"""The toy world as GQA files: the same records and promises as the real data set."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sayo.toyworld.gqa_files import split_scenes, write_gqa
from sayo.toyworld.questions import make_questions
from sayo.toyworld.scenes import COLORS, USUAL, draw, make_scene

NUM_IMAGES = 40  # of the world that `toy` makes with seed 0
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def world(toy):
    return toy.world


def records(world):
    for split in SPLITS:
        questions = json.loads((world / f"{split}_questions.json").read_text())
        graphs = json.loads((world / f"{split}_sceneGraphs.json").read_text())
        yield from ((record, graphs[record["imageId"]]) for record in questions.values())


def test_prepare_keeps_every_question_and_words_name_their_objects(toy, world):
    """Of ids that do not resolve, or boxes outside of their picture, questions would be rejected."""
    assert json.loads((toy.prepared / "summary.json").read_text())["rejected"] == 0
    for record, graph in records(world):
        assert record["annotations"]["answer"] == {}
        for part in ("question", "fullAnswer"):
            for key, ids in record["annotations"][part].items():
                word = record[part].split(" ")[int(key)].strip(".?").removesuffix("s")
                assert {graph["objects"][i]["name"] for i in ids.split(",")} == {word}


def seen_discs(picture, graph):
    """Frame colour -> disc colour, from the pixels: of the rim of each frame's box, and of its middle."""
    pixels, discs = np.array(picture), {}
    names = {rgb: name for name, rgb in COLORS.items()}
    for node in graph["objects"].values():
        if node["name"] == "frame":
            square = pixels[node["y"] :, node["x"] :][: node["h"], : node["w"]]
            rim = np.concatenate([square[0], square[-1], square[:, 0], square[:, -1]])
            (frame,) = {names[rgb] for rgb in map(tuple, rim.tolist())}
            discs[frame] = names[tuple(square[len(square) // 2, len(square) // 2].tolist())]
            square[:] = 0
    assert not names.keys() & set(map(tuple, pixels.reshape(-1, 3).tolist())), "a colour beside all frames"
    return discs


def answer_from_pixels(question, discs):
    if match := re.fullmatch(r"What color is the disc in the (\w+) frame\?", question):
        return discs[match[1]]
    if match := re.fullmatch(r"Is there an? (\w+) frame\?", question):
        return "yes" if match[1] in discs else "no"
    if match := re.fullmatch(r".* in the frame the same color as the disc in the (\w+) frame\?", question):
        return discs[discs[match[1]]]
    assert question == "How many frames are there?"
    return str(len(discs))


def test_answers_are_right_by_the_pixels(world):
    kinds = set()
    for record, graph in records(world):
        with Image.open(world / "images" / f"{record['imageId']}.png") as picture:
            discs = seen_discs(picture, graph)
        frames = {o["attributes"][0] for o in graph["objects"].values() if o["name"] == "frame"}
        assert discs.keys() == frames
        assert record["answer"] == answer_from_pixels(record["question"], discs), record["question"]
        kinds.add((record["types"]["structural"], record["types"]["semantic"]))
    assert len(kinds) == 4  # attribute, chain, existence, count


def test_answers_are_balanced_and_absent_objects_have_no_id():
    stream = np.random.default_rng(0)
    asked = [r for i in range(1, 401) for r in make_questions(make_scene(0, i), i, stream).values()]
    answers = [r["answer"] for r in asked if r["types"]["detailed"] in ("exist", "existC")]
    assert 0.4 < answers.count("yes") / len(answers) < 0.6
    assert {r["answer"] for r in asked if r["types"]["detailed"] == "count"} == {"3", "4", "5"}
    for record in asked:
        assert ("(-)" in str(record["semantic"])) == (record["types"]["detailed"] == "existC")


def test_same_seed_same_bytes_other_seed_other_world(tmp_path, world):
    for name, seed in (("again", 0), ("other", 4)):
        list(write_gqa(tmp_path / name, NUM_IMAGES, seed))
    files = [Path("images/1.png"), *sorted(p.relative_to(world) for p in world.glob("*.json"))]
    assert all((world / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)
    assert all((world / f).read_bytes() != (tmp_path / "other" / f).read_bytes() for f in files)


@pytest.mark.parametrize("prior", [0.0, 0.9, 1.0])
def test_a_prior_holds_in_training_and_is_broken_in_test(prior, tmp_path):
    list(write_gqa(tmp_path, 200, 0, prior))
    for split in SPLITS:
        asked = json.loads((tmp_path / f"{split}_questions.json").read_text()).values()
        usual = [record["answer"] == USUAL[record["question"].split()[-2]] for record in asked]
        assert sum(usual) / len(usual) == pytest.approx(0.0 if split == "test" else prior, abs=0.08)


def test_no_image_is_in_two_splits(world):
    ids = [set(json.loads((world / f"{split}_sceneGraphs.json").read_text())) for split in SPLITS]
    assert sum(map(len, ids)) == len(set.union(*ids)) == NUM_IMAGES
    pictures = [draw(scene).tobytes() for scenes in split_scenes(NUM_IMAGES, 0).values() for _, scene in scenes]
    assert len(set(pictures)) == NUM_IMAGES


def test_too_few_images_is_an_error():
    with pytest.raises(ValueError, match="at least 10"):
        split_scenes(3, seed=0)
