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


def test_two_lonely_jobs(launch, recipe):
    """MULTI_GPU without `use_cpu` would be two independent rank-0 jobs in the same folder."""
    done = launch("ddp", ROOT / "scripts/train.py", "--config-name", recipe(use_cpu=False), status=None)
    assert done.returncode != 0
    assert "The launcher started 2 processes, but each of them trains alone" in done.stderr
    assert "recipes/accelerate/cpu.yaml" in done.stderr and "trainer.use_cpu=true" in done.stderr


def test_one_process_where_two_were_asked_for(launch, recipe, tmp_path):
    """accelerate's own MULTI_CPU starts one process."""
    file = tmp_path / "multi_cpu.yaml"
    values = yaml.safe_load((ROOT / "recipes/accelerate/cpu.yaml").read_text())
    file.write_text(yaml.safe_dump({**values, "distributed_type": "MULTI_CPU", "use_cpu": True}))
    done = launch(str(file), ROOT / "scripts/train.py", "--config-name", recipe(), status=None)
    assert done.returncode != 0
    assert "asked for several processes but started one" in done.stderr and "cpu.yaml" in done.stderr


def test_fsdp_that_would_not_shard(launch, recipe):
    done = launch("fsdp2", ROOT / "scripts/train.py", "--config-name", recipe(), status=None)
    assert done.returncode != 0
    assert "FSDP was asked for, but this is MULTI_CPU without any sharding" in done.stderr
