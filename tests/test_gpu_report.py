"""`python -m scripts.gpu_report --quick`: every part runs, on the CPU where there is no GPU, and none runs twice."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.harness import ROOT
from scripts.gpu_report import KERNELS, NOT_INSTALLED, PARTS, WHOLE, is_missed, main, markdown

PARTS_OF_QUICK = set(PARTS) - {"capture_8b"}


@pytest.mark.slow
def test_every_part_runs_once(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "scripts.gpu_report", "--quick", "--out", str(out)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    report = json.loads(out.read_text())
    rows = report["rows"]
    assert {row["part"] for row in rows} == PARTS_OF_QUICK
    assert not [row for row in rows if row.get("status", "").startswith("failed")]
    kernels = [row["case"] for row in rows if row["part"] == "kernels"]
    assert all(any(case.startswith(kernel) for case in kernels) for kernel in KERNELS), "none is left out silently"
    assert not [row for row in rows if row["part"] == "kernels" and is_missed(row)]
    assert report["versions"]["torch"] and report["device"] and markdown(rows) in printed

    kept = [row for row in rows if row["part"] != "kernels"]
    kept.append({"part": "kernels", "case": WHOLE, "status": "failed: cut off after 5 s"})
    out.write_text(json.dumps({**report, "rows": kept}))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    again = json.loads(out.read_text())["rows"]
    assert [row for row in again if row["part"] != "kernels"] == kept[:-1], "finished parts are skipped"
    assert [row["case"] for row in again if row["part"] == "kernels"] == kernels, "the one cut off is run again"


@pytest.mark.parametrize(
    ("row", "missed"),
    [
        ({"value": 1.02, "target": 1.03}, False),
        ({"value": 1.04, "target": 1.03}, True),
        ({"value": 0.8, "at_least": 0.85, "target": 1.15}, True),
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
    monkeypatch.setattr(sys, "argv", ["gpu_report"])
    with pytest.raises(SystemExit, match="--quick"):
        main()
