"""The contact sheet shows boxes and tokens where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from data_prep.inspect import COLORS, layout_of_fingerprint
from matplotlib.colors import to_rgb
from PIL import Image
from typer.testing import CliRunner

from data_prep import cli
from sayo.geometry import VisualLayout

app = typer.Typer()
app.command()(cli.inspect)


def has_color(sheet: Path, color: str) -> bool:
    pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)[60:]  # below the legend
    return bool((np.abs(pixels - np.array(to_rgb(color)) * 255).sum(axis=-1) < 12).sum() > 50)


def test_sheet_draws_answer_and_evidence(make_gqa, processor_dir: Path):
    gqa = make_gqa(3)
    gqa.graphs["0"]["objects"]["99"] = {"name": "tray", "x": 200, "y": 100, "w": 80, "h": 60}
    gqa.questions["q0"]["annotations"]["question"]["4"] = "99"
    gqa.prepare("--processor", str(processor_dir))
    sheets = {num: gqa.root / f"sheet{num}.png" for num in (1, 3)}
    for num, sheet in sheets.items():
        arguments = [str(gqa.root / "out"), "--out", str(sheet), "--num", str(num)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        assert has_color(sheet, COLORS["answer"])
        assert has_color(sheet, COLORS["evidence"])
    assert Image.open(sheets[3]).height >= Image.open(sheets[1]).height


def test_sheet_without_processor_and_without_region(make_gqa):
    gqa = make_gqa(1)
    gqa.questions["q0"].update(semantic=[], annotations={}, question="Costs it $5 or $6? " * 20)
    gqa.prepare()
    sheet = gqa.root / "sheet.png"
    assert CliRunner().invoke(app, [str(gqa.root / "out"), "--out", str(sheet)]).exit_code == 0
    assert not has_color(sheet, COLORS["answer"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "query-rel"], "there are: query-attr"),
        (["--split", "test"], "there are: train"),
        (["--out", "sheet.docx"], "docx"),
    ],
)
def test_unusable_options_say_what_there_is(make_gqa, arguments: list[str], message: str):
    gqa = make_gqa(1)
    gqa.prepare()
    result = CliRunner().invoke(app, [str(gqa.root / "out"), *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_folder_without_data_is_named(tmp_path: Path):
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert (result.exit_code, "no prepared data" in result.output) == (2, True)


def test_layout_comes_back_from_its_fingerprint(processor_dir: Path):
    layout = VisualLayout.from_pretrained(processor_dir)
    again = layout_of_fingerprint(layout.fingerprint)
    assert again == layout
    assert again.fingerprint == layout.fingerprint
