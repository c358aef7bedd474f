"""Whatever stands in a record, no row is lost unaccounted and no traceback reaches the user."""

import copy
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data_prep import source_files
from tests.data_prep.conftest import SAMPLES

SOUND = yaml.safe_load((SAMPLES / "sound.yaml").read_text())
JUNK = [None, True, -1, 10**400, 1e308, float("nan"), float("-inf"), "", " ", "\ud800", "a\0b", "../x", "(-)", "(1)",
        "x (9,)", [], [[]], {}, {"0": None}, {"0": []}, "1" * 5000, [0, 0, 1, 1], [1e9] * 8]  # fmt: skip


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [spot for key in keys for spot in [(value, key), *spots(value[key])]]


def mutate(record: Any, rng: random.Random) -> Any:
    record = copy.deepcopy(record)
    for _ in range(rng.randint(1, 2)):
        if found := spots(record):
            container, key = rng.choice(found)
            if rng.random() < 0.2 and isinstance(container, dict):
                del container[key]
            else:
                container[key] = copy.deepcopy(rng.choice(JUNK))
    return record


def mutated(samples: list, count: int) -> list:
    """A sound record, then `count` mutations."""
    rng = random.Random(count)
    return [samples[0], *(mutate(rng.choice(samples), rng) for _ in range(count))]


def half_mutated(records: Iterable[Any], rng: random.Random) -> list:
    return [mutate(record, rng) if rng.random() < 0.5 else record for record in records]


# One function for each source writes `count` records or more, most of them spoilt, and returns the options that name
# the files, and the number of records (None where a mutation can change it).


def gqa(bench, rng: random.Random, count: int):
    samples = list(json.loads((SAMPLES / "gqa" / "train_questions.json").read_text()).values())
    scenes = json.loads((SAMPLES / "gqa" / "train_sceneGraphs.json").read_text())
    for image_id, scene in scenes.items():
        bench.picture(f"{image_id}.jpg", (scene["width"], scene["height"]))
    questions, graphs = {}, {}
    for name in (f"m{index}" for index in range(count)):
        sample = rng.choice(samples)
        question, graph = {**sample, "imageId": name}, scenes[sample["imageId"]]
        if rng.random() < 0.5:  # spoil the objects that the question uses, not the other twenty
            used = {oid: entry for oid, entry in graph["objects"].items() if oid in json.dumps(question)}
            questions[name], graphs[name] = question, mutate({**graph, "objects": used}, rng)
        else:
            questions[name], graphs[name] = mutate(question, rng), graph
        (bench.images / f"{name}.jpg").symlink_to(bench.images / f"{sample['imageId']}.jpg")
    files = ("--questions", bench.json(questions, "q.json"), "--scene-graphs", bench.json(graphs, "graphs.json"))
    return files, count


def jsonl(bench, rng: random.Random, count: int):
    records = mutated(SOUND["jsonl"], count)
    for place in rng.sample(range(1, count), count // 20):  # and lines that are no JSON any more
        line = json.dumps(records[place])
        records[place] = line[: rng.randrange(1, len(line))] + rng.choice(["", "}", "\\", "\ufffd"])
    return ("--questions", bench.lines(*records), "--masks", bench.images), count + 1


def visual_cot(bench, rng: random.Random, count: int):
    return source_files.visual_cot(bench, mutated(SOUND["visual_cot"], count)), count + 1


def visual_genome(bench, rng: random.Random, count: int):
    sound = SOUND["visual_genome"]
    qas = [
        {**record, "qa_id": index} for index, record in enumerate(mutated(sound, count)) if isinstance(record, dict)
    ]
    file = bench.json([{"id": 7, "qas": qas}, *mutated([{"qas": sound}], 20)], "question_answers.json")
    images = mutated([{"image_id": 7, "width": 64, "height": 48, "url": "x/VG_100K/7.jpg"}], 20)
    return ("--questions", file, "--image-data", bench.json([*images, images[0]], "image_data.json")), None


def refcoco(bench, rng: random.Random, count: int):
    dog, sound, image = (SOUND["refcoco"][name] for name in ("annotation", "ref", "image"))
    spoilt = half_mutated([dog] * (count - 2), rng)
    annotations = [dog, *({**entry, "id": number} for number, entry in enumerate(spoilt, 2))]
    refs = (
        {**sound, "ann_id": rng.randrange(1, count), "sentences": [{"sent": "x", "sent_id": number + 6}]}
        for number in range(count)
    )
    entries = {"images": [image], "annotations": annotations}
    instances = {**entries, "categories": [{"id": 3, "name": "cup"}]}
    return source_files.refcoco(bench, [sound, *half_mutated(refs, rng)], instances), None


def coco(bench, rng: random.Random, count: int):
    """Rejected annotations and questions are counted; a scene's broken objects silence their class, nothing else."""
    images, annotations = [], []
    for number in range(count // 3):
        image = {**SOUND["coco"]["image"], "id": number}
        images.append(mutate(image, rng) if rng.random() < 0.2 else image)
        for index, one in enumerate(SOUND["coco"]["annotations"]):
            entry = {**one, "id": number * 3 + index, "image_id": number}
            annotations.append(mutate(entry, rng) if number and rng.random() < 0.4 else entry)
    categories = [{"id": number, "name": f"thing {number}", "supercategory": "animal"} for number in (1, 2, 3)]
    content = {"licenses": [{"id": 1, "name": "L"}], "images": images, "annotations": annotations}
    file = bench.json({**content, "categories": categories}, "instances.json")
    return ("--instances", file, "--least-area", 50), None


def refocus(bench, rng: random.Random, count: int):
    sound = source_files.CASES["refocus"]["records"][0]
    rows = [sound]
    for index in range(count):
        row = {**sound, "id": f"{index}", "focus_areas_bbox": {name: [] for name in ("x1", "y1", "x2", "y2")}}
        for box in random_boxes(rng, SOUND["refocus"]["numbers"], (1, 1, 60, 60)):
            for values, value in zip(row["focus_areas_bbox"].values(), box, strict=True):
                values.append(value)
        rows.append(lacking(row, rng))
    return source_files.parquet("refocus")(bench, rows), count + 1


def treevgr(bench, rng: random.Random, count: int):
    choices, sound = SOUND["treevgr"], source_files.CASES["treevgr"]["records"][0]
    instance = sound["target_instances"][0]
    rows = [{**sound, "images": ["7.jpg"], "target_instances": [instance]}]
    for _ in range(count):
        boxes = random_boxes(rng, choices["numbers"], (20, 30, 60, 80))
        instances = [{**instance, "bbox": box[: rng.choice([4, 4, 4, 3])]} for box in boxes]
        rows.append(lacking({**sound, "images": rng.choice(choices["images"]), "target_instances": instances}, rng))
    return source_files.parquet("treevgr")(bench, rows), count + 1


def saliency_r1(bench, rng: random.Random, count: int):
    sound, texts = source_files.CASES["saliency_r1"]["records"][0], [*SOUND["saliency_r1"]["texts"], "9" * 5000]
    texts = [rng.choice(texts) if rng.random() < 0.5 else texts[0] for _ in range(count)]
    rows = [sound, *(lacking({**sound, "bbox": text}, rng) for text in texts)]
    return source_files.parquet("saliency_r1")(bench, rows), count + 1


def random_boxes(rng: random.Random, numbers: list, sound: tuple) -> list:
    """None to two, half of them sound."""
    number = rng.randint(0, 2)
    return [[rng.choice(numbers) for _ in range(4)] if rng.random() < 0.5 else sound for _ in range(number)]


def lacking(row: dict, rng: random.Random) -> dict:
    """A row of a parquet file, sometimes without one value or with half a picture."""
    if rng.random() < 0.2:
        row[rng.choice(list(row))] = None
    if rng.random() < 0.1 and row.get("image"):
        row["image"] = {"bytes": rng.choice(["", "aaaa", row["image"]["bytes"][:48]]), "path": "a\0b"}
    return row


def vstar(bench, rng: random.Random, count: int):
    sound, boxes = SOUND["vstar"]["question"], SOUND["vstar"]["boxes"]
    for number, annotation in enumerate([boxes, *half_mutated([boxes] * (count - 1), rng)]):
        bench.json(annotation, f"images/{number}.json")
        if number != 7:
            (bench.images / f"{number}.jpg").symlink_to(bench.images / "a.jpg")
    first, *rest = ({**sound, "image": f"{number}.jpg"} for number in range(count))
    return ("--questions", bench.lines(first, *half_mutated(rest, rng))), count


def textvqa(bench, rng: random.Random, count: int):
    sound, entry = SOUND["textvqa"]["question"], SOUND["textvqa"]["image"]
    entries = [{**mutate(entry, rng), "image_id": f"{number}"} for number in range(30)]
    for number in range(30):
        (bench.images / f"{number}.png").symlink_to(bench.images / "a.jpg")
    images = [*map(str, range(30)), *"ab" * 9]
    questions = ({**sound, "question_id": number, "image_id": rng.choice(images)} for number in range(count))
    file = bench.json({"data": half_mutated(questions, rng)}, "q.json")
    return ("--questions", file, "--ocr", bench.json({"data": [entry, *entries]}, "ocr.json")), count


def treebench(bench, rng: random.Random, count: int):
    rows = [{**source_files.CASES["treebench"]["records"][0], "index": number} for number in range(count)]
    for number in range(1, count):
        boxes = json.dumps(mutate([[10, 20, 60, 80], [100, 20, 130, 40]], rng))
        row = {**rows[number], "target_instances": boxes} if rng.random() < 0.5 else mutate(rows[number], rng)
        rows[number] = {name: str(value).encode("ascii", "replace").decode() for name, value in row.items()}
    return source_files.treebench(bench, rows), count


WITH_PICTURES = [gqa, jsonl, visual_cot, visual_genome, refcoco, coco, treevgr, vstar, textvqa]


@pytest.fixture
def pictures(bench):
    for name in ("a.jpg", "b.jpg", "7.jpg"):
        bench.picture(name, (64, 48))
    return bench


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("write", [*WITH_PICTURES, refocus, saliency_r1, treebench])
def test_every_row_is_kept_or_listed(pictures, processor_dir: Path, write, count: int):
    """No traceback; every row read is accounted for; the mutations neither did nothing nor spoilt everything."""
    files, read = write(pictures, random.Random(count), count)
    images = ("--images", pictures.images) if write in WITH_PICTURES else ()
    result = pictures.prepare(write.__name__.replace("_", "-"), *files, *images, "--processor", processor_dir)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    assert result.exit_code == 0, result.output
    summary, rejected = pictures.summary(), pictures.rejects()
    assert summary["read"] == (read or summary["read"])
    assert summary["kept"] + len(rejected) == summary["read"] > count // 3
    assert sum(summary["rejected_by_reason"].values()) == len(rejected)
    assert summary["read"] * 0.05 < summary["kept"] < summary["read"] * 0.97
    assert len(summary["rejected_by_reason"]) >= 4
