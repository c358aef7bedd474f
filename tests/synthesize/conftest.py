"""A server on loopback, and the commands that ask it about small prepared data."""

from functools import partial

import pytest
from synthesize.prepared import command, run_command, write_prepared
from synthesize.stub_server import StubServer


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    stub = StubServer()
    yield stub
    stub.close()


def _run(method, server, tmp_path, rows, *more):
    return run_command(
        command(method, write_prepared(rows, tmp_path / "prepared"), tmp_path / "out", server.url, *more)
    )


@pytest.fixture
def anchors(server, tmp_path):
    """`anchors(rows, *options)` runs `sayo synthesize visual-anchors` over the rows (those of its first call)."""
    return partial(_run, "visual-anchors", server, tmp_path)


@pytest.fixture
def look_back(server, tmp_path):
    """`look_back(rows, *options)`, likewise."""
    return partial(_run, "look-back", server, tmp_path)
