"""GQA: the grammar of its programs, the forms of its files, and 33 real questions against a table made by hand."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_prep.examples import RejectedError
from data_prep.sources.gqa import GqaSource, parse_program, referenced_objects
from sayo.cli import app

SAMPLES = Path(__file__).parent / "samples" / "gqa"

# question id -> (answer object ids, evidence object ids, solution, type), worked out by hand from each record: the
# program in `semantic`, the annotated words, and the question itself.
EXPECTED = {
    "11954861": ("389020", "389027 389036", "wine glass", "query-rel"),  # "What is the man to the left of the ...
    "13482782": ("203899", "", "gray", "query-attr"),  # "Which color are the clouds?": one plural box
    "16205269": ("1101444", "1101445", "lady", "query-rel"),  # "Who is helping the man?"
    "171048450": ("3620611", "", "chair", "query-cat"),  # "Which kind of furniture is green?"
    "171048543": ("3620611", "2791102", "chair", "query-rel"),  # "Which kind of furniture is the cat sitting under?"
    "171048547": ("", "2791102 3620611", "yes", "verify-rel"),  # "Is the black animal sitting under the green chair?"
    "13482838": ("203891", "", "foggy", "choose-attr"),  # "Does that sky look foggy or cloudless?"
    "05782018": ("", "1132410 1132417", "no", "verify-rel"),  # "Does the person that is playing play with a ...
    "11954688": ("", "389020 389036", "no", "verify-rel"),  # "Is there a wine glass to the left of the man on the ...
    "13522687": ("", "1313959 1313961 1313980", "left", "choose-rel"),  # "Is the black bag to the right or to the ...
    "05782086": ("", "1132410 1132417", "yes", "verify-rel"),  # "Is there a ball to the right of the person on the ...
    "05781931": ("", "1132412 1132419", "no", "compare-attr"),  # "Does the shirt have a different color than the ...
    "16205217": ("1101445", "1101444", "man", "compare-attr"),  # "Who seems to be younger, the lady or the man?"
    "11954851": ("", "389012 389037", "right", "choose-rel"),  # "Is the lady to the right or to the left of the ...
    "16205297": ("1101445", "", "no", "verify-attr"),  # "Is this an old man?"
    "13482773": ("203885", "203888 203900", "mountain", "query-rel"),  # "What does the snow on the ground cover?"
    "13522695": ("1313962", "", "left", "query-attr"),  # "On which side of the photo is the bag?"
    "13570135": ("3167360", "2920386", "black", "query-attr"),  # "The zebra that is on the grass is what color?"
    "13522732": ("1313950", "1313949", "road", "query-rel"),  # "The food truck is where?"
    "17846275": ("1984147", "2211994", "guy", "query-rel"),  # "Who is wearing a shirt?"
    "12557423": ("4593248", "", "bottom", "choose-attr"),  # "Is the man in the bottom or in the top part of the ...
    "13570099": ("2708845", "2973131", "no", "verify-attr"),  # "Does the zebra to the left of the other zebra seem ...
    "15451810": ("3053061", "", "eating", "query-attr"),  # "What are the elephants that are standing doing?"
    "17846283": ("1984147", "3091336", "guy", "query-rel"),  # "Who is on the beach?"
    "17846264": ("1984146", "2562066", "guy", "query-rel"),  # "Who is wearing a hat?": the other guy
    "00085042": ("", "1011686 1011690", "no", "verify-rel"),  # "Is there a shark to the right of the mirror?"
    "15451857": ("", "2855914 3282635", "no", "verify-rel"),  # "Is the food to the right of a bottle?"
    "15451854": ("3282635", "", "right", "query-attr"),  # "Which side is the food on?"
    "13570047": ("", "", "outdoors", "choose-global"),  # "Is it outdoors or indoors?": the scene, no region
    "12557418": ("4593274", "", "bottom", "choose-attr"),  # "Is the fence in the top part or in the bottom of the ...
    "05542027": ("1343637", "", "no", "verify-attr"),  # "Is the dog sitting?"
    "15192363": ("", "2028054 2533568", "yes", "verify-rel"),  # "Is the person standing under the umbrella?"
    "00905754": ("", "3211367 3211368", "yes", "verify-rel"),  # "Is the person holding the spatula on the right?"
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    """(questions, graphs, rows by id) of the sample."""
    from datasets import load_dataset
    from PIL import Image

    tmp = tmp_path_factory.mktemp("gqa")
    questions = json.loads((SAMPLES / "train_questions.json").read_text())
    graphs = json.loads((SAMPLES / "train_sceneGraphs.json").read_text())
    (tmp / "images").mkdir()
    for image_id, graph in graphs.items():
        Image.new("RGB", (graph["width"], graph["height"])).save(tmp / "images" / f"{image_id}.jpg")
    files = ["--questions", SAMPLES / "train_questions.json", "--scene-graphs", SAMPLES / "train_sceneGraphs.json"]
    arguments = ["prepare", "gqa", *files, "--images", tmp / "images", "--out", tmp / "out"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
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
    for role, weight, ids in (("answer", 1.0, answer.split()), ("evidence", 0.5, evidence.split())):
        regions = [region for region in row["regions"] if region["role"] == role]
        assert {(r["label"], tuple(r["box"])) for r in regions} == {clipped(graph, oid) for oid in ids}
        assert len(regions) == len(ids) and {region["weight"] for region in regions} <= {weight}
    assert row["has_region"] == bool(answer or evidence)
    assert (row["solution"], row["question_type"]) == (solution, question_type)
    assert row["question"] == questions[qid]["question"]
    assert row["image_sizes"] == [[graph["width"], graph["height"]]]


def select(argument: str) -> dict:
    return {"operation": "select", "dependencies": [], "argument": argument}


def then(operation: str, argument: str, *dependencies: int) -> dict:
    return {"operation": operation, "dependencies": list(dependencies), "argument": argument}


@pytest.mark.parametrize(
    ("argument", "objects"),
    [
        ("shirt (1132412)", ("1132412",)),
        ("fence (1132419) ", ("1132419",)),
        ("sharks,to the right of,s (-)", ()),
        ("cat,to the left of|to the right of,s (77)", ("77",)),
        ("umbrella, standing under, o (2028054)", ("2028054",)),
        ("people (12,34)", ("12", "34")),
        ("people (12, 34) ", ("12", "34")),
        ("_,holding,o (5)", ("5",)),
        ("not(black)", None),
        ("scene", None),
        ("", None),
        ("street (north) sign (9)", ("9",)),
    ],
)
def test_the_end_of_an_argument_names_the_objects(argument: str, objects: tuple[str, ...] | None):
    assert parse_program([select(argument)])[0].objects == objects


@pytest.mark.parametrize(
    ("program", "answer", "evidence"),
    [
        pytest.param([select("cup (1)"), then("filter color", "not(black)", 0), then("query", "name", 1)], ["1"], [],
                     id="filters lead back to the object"),
        pytest.param([select("people (1,2)"), then("same gender", "", 0)], ["1", "2"], [], id="all of a group"),
        pytest.param([select("cup (1)"), then("exist", "?", 0)], [], ["1"], id="existence has no answer object"),
        pytest.param([select("cup (-)"), then("exist", "?", 0)], [], [], id="nothing exists"),
        pytest.param([select("scene"), then("query", "place", 0)], [], [], id="the whole scene"),
        pytest.param([select("cup (1)"), then("verify rel", "table,on,o (2)", 0)], [], ["1", "2"], id="verify rel"),
        pytest.param([select("cup (1)"), then("verify rel", "table,on,o (-)", 0)], [], ["1"], id="absent partner"),
        pytest.param(
            [select("cup (1)"), then("exist", "?", 0), select("jug (-) "), then("exist", "?", 2),
             then("or", "", 1, 3)], [], ["1"], id="one branch is absent",
        ),
        pytest.param([select("cup (1)"), select("jug (2) "), then("common", "", 0, 1)], [], ["1", "2"], id="common"),
    ],
)  # fmt: skip
def test_programs_without_annotations(program: list[dict], answer: list[str], evidence: list[str]):
    assert referenced_objects({"semantic": program, "annotations": {}}) == (answer, evidence)


def test_annotated_answer_goes_before_the_program_and_is_no_evidence():
    record = {
        "semantic": [select("man (1)"), select("lady (2) "), then("choose younger", "", 0, 1)],
        "annotations": {"answer": {"0": "1"}, "question": {"6": "2", "9:11": "1,3"}, "fullAnswer": {}},
    }
    assert referenced_objects(record) == (["1"], ["2", "3"])


@pytest.mark.parametrize(
    "semantic",
    [
        None,
        ["select: cup (1)"],
        [{"operation": "select", "argument": "cup (1)"}],
        [then("query", "name", 0)],
        [select("cup (1)"), then("query", "name", 7)],
        [select("cup (1)"), then("query", "name", -1)],
    ],
)
def test_broken_programs_are_named(semantic):
    with pytest.raises(RejectedError, match="malformed_record"):
        referenced_objects({"semantic": semantic, "annotations": {}})


def test_questions_come_as_file_folder_glob_or_list(make_gqa, tmp_path: Path):
    gqa = make_gqa(4)
    gqa.write()
    folder = tmp_path / "all"
    folder.mkdir()
    records = list(gqa.questions.items())
    (folder / "part_0.json").write_text(json.dumps(dict(records[:1])))
    (folder / "part_1.json").write_text(json.dumps(dict(records[1:])))
    (tmp_path / "list.json").write_text(json.dumps([{"questionId": qid, **record} for qid, record in records]))
    for spec in (tmp_path / "questions.json", folder, f"{folder}/part_*.json", tmp_path / "list.json"):
        source = GqaSource(spec, tmp_path / "graphs.json")
        assert [example.id for example in source] == ["q0", "q1", "q2", "q3"]
        assert len(source) == 4


def test_files_in_the_format_of_gqa_have_a_licence_of_their_own(make_gqa):
    gqa = make_gqa(2)
    assert gqa.prepare("--license", "CC0-1.0").exit_code == 0
    assert gqa.summary()["licenses"] == {"CC0-1.0": 2}
    assert "Hudson" not in (gqa.root / "out" / "README.md").read_text()
    assert gqa.prepare().exit_code == 2  # another licence is another setting
