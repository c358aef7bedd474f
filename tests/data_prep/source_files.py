"""Files of each source around the records of `sources.yaml`, or around others."""

import base64
import csv
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from typer.testing import Result

from tests.data_prep.conftest import Bench

CASES = yaml.safe_load(Path(__file__).with_name("sources.yaml").read_text())
del CASES["png"]
FLOATS, TEXT = pa.list_(pa.float64()), pa.string()
PICTURE = pa.struct({"bytes": pa.binary(), "path": TEXT})
SCHEMAS = {
    "refocus": {
        **dict.fromkeys(("id", "question", "answer", "source"), TEXT),
        **dict.fromkeys(("image", "edited_image"), PICTURE),
        "focus_areas_bbox": pa.struct(dict.fromkeys(("x1", "y1", "x2", "y2"), FLOATS)),
    },
    "treevgr": {
        "images": pa.list_(TEXT),
        **dict.fromkeys(("problem", "answer"), TEXT),
        "target_instances": pa.list_(pa.struct({"bbox": FLOATS, "label": TEXT, "name": TEXT})),
    },
    "saliency_r1": {
        **dict.fromkeys(("dataset", "split", "problem", "solution", "bbox"), TEXT),
        "question_id": pa.int64(),
        "image": PICTURE,
    },
}


def prepare(bench: Bench, source: str, records: list, *more: Any, out: str = "out") -> Result:
    """`sayo prepare` on records of a source, with the pictures of its entry in `sources.yaml`."""
    case = CASES[source]
    for name, size in case.get("pictures", {}).items():
        bench.picture(name, tuple(size))
    images = ("--images", bench.images) if "pictures" in case else ()
    files = WRITERS.get(source, parquet(source))(bench, records)
    split = ("--split", case["split"]) if "split" in case else ()
    return bench.prepare(source.replace("_", "-"), *files, *images, *split, *more, out=out)


def vstar(bench: Bench, records: list) -> tuple:
    for record in records:
        if isinstance(record, dict) and record["annotation"] is not None:
            bench.json(record["annotation"], Path("images", record["image"]).with_suffix(".json"))
    return "--questions", bench.lines(*records, name="test_questions.jsonl")


def textvqa(bench: Bench, records: list) -> tuple:
    entries = [{"image_id": "011e7e629fb9ae7b", "ocr_tokens": [], "ocr_info": CASES["textvqa"]["ocr"]}]
    ocr = {"dataset_version": "0.2", "data": [*entries, {"image_id": "b", "ocr_info": 5}, 5]}
    questions = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": records}
    return "--questions", bench.json(questions, "questions.json"), "--ocr", bench.json(ocr, "ocr.json")


def treebench(bench: Bench, records: list) -> tuple:
    file = bench.root / "TreeBench.tsv"
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(records[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(records)
    return "--file", file


def visual_cot(bench: Bench, records: list) -> tuple:
    (bench.root / "benchmark").mkdir(exist_ok=True)
    bench.json(records, "benchmark/gqa.json")
    return "--questions", bench.root / "benchmark"


def visual_genome(bench: Bench, records: list) -> tuple:
    """A record may be an `entry` beside the picture's own."""
    entries = [record["entry"] for record in records if "entry" in record]
    qas = [record for record in records if "entry" not in record]
    questions = bench.json([{"id": 7, "qas": qas}, *entries], "question_answers.json")
    return "--questions", questions, "--image-data", bench.json(CASES["visual_genome"]["images"], "image_data.json")


def refcoco(bench: Bench, records: list | bytes, instances: dict = CASES["refcoco"]["instances"]) -> tuple:
    """The records, or the bytes of a pickle."""
    file = bench.root / "refs(unc).p"
    file.write_bytes(records if isinstance(records, bytes) else pickle.dumps(records, protocol=0))
    return "--refs", file, "--instances", bench.json(instances, "instances.json")


def jsonl(bench: Bench, records: list) -> tuple:
    return "--questions", bench.lines(*records)


def parquet(source: str):
    """A function that writes the records into a file of the source's schema; bytes of pictures are given as base64."""

    def write(bench: Bench, records: list) -> tuple:
        (bench.root / "data").mkdir(exist_ok=True)
        table = pa.Table.from_pylist(list(map(decoded, records)), schema=pa.schema(SCHEMAS[source]))
        pq.write_table(table, bench.root / "data" / "train-0.parquet")
        return "--files", bench.root / "data"

    return write


def decoded(record: dict) -> dict:
    image = record.get("image")
    if not image or image["bytes"] is None:
        return record
    return {**record, "image": {**image, "bytes": base64.b64decode(image["bytes"])}}


WRITERS = {write.__name__: write for write in (vstar, textvqa, treebench, visual_cot, visual_genome, refcoco, jsonl)}
