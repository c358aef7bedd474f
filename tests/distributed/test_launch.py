"""A launch that would silently be something else stops, and names the line to use instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from toy_runs import recipe_values

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(toys, tmp_path):
    def write(**fields) -> Path:
        values = recipe_values(toys, tmp_path / "run")
        values["trainer"] = {**values["trainer"], **fields}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.mark.parametrize(
    ("kind", "fields", "messages"),
    [
        # MULTI_GPU without `use_cpu` would be two independent rank-0 jobs in the same folder
        ("ddp", {"use_cpu": False}, ["The launcher started 2 processes, but each of them trains alone", "cpu.yaml"]),
        # accelerate's own MULTI_CPU starts one process
        ("multi_cpu", {}, ["asked for several processes but started one", "cpu.yaml trainer.use_cpu=true"]),
        ("fsdp2", {}, ["FSDP was asked for, but this is MULTI_CPU with sharding none"]),
    ],
)
def test_what_would_silently_be_something_else(launch, recipe, tmp_path, kind, fields, messages):
    if kind == "multi_cpu":
        values = yaml.safe_load((ROOT / "recipes/accelerate/cpu.yaml").read_text())
        kind = str(tmp_path / "multi_cpu.yaml")
        Path(kind).write_text(yaml.safe_dump({**values, "distributed_type": "MULTI_CPU", "use_cpu": True}))
    done = launch(kind, ROOT / "scripts/train.py", "--config-name", recipe(**fields), status=None)
    assert done.returncode != 0 and all(message in done.stderr for message in messages), done.stderr[-2000:]
