"""All 33 real questions of the sample, through the command, against a table made by reading the records."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image
from typer.testing import CliRunner

from data_prep.cli import prepare_app

HERE = Path(__file__).parent
OUTSIDE = Path(os.environ.get("SAYO_SAMPLES", HERE.parents[2] / "shared" / "samples")) / "gqa"

# question id -> (answer object ids, evidence object ids, solution, type), worked out by hand from each record:
# the program in `semantic`, the annotated words, and the question itself.
EXPECTED = {
    # "What is the man to the left of the painting holding?": three objects; the last found one is the answer
    "11954861": ({"389020"}, {"389027", "389036"}, "wine glass", "query-rel"),
    # "Which color are the clouds?": one plural box
    "13482782": ({"203899"}, set(), "gray", "query-attr"),
    # "Who is helping the man?"
    "16205269": ({"1101444"}, {"1101445"}, "lady", "query-rel"),
    # "Which kind of furniture is green?": furniture and chair are one object
    "171048450": ({"3620611"}, set(), "chair", "query-cat"),
    # "Which kind of furniture is the cat sitting under?"
    "171048543": ({"3620611"}, {"2791102"}, "chair", "query-rel"),
    # "Is the black animal sitting under the green chair?": a relation is judged, both are needed
    "171048547": (set(), {"2791102", "3620611"}, "yes", "verify-rel"),
    # "Does that sky look foggy or cloudless?"
    "13482838": ({"203891"}, set(), "foggy", "choose-attr"),
    # "Does the person that is playing play with a controller?": no controller; the full answer names the ball
    "05782018": (set(), {"1132417", "1132410"}, "no", "verify-rel"),
    # "Is there a wine glass to the left of the man on the left?": no, and both exist
    "11954688": (set(), {"389036", "389020"}, "no", "verify-rel"),
    # "Is the black bag to the right or to the left of the man at the window?": window -> man, backpack
    "13522687": (set(), {"1313959", "1313980", "1313961"}, "left", "choose-rel"),
    # "Is there a ball to the right of the person on the left side?"
    "05782086": (set(), {"1132417", "1132410"}, "yes", "verify-rel"),
    # "Does the shirt have a different color than the fence?"
    "05781931": (set(), {"1132412", "1132419"}, "no", "compare-attr"),
    # "Who seems to be younger, the lady or the man?": annotated answer is the first select
    "16205217": ({"1101445"}, {"1101444"}, "man", "compare-attr"),
    # "Is the lady to the right or to the left of the woman in the middle?"
    "11954851": (set(), {"389012", "389037"}, "right", "choose-rel"),
    # "Is this an old man?"
    "16205297": ({"1101445"}, set(), "no", "verify-attr"),
    # "What does the snow on the ground cover?"
    "13482773": ({"203885"}, {"203900", "203888"}, "mountain", "query-rel"),
    # "On which side of the photo is the bag?"
    "13522695": ({"1313962"}, set(), "left", "query-attr"),
    # "The zebra that is on the grass is what color?": the zebra's colour; the grass finds it
    "13570135": ({"3167360"}, {"2920386"}, "black", "query-attr"),
    # "The food truck is where?"
    "13522732": ({"1313950"}, {"1313949"}, "road", "query-rel"),
    # "Who is wearing a shirt?"
    "17846275": ({"1984147"}, {"2211994"}, "guy", "query-rel"),
    # "Is the man in the bottom or in the top part of the photo?"
    "12557423": ({"4593248"}, set(), "bottom", "choose-attr"),
    # "Does the zebra to the left of the other zebra seem to be white?": the left zebra is judged
    "13570099": ({"2708845"}, {"2973131"}, "no", "verify-attr"),
    # "What are the elephants that are standing doing?"
    "15451810": ({"3053061"}, set(), "eating", "query-attr"),
    # "Who is on the beach?"
    "17846283": ({"1984147"}, {"3091336"}, "guy", "query-rel"),
    # "Who is wearing a hat?": the other guy
    "17846264": ({"1984146"}, {"2562066"}, "guy", "query-rel"),
    # "Is there a shark to the right of the mirror?": no shark; mirror, and the ducks of the full answer
    "00085042": (set(), {"1011686", "1011690"}, "no", "verify-rel"),
    # "Is the food to the right of a bottle?": no bottle; food, and the elephant of the full answer
    "15451857": (set(), {"3282635", "2855914"}, "no", "verify-rel"),
    # "Which side is the food on?"
    "15451854": ({"3282635"}, set(), "right", "query-attr"),
    # "Is it outdoors or indoors?": the scene, no region
    "13570047": (set(), set(), "outdoors", "choose-global"),
    # "Is the fence in the top part or in the bottom of the photo?"
    "12557418": ({"4593274"}, set(), "bottom", "choose-attr"),
    # "Is the dog sitting?"
    "05542027": ({"1343637"}, set(), "no", "verify-attr"),
    # "Is the person standing under the umbrella?": argument with blanks, "umbrella, standing under, o (2028054)"
    "15192363": (set(), {"2533568", "2028054"}, "yes", "verify-rel"),
    # "Is the person holding the spatula on the right?"
    "00905754": (set(), {"3211367", "3211368"}, "yes", "verify-rel"),
}


@pytest.fixture(scope="module", params=[HERE / "samples" / "gqa", OUTSIDE], ids=["shipped", "outside"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(questions, graphs, rows by id) of one sample folder."""
    folder: Path = request.param
    if not (folder / "train_questions.json").is_file():
        pytest.skip(f"no GQA sample at {folder}; set SAYO_SAMPLES to a folder with gqa/train_questions.json")
    tmp = tmp_path_factory.mktemp("gqa")
    questions = json.loads((folder / "train_questions.json").read_text())
    graphs = json.loads((folder / "train_sceneGraphs.json").read_text())
    (tmp / "images").mkdir()
    for image_id, graph in graphs.items():
        Image.new("RGB", (graph["width"], graph["height"])).save(tmp / "images" / f"{image_id}.jpg")
    files = ["--questions", folder / "train_questions.json", "--scene-graphs", folder / "train_sceneGraphs.json"]
    arguments = ["gqa", *files, "--images", tmp / "images", "--out", tmp / "out"]
    result = CliRunner().invoke(prepare_app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    rows = load_dataset(str(tmp / "out"), split="train", cache_dir=str(tmp / "cache"))
    return questions, graphs, {row["id"]: row for row in rows}


def clipped(graph: dict, oid: str) -> tuple[str, tuple[float, ...]]:
    """(name, xyxy) of a graph's object, cut at the image border."""
    entry = graph["objects"][oid]
    x1, y1 = max(entry["x"], 0), max(entry["y"], 0)
    x2, y2 = min(entry["x"] + entry["w"], graph["width"]), min(entry["y"] + entry["h"], graph["height"])
    return entry["name"], (x1, y1, x2, y2)


def test_every_question_is_kept_and_in_the_table(prepared):
    questions, _, rows = prepared
    assert set(rows) == set(questions) == set(EXPECTED)


@pytest.mark.parametrize("qid", EXPECTED)
def test_regions_are_those_of_the_table(prepared, qid: str):
    questions, graphs, rows = prepared
    answer, evidence, solution, question_type = EXPECTED[qid]
    row, graph = rows[qid], graphs[questions[qid]["imageId"]]
    found = {role: set() for role in ("answer", "evidence")}
    for region in row["regions"]:
        found[region["role"]].add((region["label"], tuple(region["box"])))
        assert region["weight"] == {"answer": 1.0, "evidence": 0.5}[region["role"]]
    assert found["answer"] == {clipped(graph, oid) for oid in answer}
    assert found["evidence"] == {clipped(graph, oid) for oid in evidence}
    assert len(row["regions"]) == len(answer) + len(evidence)
    assert row["has_region"] == bool(answer or evidence)
    assert (row["solution"], row["question_type"]) == (solution, question_type)
    assert row["question"] == questions[qid]["question"]
    assert row["image_sizes"] == [[graph["width"], graph["height"]]]
