"""A launcher that is killed with -9 takes its ranks with it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from toy_runs import recipe_values

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_ranks_die_with_their_launcher(environment, toys, tmp_path):
    """torch's launcher gives every rank a session of its own: nothing but the kernel can end them with it."""
    run = tmp_path / "run"
    values = recipe_values(toys, run, max_steps=5000, log_completions=True, num_completions_to_print=0)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"]
    script = [ROOT / "scripts/train.py", "--config-name", tmp_path / "recipe.yaml"]
    command = [str(word) for word in (*launcher, ROOT / "recipes/accelerate/cpu.yaml", *script)]
    process = subprocess.Popen(
        command, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    ranks: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 120
        while not list(run.glob("completions/*.parquet")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        ranks = psutil.Process(process.pid).children(recursive=True)
        assert sum("train.py" in " ".join(rank.cmdline()) for rank in ranks) == 2
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    for rank in alive:
        rank.kill()
    assert not alive
