"""Every source: published records become rows, and what cannot be used is named and costs no sound row."""

import base64
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pycocotools import mask as coco

from data_prep.sources import load_sources
from data_prep.sources.textvqa import words_of_answer
from tests.data_prep.conftest import SAMPLES
from tests.data_prep.source_files import CASES, prepare

FILES = yaml.safe_load(Path(__file__).with_name("files.yaml").read_text())
BAD = [(source, *case) for source in CASES for case in CASES[source]["bad"]]
BAD.append(("treebench", {**CASES["treebench"]["records"][1], "target_instances": "[" * 5000}, "malformed_record"))


def part(found: Any, wanted: Any) -> Any:
    """What is `wanted` of what was found: some keys of each dictionary; bytes as base64, numbers rounded."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return {key: part(found[key], value) for key, value in wanted.items()}
    if isinstance(wanted, list) and isinstance(found, list):
        return [part(*pair) for pair in zip_longest(found, wanted)]
    if isinstance(found, bytes):
        return base64.b64encode(found).decode()
    return round(found, 6) if isinstance(found, float) else found


@pytest.mark.parametrize("source", CASES)
def test_records_become_rows(bench, source: str):
    result = prepare(bench, source, CASES[source]["records"])
    assert result.exit_code == 0, result.output
    assert part(bench.rows(), CASES[source]["rows"]) == CASES[source]["rows"]


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[0]} {case[2]}")
def test_bad_records_are_named(bench, case):
    source, record, reason, *detail = case
    result = prepare(bench, source, [CASES[source]["records"][0], record])
    assert result.exit_code == 0, result.output
    assert bench.summary()["rejected_by_reason"] == {reason: 1}
    (rejected,) = bench.rejects()
    assert all(words in rejected["detail"] for words in detail)
    assert source != "jsonl" or rejected["id"] == "questions.jsonl:2"


@pytest.mark.parametrize("source", load_sources()[0])
def test_missing_files_are_named(bench, source: str):
    options = load_sources()[0][source]["options"]
    required = [name for name, option in options.items() if "default" not in option]
    words = [(f"--{name.replace('_', '-')}", bench.images if name == "images" else "none") for name in required]
    result = bench.prepare(source, *(word for pair in words for word in pair))
    assert (result.exit_code, f"sayo prepare {source} --help" in " ".join(result.output.split())) == (2, True)


@pytest.mark.parametrize(("source", "option", "name", "content", "message"), FILES["other_files"])
def test_other_files_are_one_line(bench, source: str, option: str, name: str, content: str, message: str):
    (bench.root / name).write_bytes(content.encode("latin1"))
    images = ("--images", bench.images) if source == "coco" else ()
    result = bench.prepare(source, option, bench.root / name, *images)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()) and "Traceback" not in result.output


def test_parquet_files_of_other_data_and_links_to_embedded_images_are_refused(bench):
    pq.write_table(pa.table({"a": [1]}), bench.root / "x.parquet")
    result = bench.prepare("refocus", "--files", bench.root / "x.parquet")
    assert (result.exit_code, "lacks the columns id" in " ".join(result.output.split())) == (2, True)
    assert prepare(bench, "refocus", CASES["refocus"]["records"], "--link-images").exit_code == 2


@pytest.mark.parametrize(("answers", "words", "expected"), FILES["words"])
def test_which_words_are_an_answer_of_textvqa(answers: list[str], words: list[str], expected: list[int]):
    assert words_of_answer(answers, words) == expected


@pytest.mark.parametrize("file", FILES["samples"])
def test_every_row_of_a_sample_has_the_boxes_of_its_record(bench, file: str):
    source, count, split, image, question, field, known = FILES["samples"][file]
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
