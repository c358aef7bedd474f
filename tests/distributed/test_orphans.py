"""A launcher that is killed with -9 takes its ranks with it."""

from __future__ import annotations

import psutil
import pytest
import yaml
from distributed.conftest import wait_for_a_step
from toy_runs import recipe_values

pytestmark = pytest.mark.slow


def test_ranks_die_with_their_launcher(start, toys, tmp_path):
    """torch's launcher gives every rank a session of its own: nothing but the kernel can end them with it."""
    run = tmp_path / "run"
    values = recipe_values(toys, run, max_steps=5000, log_completions=True, num_completions_to_print=0)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    process = start("cpu", tmp_path / "recipe.yaml", tmp_path / "log", "--main_process_port", "0")
    wait_for_a_step(run, [process])
    ranks = psutil.Process(process.pid).children(recursive=True)
    assert sum("train.py" in " ".join(rank.cmdline()) for rank in ranks) == 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    for rank in alive:
        rank.kill()
    assert not alive
