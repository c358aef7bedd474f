"""The toy world as every test meets it, made once per session."""

import os
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the hub is a bug
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest
from synthesize.stub_server import StubServer
from toy_runs import Toy, make_toy
from typer.testing import CliRunner


@pytest.fixture(scope="session")
def sayo_command():
    """Run a `sayo` command line in this process and return its result."""
    from sayo.cli import app

    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def server(monkeypatch):
    """An OpenAI-compatible server on loopback."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    stub = StubServer()
    yield stub
    stub.close()


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> SimpleNamespace:
    """`world`, `policy` (untrained Qwen3-VL) and `prepared` (train and test splits) of a small toy world."""
    made = make_toy(tmp_path_factory.mktemp("toy"), ["qwen3_vl"], num_images=40, splits=("train", "test"))
    return SimpleNamespace(world=made.world, policy=made.policy["qwen3_vl"], prepared=made.data["qwen3_vl"])


@pytest.fixture(scope="session")
def toys(tmp_path_factory) -> Toy:
    """A smaller toy world, with a policy and mapped data of each of two families."""
    return make_toy(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="session")
def toy_policy(toy):
    """Model (eval mode, float32) and processor of `toy.policy`."""
    import torch
    from transformers import AutoModelForImageTextToText

    from sayo.processors import load_auto_processor

    model = AutoModelForImageTextToText.from_pretrained(toy.policy, dtype=torch.float32).eval()
    return model, load_auto_processor(toy.policy)


@pytest.fixture(scope="session")
def toy_rows(toy):
    """The test split of `toy.prepared`, as training and evaluation load it."""
    from sayo.recipes import DataSection
    from sayo.training.setup import load_data

    return load_data(DataSection(path=str(toy.prepared)), "test")
