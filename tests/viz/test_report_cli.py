"""`sayo report` on the command line."""

from __future__ import annotations

from pathlib import Path

from sayo.report.cli import report as report_command
from typer import Typer
from typer.testing import CliRunner


def command(*arguments):
    app = Typer()
    app.command()(report_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command(make_run, tmp_path):
    result = command(make_run(), "--out", tmp_path / "pages" / "report.html", "--questions", 2)
    assert result.exit_code == 0, result.output
    assert Path(result.output.strip()) == tmp_path / "pages" / "report.html"


def test_command_without_anything_to_report(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        result = command(folder, "--out", tmp_path / "report.html")
        assert result.exit_code == 1 and result.output.startswith("No report:")
    assert not (tmp_path / "report.html").exists()
