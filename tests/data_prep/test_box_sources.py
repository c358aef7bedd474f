"""Sources that give boxes: Visual-CoT, Visual Genome and those in parquet files, and the samples of two of them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from tests.data_prep.conftest import png

SAMPLES = Path(__file__).parent / "samples"
# file -> (source, rows, split, field of the image, of the question, of the boxes, and boxes of some rows as they were
# read off the files by hand, so that the test cannot be wrong in the same way everywhere)
FILES = {
    "refcoco/refcoco_unc_val.jsonl": (
        "refcoco", 60, "val", "img_path", "expression", "bbox", {0: [468.3, 0.91, 640.0, 117.03]}),
    "visual_cot/vsr_cot_train.jsonl": (
        "visual-cot", 40, "train", "image", "question", "bboxs",
        {0: [34.41, 379.87, 608.34, 615.23], 1: [0.0, 0.88, 640.0, 422.54]}),
    "visual_cot/benchmark_det_gqa.jsonl": (
        "visual-cot", 60, "val", "img_path", "expression", "bbox",
        {0: [217, 343, 242, 393], 2: [117, 361, 285, 482]}),
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_every_row_has_the_boxes_of_its_record(bench, file: str):
    source, count, split, image, question, field, known = FILES[file]
    records = [json.loads(line) for line in (SAMPLES / file).read_text().splitlines()]
    for record in records:
        if not (bench.images / record[image]).exists():
            bench.picture(record[image], (record["width"], record["height"]))
    option = "--refs" if source == "refcoco" else "--questions"
    result = bench.prepare(source, option, SAMPLES / file, "--images", bench.images, "--split", split)
    assert result.exit_code == 0, result.output
    rows = bench.rows()
    assert len(rows) == len(records) == count
    pictures = [record[image] for record in records]
    order = sorted(range(count), key=lambda index: pictures.index(pictures[index]))  # picture by picture
    for index, row in zip(order, rows, strict=True):
        record = records[index]
        boxes = record[field] if isinstance(record[field][0], list) else [record[field]]
        w, h = record["width"], record["height"]
        expected = [[max(x1, 0), max(y1, 0), min(x2, w), min(y2, h)] for x1, y1, x2, y2 in boxes]
        assert [region["box"] for region in row["regions"]] == expected
        assert index not in known or expected == [pytest.approx(known[index])]
        assert {region["role"] for region in row["regions"]} == {"answer"}
        assert record[question] in row["question"]
        assert row["images"][0]["bytes"] == (bench.images / record[image]).read_bytes()
        answer = record.get("answer") or str([round(value) for value in record["bbox"]])
        assert (row["solution"], row["split"], row["image_sizes"]) == (answer, split, [[w, h]])


def test_coco_sample_counts_its_person_with_the_polygon(bench):
    """One real annotation: 43 % of a person's box is the person, so the mask must weigh less than the box."""
    bench.picture("000000000785.jpg", (640, 425))
    file = SAMPLES / "coco" / "person_keypoints_val2017.json"
    assert bench.prepare("coco", "--instances", file, "--images", bench.images).exit_code == 0
    (row,) = bench.rows()
    (annotation,) = json.loads(file.read_text())["annotations"]
    x, y, w, h = annotation["bbox"]
    assert (row["question"], row["solution"]) == ("How many people are in the image?", "1")
    (region,) = row["regions"]
    assert region["box"] == pytest.approx([x, y, x + w, y + h])
    area = int(coco.area({"size": [425, 640], "counts": region["rle"].encode()}))
    assert area == pytest.approx(annotation["area"], rel=0.01)
    assert row["license"] == "CC-BY-4.0, image: Attribution License"


BOX = [120, 60, 200, 160]
PLAIN = {"question": "What?", "answer": "x", "image": "cot/a.jpg"}


def conversation(pixels: str = "###[120, 60, 200, 160]", **more) -> dict:
    """In the form of viscot_benchmark/benchmark/gqa.json."""
    ask = "<image>\nWhat is on the mat? Please provide the bounding box coordinate of the region that can help you."
    turns = [{"from": "human", "value": ask}, {"from": "gpt", "value": "[0.375, 0.375, 0.625, 0.688]"},
             {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A cat."}]  # fmt: skip
    images = ["cot/a.jpg", f"cot/a.jpg{pixels}"]
    return {"dataset": "gqa", "split": "val", "question_id": 7, "image": images, "conversations": turns, **more}


def prepare_visual_cot(bench, *records):
    bench.picture("cot/a.jpg")
    (bench.root / "benchmark").mkdir()
    bench.json(list(records), "benchmark/gqa.json")
    return bench.prepare("visual-cot", "--questions", bench.root / "benchmark", "--images", bench.images)


def test_a_conversation_takes_the_pixels_of_the_file_name(bench):
    several = {**PLAIN, "bboxs": [BOX, [10, 10, 40, 40]], "dataset": "cub"}
    result = prepare_visual_cot(bench, conversation(), several)
    assert result.exit_code == 0, result.output
    row, other = bench.rows()
    assert [region["box"] for region in row["regions"]] == [BOX]
    assert (row["question"], row["solution"], row["question_type"]) == ("What is on the mat?", "A cat.", "gqa")
    assert [region["box"] for region in other["regions"]] == several["bboxs"]


DOG = {"object_id": 1, "x": 20, "y": 30, "w": 40, "h": 50, "names": ["dog"], "synsets": []}
MAT = {"object_id": 2, "x": 0, "y": 60, "width": 300, "height": 100, "name": "mat"}


def qa(number: int, **more) -> dict:
    return {"qa_id": number, "image_id": 7, "question": "What is on the mat?", "answer": "A dog.",
            "a_objects": [DOG], "q_objects": [MAT], **more}  # fmt: skip


def prepare_visual_genome(bench, *qas, entries=()):
    bench.picture("VG_100K_2/7.jpg")
    url = "https://cs.stanford.edu/people/rak248/VG_100K_2/7.jpg"
    data = bench.json([{"image_id": 7, "width": 320, "height": 200, "url": url, "coco_id": None}], "image_data.json")
    questions = bench.json([{"id": 7, "qas": list(qas)}, *entries], "question_answers.json")
    return bench.prepare("visual-genome", "--questions", questions, "--image-data", data, "--images", bench.images)


def test_objects_of_visual_genome_become_answer_and_evidence(bench):
    entries = [{"id": 8}, 5]  # without questions
    assert prepare_visual_genome(bench, qa(1), qa(2, a_objects=[], q_objects=[]), entries=entries).exit_code == 0
    row, without = bench.rows()
    assert [(r["role"], r["label"], r["box"]) for r in row["regions"]] == [
        ("answer", "dog", [20, 30, 60, 80]),
        ("evidence", "mat", [0, 60, 300, 160]),
    ]
    assert (row["solution"], row["answers"], row["question_type"]) == ("A dog", ["A dog", "A dog."], "what")
    assert row["images"][0]["path"] == "VG_100K_2/7.jpg"
    assert without["has_region"] is False
    assert bench.summary()["rejected_by_reason"] == {"malformed_record": 2}


LISTS = pa.struct([(name, pa.list_(pa.float64())) for name in ("x1", "y1", "x2", "y2")])
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = [(name, pa.string()) for name in ("id", "question", "answer", "source")]
SCHEMA = pa.schema([*TEXTS, ("image", PICTURE), ("edited_image", PICTURE), ("focus_areas_bbox", LISTS)])


def chart(number: int, boxes: dict | None, **more) -> dict:
    return {"id": f"r{number}", "question": "How many bars?", "answer": "2", "edited_image": None,
            "image": {"bytes": png(), "path": f"{number}.png"}, "focus_areas_bbox": boxes, "source": "chartqa_h_bar",
            **more}  # fmt: skip


def lists(*boxes) -> dict:
    return {name: [box[index] for box in boxes] for index, name in enumerate(("x1", "y1", "x2", "y2"))}


def prepare_parquet(bench, source: str, rows, schema, *more):
    (bench.root / "data").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), bench.root / "data" / "train-0.parquet")
    return bench.prepare(source, "--files", bench.root / "data", *more)


def prepare_refocus(bench, *rows: dict, more=()):
    return prepare_parquet(bench, "refocus", rows, SCHEMA, *more)


def test_every_focus_area_is_a_region(bench, processor_dir):
    boxes = [(0, 10, 50, 40), (60, 10, 90.5, 40), (100, 10, 130, 140)]
    rows = chart(0, lists(*boxes)), chart(1, lists()), chart(2, None)
    assert prepare_refocus(bench, *rows, more=["--processor", processor_dir]).exit_code == 0
    first, second, third = bench.rows()
    assert [region["box"] for region in first["regions"]] == [[0, 10, 50, 40], [60, 10, 90.5, 40], [100, 10, 130, 100]]
    assert first["images"] == [{"bytes": png(), "path": "0.png"}]
    assert (first["question_type"], first["license"]) == ("chartqa_h_bar", "Apache-2.0")
    assert first["region_tokens"]
    assert (second["has_region"], third["has_region"]) == (False, False)


INSTANCE = pa.struct([("bbox", pa.list_(pa.float64())), ("label", pa.string()), ("name", pa.string())])
TREE = {"images": pa.list_(pa.string()), "problem": pa.string(), "answer": pa.string(),
        "target_instances": pa.list_(INSTANCE)}  # fmt: skip
SALIENT = {name: pa.string() for name in ("dataset", "split", "problem", "solution", "bbox")}
SALIENT_SCHEMA = pa.schema([*SALIENT.items(), ("question_id", pa.int64()), ("image", PICTURE)])


def tree(*boxes, **more) -> dict:
    instances = [{"bbox": list(box), "label": "1", "name": "van"} for box in boxes]
    return {"images": ["images/0.jpg"], "problem": "<image>\nWhat is on the road?", "answer": "A van.",
            "target_instances": instances, **more}  # fmt: skip


def prepare_treevgr(bench, *rows):
    for name in "01":
        bench.picture(f"images/{name}.jpg")
    return prepare_parquet(bench, "treevgr", rows, pa.schema(TREE.items()), "--images", bench.images)


def test_target_instances_of_treevgr_are_named_answer_regions_picture_by_picture(bench):
    choice = tree(images=["images/1.jpg"], problem="<image>\nWhich side? (A) left (B) right", answer="(B)")
    assert prepare_treevgr(bench, tree((20, 30, 60, 80), (0, 0, 330, 210)), choice, tree()).exit_code == 0
    van, without, side = bench.rows()
    assert [(r["label"], r["role"], r["box"]) for r in van["regions"]] == [
        ("van", "answer", [20, 30, 60, 80]),
        ("van", "answer", [0, 0, 320, 200]),
    ]
    assert (van["question"], van["solution"], van["id"]) == ("What is on the road?", "A van.", "train-0.parquet#0")
    assert (without["id"], without["has_region"]) == ("train-0.parquet#2", False)
    assert (side["question"], side["solution"]) == ("Which side? (A) left (B) right", "(B)")


def salient(bbox: str | None, **more) -> dict:
    return {"dataset": "gqa", "split": "train", "question_id": 7, "problem": "What is it?", "solution": "a mug",
            "bbox": bbox, "image": {"bytes": png(), "path": None}, **more}  # fmt: skip


def prepare_saliency(bench, *rows):
    return prepare_parquet(bench, "saliency-r1", rows, SALIENT_SCHEMA)


def test_saliency_r1_boxes_are_shares_written_as_text(bench):
    rows = salient("[0.25, 0.1, 0.5, 1.002]"), salient("[0.5,0,1,1]", dataset="cub"), salient(None)
    assert prepare_saliency(bench, *rows).exit_code == 0
    mug, bird, without = bench.rows()
    assert [region["box"] for region in mug["regions"]] == [[50, 10, 100, 100]]
    assert [region["box"] for region in bird["regions"]] == [[100, 0, 200, 100]]
    assert (mug["question"], mug["solution"], mug["question_type"]) == ("What is it?", "a mug", "gqa")
    assert (bird["question_type"], without["has_region"]) == ("cub", False)


BAD = {
    prepare_visual_cot: (conversation(), [
        (conversation("###[0.1, 0.2, 0.3, 0.4]"), "box_looks_normalised"),
        (conversation("###[1, 2"), "malformed_record"),
        (conversation("###[NaN, 2, 3, 4]"), "malformed_record"),
        (conversation(""), "no_box"),
        (conversation(conversations=[]), "malformed_record"),
        (conversation(image=5), "malformed_record"),
        (conversation(image=["../a.jpg", "###[120, 60, 200, 160]"]), "path_outside_image_dir"),
        ({**PLAIN, "bboxs": []}, "malformed_record"),
        ({**PLAIN, "bboxs": [BOX, [5, 5, 5, 9]]}, "zero_area_box"),
        ({"question": "What?", "image": "cot/a.jpg", "bboxs": [BOX]}, "no_answer"),
    ]),
    prepare_visual_genome: (qa(1), [
        (qa(9, image_id=8), "unknown_image"),
        (qa(9, a_objects=[{**DOG, "w": None}]), "nan_box"),
        (qa(9, a_objects={"x": 1}), "malformed_record"),
        (qa(9, a_objects=[5]), "malformed_record"),
        (qa(9, answer=None), "no_answer"),
        (qa(1), "duplicate_id"),
        ("question", "malformed_record"),
    ]),
    prepare_refocus: (chart(0, lists((0, 10, 50, 40))), [
        (chart(9, {**lists((0, 10, 50, 40)), "x1": []}), "malformed_record"),
        (chart(9, lists((0, float("nan"), 10, 40))), "nan_box"),
        (chart(9, lists((0.1, 0.2, 0.3, 0.4))), "box_looks_normalised"),
        (chart(9, None, image=None), "malformed_record"),
        (chart(9, None, image={"bytes": None, "path": "../../etc/passwd"}), "missing_image"),
        (chart(9, None, image={"bytes": png()[:-20], "path": "x"}), "truncated_image"),
        (chart(9, None, answer=None), "no_answer"),
        (chart(0, None), "duplicate_id"),
    ]),
    prepare_treevgr: (tree((20, 30, 60, 80)), [
        (tree((0.1, 0.2, 0.3, 0.4)), "box_looks_normalised"),
        (tree((60, 30, 20, 80)), "reversed_box"),
        (tree((1, 2, 3)), "malformed_record"),
        (tree((1, 2, 3, 4), images=["images/0.jpg", "images/1.jpg"]), "malformed_record"),
        (tree(images=[]), "malformed_record"),
        (tree(images=["images/7.jpg"]), "missing_image"),
        (tree(answer=None), "no_answer"),
    ]),
    prepare_saliency: (salient("[0.1, 0.2, 0.3, 0.4]"), [
        (salient("[1.064, 0.48, 1.334, 0.749]"), "box_outside_image"),
        (salient("[10, 20, 30, 40]"), "box_looks_like_pixels"),
        (salient("[0.1, 0.2, 0.3"), "malformed_record"),
        (salient("0.1 0.2 0.3 0.4"), "malformed_record"),
        (salient("[0.1, 0.2]"), "malformed_record"),
        (salient("[0.3, 0.2, 0.1, 0.4]"), "reversed_box"),
        (salient("[0.1, 0.2, 0.3, 0.4]", image=None), "malformed_record"),
    ]),
}  # fmt: skip


def test_parquet_files_of_other_data_and_links_to_embedded_images_are_refused(bench):
    pq.write_table(pa.table({"a": [1]}), bench.root / "x.parquet")
    result = bench.prepare("refocus", "--files", bench.root / "x.parquet")
    assert (result.exit_code, "lacks the columns id" in " ".join(result.output.split())) == (2, True)
    assert prepare_refocus(bench, chart(0, None), more=["--link-images"]).exit_code == 2
