"""Small data sets on disk that tests spoil in one place each."""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from PIL import Image
from typer.testing import CliRunner, Result

from sayo.cli import app

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

SAMPLES = Path(__file__).parent / "samples"


@dataclass
class Bench:
    """A folder with images and annotation files for any source."""

    root: Path

    def __post_init__(self) -> None:
        self.images.mkdir(parents=True, exist_ok=True)

    @property
    def images(self) -> Path:
        return self.root / "images"

    def picture(self, name: str, size: tuple[int, int] = (320, 200), **options: Any) -> Path:
        """An image file whose contents depend on its name."""
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = zlib.crc32(name.encode())
        Image.new("RGB", size, (shade % 251, shade // 251 % 241, shade // 60491 % 239)).save(path, **options)
        return path

    def lines(self, *records: Any, name: str = "questions.jsonl") -> Path:
        """A JSON lines file; a text is a line as it stands."""
        path = self.root / name
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        path.write_text("\n".join(lines) + "\n")
        return path

    def json(self, value: Any, name: str = "file.json") -> Path:
        path = self.root / name
        path.write_text(json.dumps(value))
        return path

    def run(self, command: str, *arguments: Any) -> Result:
        """`sayo <command> <arguments>`."""
        return CliRunner().invoke(app, [command, *map(str, arguments)])

    def prepare(self, source: str, *arguments: Any, out: str = "out") -> Result:
        return self.run("prepare", source, *arguments, "--out", self.root / out)

    def rows(self, out: str = "out") -> list[dict[str, Any]]:
        return pq.read_table(self.root / out / "data").to_pylist()

    def contents(self, out: str = "out") -> dict[str, bytes]:
        """Every file below `out`."""
        folder = self.root / out
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def summary(self, out: str = "out") -> dict[str, Any]:
        return json.loads((self.root / out / "summary.json").read_text())

    def rejects(self, out: str = "out") -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.root / out / "rejected.jsonl").read_text().splitlines()]


@dataclass
class Gqa(Bench):
    """GQA files in one folder; `questions` and `graphs` may be changed until `prepare` writes them."""

    questions: dict[str, Any] = field(default_factory=dict)
    graphs: dict[str, Any] = field(default_factory=dict)

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
        self.json(self.questions, "questions.json")
        self.json(self.graphs, "graphs.json")

    def arguments(self, out: str | Path = "out", *more: str) -> list[str]:
        files = ["--questions", self.root / "questions.json", "--scene-graphs", self.root / "graphs.json"]
        return [str(value) for value in ["gqa", *files, "--images", self.images, "--out", self.root / out, *more]]

    def prepare_written(self, *more: str, out: str | Path = "out") -> Result:
        """`sayo prepare gqa` on the files as they are."""
        return self.run("prepare", *self.arguments(out, *more))

    def prepare(self, *more: str, out: str | Path = "out") -> Result:
        """Write the JSON files and run `sayo prepare gqa`."""
        self.write()
        return self.prepare_written(*more, out=out)


@pytest.fixture
def make_gqa(tmp_path: Path) -> Callable[..., Gqa]:
    """`make_gqa(n)`: n sound questions q0..q(n-1) about n images, in the test's folder or another."""

    def make(count: int, folder: Path = tmp_path) -> Gqa:
        gqa = Gqa(folder)
        for index in range(count):
            gqa.add(index)
        return gqa

    return make


@pytest.fixture
def processor_dir() -> Path:
    """The two files of a Qwen3-VL checkpoint that a layout is read from (32-pixel cells)."""
    return SAMPLES / "qwen3_vl"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
