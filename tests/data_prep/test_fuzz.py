"""Whatever stands in a record, no row is lost unaccounted and no traceback reaches the user."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

SAMPLES = Path(__file__).parent / "samples" / "gqa"
JUNK = [None, True, -1, 10**400, 1e308, float("nan"), float("-inf"), "", " ", "\ud800", "a\0b", "../x", "(-)", "(1)",
        "x (9,)", [], [[]], {}, {"0": None}, {"0": []}, "1" * 5000]  # fmt: skip


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [spot for key in keys for spot in [(value, key), *spots(value[key])]]


def mutate(record: Any, rng: random.Random) -> Any:
    record = copy.deepcopy(record)
    for _ in range(rng.randint(1, 3)):
        if found := spots(record):
            container, key = rng.choice(found)
            if rng.random() < 0.2 and isinstance(container, dict):
                del container[key]
            else:
                container[key] = copy.deepcopy(rng.choice(JUNK))
    return record


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_records_are_kept_or_rejected(make_gqa, processor_dir: Path, count: int):
    rng = random.Random(count)
    questions = list(json.loads((SAMPLES / "train_questions.json").read_text()).values())
    graphs = json.loads((SAMPLES / "train_sceneGraphs.json").read_text())
    gqa = make_gqa(1)  # one sound row
    for image_id, graph in graphs.items():
        Image.new("RGB", (graph["width"], graph["height"])).save(gqa.images / f"{image_id}.jpg")
    for index in range(count):
        question = rng.choice(questions)
        name = f"m{index}"
        gqa.graphs[name] = graphs[question["imageId"]]
        if rng.random() < 0.5:  # spoil the objects that the question uses, not the other twenty
            used = {oid: entry for oid, entry in gqa.graphs[name]["objects"].items() if oid in json.dumps(question)}
            gqa.graphs[name] = mutate({**gqa.graphs[name], "objects": used}, rng)
            gqa.questions[name] = {**question, "imageId": name}
        else:
            gqa.questions[name] = mutate({**question, "imageId": name}, rng)
        (gqa.images / f"{name}.jpg").symlink_to(gqa.images / f"{question['imageId']}.jpg")
    result = gqa.prepare("--processor", str(processor_dir))
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code == 0, result.output
    summary = gqa.summary()
    assert summary["read"] == count + 1
    assert summary["kept"] + len(gqa.rejects()) == count + 1
    assert count * 0.2 < summary["kept"] < count * 0.9
    assert len(summary["rejected_by_reason"]) >= 4
