"""Prepared rows as a sheet and as a page: boxes and tokens where they are, filters that work, nothing unescaped."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from typer.main import get_command
from viz.conftest import choose
from viz.report_runs import write_run

from sayo.cli import app
from sayo.draw import REGION_COLORS
from sayo.geometry import VisualLayout

MASK = {"polygons": [[40, 20, 80, 20, 80, 60, 40, 60]], "label": "cake"}


@pytest.fixture
def prepare(tmp_path: Path, sayo_command) -> Callable[..., Path]:
    """`prepare(lines, *options)`: a folder of `sayo prepare jsonl`; all lines are about one picture."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (320, 200), "#2850a0").save(tmp_path / "images" / "a.jpg")

    def run(lines: list[dict], *options) -> Path:
        records = [{"image": "a.jpg", "question": "What is this?", "answer": "cake", **line} for line in lines]
        (tmp_path / "lines.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        files = ("--questions", tmp_path / "lines.jsonl", "--images", tmp_path / "images", "--out", tmp_path / "out")
        result = sayo_command("prepare", "jsonl", *files, *options)
        assert result.exit_code == 0, result.output
        return tmp_path / "out"

    return run


@pytest.fixture
def inspect(tmp_path: Path, sayo_command) -> Callable[..., Path]:
    """`inspect(folder, *options, name="page.html")`: what `sayo inspect` wrote."""

    def run(folder: Path, *options, name: str = "page.html") -> Path:
        result = sayo_command("inspect", folder, "--out", tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        return tmp_path / name

    return run


@pytest.fixture
def tiled(tmp_path: Path) -> Path:
    """InternVL with up to six tiles of 112 pixels and a thumbnail: 16 tokens each."""
    folder = tmp_path / "internvl"
    folder.mkdir()
    vision = {"image_size": 112, "patch_size": 14}
    config = {"model_type": "internvl", "downsample_ratio": 0.5, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"size": {"height": 112, "width": 112}, "crop_to_patches": True, "min_patches": 1, "max_patches": 6}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def has_color(sheet: Path, role: str) -> bool:
    pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    return bool((np.abs(pixels - np.array(to_rgb(REGION_COLORS[role])) * 255).sum(axis=-1) < 12).sum() > 50)


def test_the_sheet_draws_answer_and_evidence_where_there_are_any(toy, prepare, inspect):
    sheets = [inspect(toy.prepared, "--num", num, "--type", "query-rel", name=f"{num}.png") for num in (1, 3)]
    assert all(has_color(sheet, role) for sheet in sheets for role in ("answer", "evidence"))
    assert Image.open(sheets[1]).width == 3 * Image.open(sheets[0]).width
    folder = prepare([{"question": "Costs it $5 or $6? " * 20}, {"regions": [MASK]}])  # and no processor
    assert not has_color(inspect(folder, "--num", 1, name="sheet.png"), "answer")


def test_the_sheet_draws_masks(prepare, inspect):
    """A mask turns what it covers green; a box is an outline."""
    tinted = []
    for region in (MASK, {"box": [40, 20, 80, 60]}):
        sheet = inspect(prepare([{"regions": [region]}], "--overwrite"), "--num", 1, name="sheet.png")
        pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
        tinted.append((np.abs(pixels - (37, 135, 129)).max(axis=-1) < 9).sum())  # 47% of the green over #2850a0
    assert tinted[0] > 500 > 20 > tinted[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--type", "query-any"], "gqa query-attr"),
        (["--source", "coco"], "gqa query-attr"),
        (["--split", "validation"], "there are: test, train"),
        (["--out", "sheet.docx"], "docx"),
    ],
)
def test_unusable_options_and_folders_say_what_there_is(toy, sayo_command, options: list[str], message: str):
    for folder, told in ((toy.prepared, message), (toy.world, "no prepared data")):
        result = sayo_command("inspect", folder, *options)
        assert result.exit_code == 2 and told in result.output


def test_every_help_starts_quickly_and_without_torch():
    """Half a CPU second, or on a busy machine three times typer's own for a command of one line; torch takes five."""

    def seconds(code: str, *words: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", code, *words], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    helps = [[name, "--help"] for name in get_command(app).commands]
    code = "import sys\nfrom sayo.cli import app\n"
    code += f"for words in {helps}: app(words, standalone_mode=False)\nsys.exit('torch' in sys.modules)"
    seconds(code)
    plain = "import typer\ndef main(name: str): ...\n"
    plain += "app = typer.Typer(rich_markup_mode='rich')\napp.command()(main)\napp()"
    code = "from sayo.cli import app\napp()"
    pairs = [(seconds(plain, "--help"), seconds(code, "prepare", "gqa", "--help")) for _ in range(3)]
    least, taken = map(min, zip(*pairs, strict=True))
    assert taken < max(0.5, 3 * least)


def test_inspection_map_and_report_need_no_torch(toy, tmp_path: Path):
    code = "import sys\nfrom sayo.cli import app\ntry: app()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    data = [toy.prepared, "--out", tmp_path / "out"]
    run = write_run(tmp_path / "run")
    report = ["report", run, "--out", tmp_path / "report.html"]
    inspect = ["inspect", *data[:2], tmp_path / "page.html"]
    for words in (inspect, ["map", *data, "--processor", toy.policy], report):
        done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr.strip().endswith("False"), done.stderr


def test_the_page_is_one_file_with_tiles_and_thumbnail_apart(prepare, tiled, inspect):
    regions = [MASK, {"box": [100, 50, 200, 150], "role": "evidence", "label": "plate"}]
    folder = prepare([{"regions": regions, "type": "food"}], "--processor", tiled)
    text = inspect(folder).read_text()
    assert not re.search(r'(src|href)="(?!data:)', text) and "default-src 'none'" in text
    (row,) = pq.read_table(folder / "data").to_pylist()
    layout = VisualLayout.from_fingerprint(row["processor_fingerprint"])
    views = layout.cells(320, 200).views[row["region_tokens"]]
    for view, name in ((0, "whole picture"), (1, "tiles")):
        assert f"{name}: {(views == view).sum()} of" in text
    counts = {'class="veil"': 2, 'class="mask"': 1, '<rect class="answer"': 3, '<rect class="evidence"': 3}
    counts |= {">plate</text>": 1, "<option>food</option>": 1}
    assert {part: text.count(part) for part in counts} == counts


def test_histograms_count_all_rows_and_the_page_shows_some(prepare, inspect):
    text = inspect(prepare([{"regions": [MASK] * (number % 3)} for number in range(30)]), "--num", "5").read_text()
    assert text.count("<article") == 5
    assert "30 rows, 10 of them without a region; 5 shown" in text
    for name, count in (("0", 10), ("1", 10), ("2", 10), ("1 to 5 %", 30)):
        assert re.search(rf"<span>{name}</span><i style=\"width:[\d.]+%\"></i><span>{count}</span>", text)


def test_texts_of_the_data_are_no_markup(prepare, inspect):
    evil = "<script>alert(1)</script>\"'&$x{{ 7 * 7 }}"
    regions = [{"box": [40, 20, 80, 60], "label": evil}]
    line = {**dict.fromkeys(("question", "answer", "type", "license", "id"), evil), "regions": regions}
    text = inspect(prepare([line])).read_text()
    assert "<script>alert" not in text and text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;" in text and "{{ 7 * 7 }}" in text


def test_linked_images_are_shown_and_a_lost_one_is_named(prepare, inspect, sayo_command, tmp_path):
    folder = prepare([{}], "--link-images")
    assert "data:image/" in inspect(folder).read_text()
    (tmp_path / "images" / "a.jpg").unlink()
    result = sayo_command("inspect", folder, "--out", tmp_path / "again.html")
    assert result.exit_code == 2 and "a.jpg" in result.output


def test_filters_work_in_a_real_browser(prepare, page, inspect):
    """The page's policy lets its own script run, and each filter leaves the rows that it names."""
    lines = [{"regions": [MASK], "type": kind, "answer": f"cake {number}"} for number, kind in enumerate("aab")]
    shown = "[...document.querySelectorAll('article')].filter(card => card.offsetParent !== null).length"
    page.goto(inspect(prepare(lines)).as_uri())
    for control, value, count in (("type", "a", 2), ("type", "", 3), ("words", "CAKE 2", 1), ("words", "tart", 0)):
        choose(page, control, value)
        assert page.evaluate(shown) == count, (control, value)
        assert f"{count} of 3 rows shown" in page.evaluate("document.body.innerText")
    assert page.evaluate("getComputedStyle(document.querySelector('.mask')).display") != "none"
    page.click("#masks")
    assert page.evaluate("getComputedStyle(document.querySelector('.mask')).display") == "none"
