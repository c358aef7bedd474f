"""A small GQA on disk that tests spoil in one place each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from data_prep.cli import prepare_app

QWEN3_VL = {
    "config.json": {"model_type": "qwen3_vl"},
    "preprocessor_config.json": {
        "patch_size": 16,
        "merge_size": 2,
        "size": {"shortest_edge": 4096, "longest_edge": 16777216},
    },
}


@dataclass
class Gqa:
    """GQA files in one folder; `questions` and `graphs` may be changed until `prepare` writes them."""

    root: Path
    questions: dict[str, Any] = field(default_factory=dict)
    graphs: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> Path:
        return self.root / "images"

    def add(self, index: int, size: tuple[int, int] = (320, 200)) -> None:
        """Question `q<index>`: the colour of object 1<index> in image `<index>`, box (20, 30, 40, 50) xywh."""
        oid = f"1{index}"
        objects = {oid: {"name": "mug", "x": 20, "y": 30, "w": 40, "h": 50, "attributes": [], "relations": []}}
        self.graphs[str(index)] = {"width": size[0], "height": size[1], "objects": objects}
        self.questions[f"q{index}"] = {
            "question": f"What color is mug {index}?",
            "imageId": str(index),
            "answer": "red",
            "fullAnswer": "The mug is red.",
            "semantic": [
                {"operation": "select", "dependencies": [], "argument": f"mug ({oid})"},
                {"operation": "query", "dependencies": [0], "argument": "color"},
            ],
            "annotations": {"answer": {}, "question": {"3": oid}, "fullAnswer": {"1": oid}},
            "types": {"detailed": "directOf", "semantic": "attr", "structural": "query"},
        }
        Image.new("RGB", size, (40 + index % 200, 90, 120)).save(self.images / f"{index}.jpg")

    def write(self) -> None:
        (self.root / "questions.json").write_text(json.dumps(self.questions))
        (self.root / "graphs.json").write_text(json.dumps(self.graphs))

    def arguments(self, out: str | Path = "out", *more: str) -> list[str]:
        files = ["--questions", self.root / "questions.json", "--scene-graphs", self.root / "graphs.json"]
        return [str(value) for value in ["gqa", *files, "--images", self.images, "--out", self.root / out, *more]]

    def prepare(self, *more: str, out: str | Path = "out") -> Result:
        """Write the JSON files and run `sayo prepare gqa`."""
        self.write()
        return CliRunner().invoke(prepare_app, self.arguments(out, *more))

    def summary(self, out: str = "out") -> dict[str, Any]:
        return json.loads((self.root / out / "summary.json").read_text())

    def rejects(self, out: str = "out") -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.root / out / "rejects.jsonl").read_text().splitlines()]


@pytest.fixture
def make_gqa(tmp_path: Path) -> Callable[[int], Gqa]:
    """`make_gqa(n)`: n sound questions q0..q(n-1) about n images."""

    def make(count: int) -> Gqa:
        gqa = Gqa(tmp_path)
        gqa.images.mkdir()
        for index in range(count):
            gqa.add(index)
        return gqa

    return make


@pytest.fixture
def processor_dir(tmp_path: Path) -> Path:
    """The two files of a Qwen3-VL checkpoint that a layout is read from (32-pixel cells)."""
    folder = tmp_path / "qwen3_vl"
    folder.mkdir()
    for name, content in QWEN3_VL.items():
        (folder / name).write_text(json.dumps(content))
    return folder
