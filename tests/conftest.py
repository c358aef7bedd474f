"""The toy world as every test meets it: real files, made once per session by the commands that users type."""

import os
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the hub is a bug
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest
from toy_runs import Toy, make_toy
from typer.testing import CliRunner


@pytest.fixture(scope="session")
def sayo_command():
    """Run a `sayo` command line in this process and return its result."""
    from sayo.cli import app

    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="session")
def toy(tmp_path_factory, sayo_command) -> SimpleNamespace:
    """`world`, `policy` (untrained Qwen3-VL) and `prepared` (train and test splits) of a small toy world."""
    root: Path = tmp_path_factory.mktemp("toy")
    commands = [
        ("toy", "world", "--out", root / "world", "--num-images", 40),
        ("toy", "policy", "--out", root / "policy"),
    ]
    for split in ("train", "test"):
        files = ("--questions", root / f"world/{split}_questions.json")
        files += ("--scene-graphs", root / f"world/{split}_sceneGraphs.json", "--images", root / "world/images")
        options = ("--processor", root / "policy", "--split", split, "--out", root / "prepared")
        commands.append(("prepare", "gqa", *files, *options))
    for words in commands:
        result = sayo_command(*words)
        assert result.exit_code == 0, result.output
    return SimpleNamespace(world=root / "world", policy=root / "policy", prepared=root / "prepared")


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
