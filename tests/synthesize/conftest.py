"""Small prepared data, the commands that ask the stub server about them, and what a run makes of them."""

import io
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from data_prep.rows import features
from sayo.cli import app

COLOURS = ("red", "blue", "green")


def picture(colour: str, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, kind, **options)
    return buffer.getvalue()


def row(index: int, **changes: object) -> dict:
    """A row whose picture is a field of the colour that is the answer."""
    colour = COLOURS[index % 3]
    topic = " ".join(f"w{index}{letter}" for letter in "abcdef")  # so that no two completions are near duplicates
    question = str(changes.get("question", f"{topic}, what fills field {index}?"))
    return {
        **dict.fromkeys(features()),
        "id": f"q{index}",
        "prompt": [{"role": "user", "content": question}],
        "images": [{"bytes": picture(colour), "path": f"{index}.png"}],
        "question": question,
        "solution": colour,
        "answers": [colour],
        "regions": [],
        "has_region": False,
        "image_sizes": [[8, 6]],
        "license": "CC-BY-4.0",
        "split": "train",
        **changes,
    }


def write_prepared(rows: list[dict], folder: Path) -> Path:
    """Write rows as `sayo prepare` stores them, over two files, unless that was done before."""
    if not folder.exists():
        (folder / "data").mkdir(parents=True)
        half = (len(rows) + 1) // 2
        for number, part in enumerate((rows[:half], rows[half:])):
            table = pa.Table.from_pylist(part, schema=features().arrow_schema)
            pq.write_table(table, folder / f"data/train-0000{number}-of-00002.parquet")
    return folder


def command(method: str, prepared: Path, out: Path, url: str, *more: object) -> list[str]:
    roles = {"visual-anchors": ("describe", "reason", "anchor"), "look-back": ("cot", "back")}[method]
    models = ",".join(f"{role}={role}" for role in roles)
    line = ("synthesize", method, prepared, "--out", out, "--server", url, "--model", models, *more)
    return [str(argument) for argument in line]


def run_command(arguments: list[str]) -> SimpleNamespace:
    """Its exit code and output, and what lies in OUT."""
    result = CliRunner().invoke(app, arguments)
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    out = Path(arguments[arguments.index("--out") + 1])
    rejected, summary = out / "rejected.jsonl", out / "summary.json"
    return SimpleNamespace(
        exit_code=result.exit_code,
        output=" ".join(result.output.split()),
        out=out,
        rows=[row for path in sorted(out.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()],
        rejected=[json.loads(line) for line in rejected.read_text().splitlines()] if rejected.exists() else [],
        summary=json.loads(summary.read_text()) if summary.exists() else None,
    )


def _run(method, server, tmp_path, rows, *more):
    prepared = write_prepared(rows, tmp_path / "prepared")
    return run_command(command(method, prepared, tmp_path / "out", server.url, *more))


@pytest.fixture
def anchors(server, tmp_path):
    """`anchors(rows, *options)` runs `sayo synthesize visual-anchors` over the rows (those of its first call)."""
    return partial(_run, "visual-anchors", server, tmp_path)


@pytest.fixture
def look_back(server, tmp_path):
    """`look_back(rows, *options)`, likewise."""
    return partial(_run, "look-back", server, tmp_path)
