"""Stand-ins of published models for the engines' tests (`make test-vllm`)."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.stand_ins import make_stand_in

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory) -> Callable[[str], Path]:
    """Family -> folder of its stand-in."""
    folders: dict[str, Path] = {}

    def made(family: str) -> Path:
        if family not in folders:
            folders[family] = make_stand_in(family, tmp_path_factory.mktemp("models") / family)
        return folders[family]

    return made
