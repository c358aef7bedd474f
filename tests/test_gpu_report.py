"""`QUICK=1 scripts/gpu_report.sh`: every part runs, on the CPU where there is no GPU, and none runs twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import KERNELS, NOT_INSTALLED, is_missed, main
from benchmarks.harness import ROOT

PARTS_OF_QUICK = {"kernels", "capture_4b", "preflight", "engines"}


@pytest.mark.slow
def test_every_part_runs_once(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = {"args": ["bash", "scripts/gpu_report.sh"], "cwd": ROOT, "capture_output": True, "text": True}
    command["env"] = {**os.environ, "PATH": path, "QUICK": "1", "OUT": str(tmp_path), "MINUTES": "30"}
    first = subprocess.run(**command)
    reports = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert reports.keys() == PARTS_OF_QUICK and all("missed" in report for report in reports.values()), first.stderr
    kernels = [row["case"] for row in reports["kernels"]["rows"]]
    assert all(any(case.startswith(kernel) for case in kernels) for kernel in KERNELS), "none is left out silently"
    assert reports["kernels"]["missed"] == reports["engines"]["missed"] == []
    assert "| kernels | sdpa, float32 |" in " ".join(first.stdout.split())

    times = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")}
    (tmp_path / "kernels.json").write_text(json.dumps({"rows": reports["kernels"]["rows"][:1]}))
    again = subprocess.run(**{**command, "args": [*command["args"], "kernels", "preflight"]})
    assert {file for file in times if file.stat().st_mtime_ns != times[file]} == {tmp_path / "kernels.json"}
    assert [row["case"] for row in json.loads((tmp_path / "kernels.json").read_text())["rows"]] == kernels
    assert again.returncode == bool(reports["preflight"]["missed"])


@pytest.mark.parametrize(
    ("row", "missed"),
    [
        ({"value": 1.02, "target": 1.03}, False),
        ({"value": 1.04, "target": 1.03}, True),
        ({"value": float("nan"), "target": 1.03}, True),
        ({"value": 2.0}, False),
        ({"status": NOT_INSTALLED}, False),
        ({"status": "failed: exit status 1"}, True),
    ],
)
def test_what_counts_as_missed(row, missed):
    assert is_missed(row) == missed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_can_be_run(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="--quick"):
        main()
