"""GQA: the grammar of its programs, the forms of its files, and 33 real questions against a table made by hand."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from benchmarks import gqa_objects
from data_prep.examples import RejectedError
from data_prep.sources.gqa import GqaSource, parse_program, referenced_objects
from tests.data_prep.conftest import Bench

SAMPLES = Path(__file__).parent / "samples" / "gqa"
CASES = yaml.safe_load(Path(__file__).with_name("gqa.yaml").read_text())

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


@pytest.mark.parametrize(("argument", "objects"), CASES["arguments"])
def test_the_end_of_an_argument_names_the_objects(argument: str, objects: list[str] | None):
    (step,) = parse_program([{"operation": "select", "dependencies": [], "argument": argument}])
    assert step.objects == (None if objects is None else tuple(objects))


@pytest.mark.parametrize("case", CASES["programs"].values(), ids=CASES["programs"])
def test_objects_of_programs(case: dict):
    program = [
        {"operation": operation, "argument": argument, "dependencies": dependencies}
        for operation, argument, *dependencies in case["steps"]
    ]
    record = {"semantic": program, "annotations": case.get("annotations", {}), "answer": case.get("solution")}
    assert referenced_objects(record) == (case.get("answer", []), case.get("evidence", []))


@pytest.mark.parametrize("semantic", CASES["broken"])
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


def test_the_release_of_sayo_picks_wrong_objects_and_drops_questions_that_we_keep():
    """The script behind the README's table: the release's rule takes the last object of a program, or the first."""
    cup, frame = "select: cup (1)", "relate: _,on,s"
    for text, pick in {
        f"{cup}->query: color [0]": "1",
        f"{cup}->{frame} (2) [0]": "2",
        f"{cup}->{frame} (2) [0]->{frame} (3) [1]": "1",  # the first of three
        "select: shark (-)->exist: ? [0]": None,
        "select: scene->query: place [0]": None,
    }.items():
        assert gqa_objects.release_pick({"semanticStr": text}) == pick
    rows = gqa_objects.compare(json.loads(gqa_objects.SAMPLES.read_text()))
    table = {row["GQA questions"]: (row["SAYO release"], row["sayo"]) for row in rows}
    assert table["questions kept"][1] == 33 and table["dropped"][0] > 0
    release, ours = table["answer annotated, wrong object"]
    assert release > 0 == ours
