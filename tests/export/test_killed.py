"""An export that is killed leaves nothing under the name that was asked for, and the next one succeeds."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from sayo.export.package import export_checkpoint


@pytest.mark.parametrize("family", ["qwen3_vl"], indirect=True)
def test_killed_export_leaves_no_folder(full_checkpoint, tmp_path):
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    code = (
        f"from sayo.export.package import export_checkpoint; export_checkpoint({str(full_checkpoint)!r}, {str(out)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    waited_for = partial / "model.safetensors"
    while not waited_for.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the export was over before it could be killed"
    assert partial.is_dir() and not out.exists()
    export_checkpoint(full_checkpoint, out)
    assert (out / "model.safetensors").is_file() and not partial.exists()
