"""GQA: the grammar of its programs, the forms of its files, and 33 real questions against a table made by hand."""

import csv
import json
from pathlib import Path

import pytest

from data_prep.examples import RejectedError
from data_prep.sources.gqa import GqaSource, parse_program, referenced_objects
from tests.data_prep.conftest import Bench

SAMPLES = Path(__file__).parent / "samples" / "gqa"

# Worked out by hand from each record: the program in `semantic`, the annotated words, and the question itself.
with (SAMPLES / "expected.tsv").open(encoding="utf-8") as _lines:
    EXPECTED = {row["id"]: row for row in csv.DictReader(_lines, delimiter="\t", quoting=csv.QUOTE_NONE)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    """(questions, graphs, rows by id) of the sample."""
    bench = Bench(tmp_path_factory.mktemp("gqa"))
    questions, graphs = SAMPLES / "train_questions.json", SAMPLES / "train_sceneGraphs.json"
    scenes = json.loads(graphs.read_text())
    for image_id, scene in scenes.items():
        bench.picture(f"{image_id}.jpg", (scene["width"], scene["height"]))
    files = "--questions", questions, "--scene-graphs", graphs, "--images", bench.images
    result = bench.prepare("gqa", *files)
    assert result.exit_code == 0, result.output
    return json.loads(questions.read_text()), scenes, {row["id"]: row for row in bench.rows()}


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
    expected, row, graph = EXPECTED[qid], rows[qid], graphs[questions[qid]["imageId"]]
    for role, weight in (("answer", 1.0), ("evidence", 0.5 if expected["answer"] else 1.0)):  # the heaviest weighs 1
        ids = expected[role].split()
        regions = [region for region in row["regions"] if region["role"] == role]
        assert {(r["label"], tuple(r["box"])) for r in regions} == {clipped(graph, oid) for oid in ids}
        assert len(regions) == len(ids) and {region["weight"] for region in regions} <= {weight}
    assert row["has_region"] == bool(expected["answer"] or expected["evidence"])
    assert (row["solution"], row["question_type"]) == (expected["solution"], expected["question_type"])
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
        pytest.param([select("cup (1)"), then("exist", "?", 0)], [], ["1"], id="nothing proves a no"),
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


def test_what_exists_is_the_answer_where_the_answer_is_yes():
    """The rule of `sayo prepare coco`, whose "Is there a dog in the image?" has the dog for its answer."""
    program = [
        select("table (2)"),
        then("relate", "cup,on,s (1)", 0),
        then("filter color", "red", 1),
        then("exist", "?", 2),
    ]
    for answer, expected in (("yes", (["1"], ["2"])), ("no", ([], ["2", "1"]))):
        assert referenced_objects({"semantic": program, "annotations": {}, "answer": answer}) == expected


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
        assert [example.id for example in source.examples()] == ["q0", "q1", "q2", "q3"]
        assert len(source) == 4


def test_files_in_the_format_of_gqa_have_a_licence_of_their_own(make_gqa):
    gqa = make_gqa(2)
    assert gqa.prepare("--license", "CC0-1.0").exit_code == 0
    assert gqa.summary()["licenses"] == {"CC0-1.0": 2}
    assert "Hudson" not in (gqa.root / "out" / "README.md").read_text()
    assert gqa.prepare().exit_code == 2  # another licence is another setting
