"""Prepared data, a server on loopback, and the command line on both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthesize.prepared import anchors_line
from synthesize.stub_server import StubServer
from typer.testing import CliRunner

from data_prep.rows import features
from sayo.cli import app


@pytest.fixture
def prepare(tmp_path) -> Callable[..., Path]:
    """Write rows as `sayo prepare` stores them, over two files; returns the folder."""

    def write(rows: list[dict]) -> Path:
        folder = tmp_path / "prepared"
        (folder / "data").mkdir(parents=True)
        half = (len(rows) + 1) // 2
        for number, part in enumerate((rows[:half], rows[half:])):
            table = pa.Table.from_pylist(part, schema=features().arrow_schema)
            pq.write_table(table, folder / f"data/train-0000{number}-of-00002.parquet")
        return folder

    return write


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    stub = StubServer()
    yield stub
    stub.close()


def read_out(out: Path) -> SimpleNamespace:
    """What lies in OUT."""
    rejected = out / "rejected.jsonl"
    return SimpleNamespace(
        out=out,
        rows=[row for path in sorted(out.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()],
        rejected=[json.loads(line) for line in rejected.read_text().splitlines()] if rejected.exists() else [],
        summary=json.loads((out / "summary.json").read_text()) if (out / "summary.json").exists() else None,
    )


@pytest.fixture
def run(server) -> Callable[[list[str]], SimpleNamespace]:
    """Run a command; returns its exit code and output, and what lies in OUT."""

    def synthesize(arguments: list[str]) -> SimpleNamespace:
        result = CliRunner().invoke(app, arguments)
        if not isinstance(result.exception, SystemExit | None):
            raise result.exception
        read = read_out(Path(arguments[arguments.index("--out") + 1]))
        return SimpleNamespace(exit_code=result.exit_code, output=result.output, **vars(read))

    return synthesize


@pytest.fixture
def anchors(prepare, run, server, tmp_path) -> Callable[..., SimpleNamespace]:
    """`visual-anchors` over some rows."""

    def synthesize(rows: list[dict], *more: object) -> SimpleNamespace:
        folder = tmp_path / "prepared"
        prepared = folder if folder.exists() else prepare(rows)
        return run(anchors_line(prepared, tmp_path / "out", server.url, *more))

    return synthesize
