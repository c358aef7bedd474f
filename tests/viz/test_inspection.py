"""The HTML page: one file, filters, tiles and thumbnail apart, histograms of all rows, nothing unescaped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from look.browser import CHROMIUM, Browser


@pytest.fixture
def tiled_dir(tmp_path: Path) -> Path:
    """InternVL with up to six tiles of 112 pixels and a thumbnail: 16 tokens each."""
    folder = tmp_path / "internvl"
    folder.mkdir()
    vision = {"image_size": 112, "patch_size": 14}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "internvl", "downsample_ratio": 0.5, "vision_config": vision})
    )
    settings = {"size": {"height": 112, "width": 112}, "crop_to_patches": True, "min_patches": 1, "max_patches": 6}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def page_of(bench, *more: str, lines: list[dict], options: tuple = ()) -> str:
    bench.picture("a.jpg")
    file = bench.lines(*lines)
    result = bench.prepare("jsonl", "--questions", file, "--images", bench.images, *options)
    assert result.exit_code == 0, result.output
    page = bench.root / "page.html"
    result = bench.run("inspect", bench.root / "out", "--out", page, *more)
    assert result.exit_code == 0, result.output
    return page.read_text()


def line(**more) -> dict:
    return {"image": "a.jpg", "question": "What is this?", "answer": "cake", **more}


MASK = {"polygons": [[40, 20, 80, 20, 80, 60, 40, 60]], "label": "cake"}


def test_page_is_one_file_with_tiles_and_thumbnail_apart(bench, tiled_dir: Path):
    regions = [MASK, {"box": [100, 50, 200, 150], "role": "evidence", "label": "plate"}]
    text = page_of(bench, lines=[line(regions=regions, type="food")], options=("--processor", tiled_dir))
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "default-src 'none'" in text
    (row,) = bench.rows()
    from data_prep.inspect import layout_of_fingerprint

    views = layout_of_fingerprint(row["processor_fingerprint"]).cells(320, 200).views[row["region_tokens"]]
    for view, name in ((0, "thumbnail"), (1, "tiles")):
        assert f"{name}: {(views == view).sum()} of" in text
    assert text.count('class="cell"') == len(row["region_tokens"])
    assert text.count('class="box answer"') == text.count('class="box evidence"') == 1
    assert text.count("data:image/png") == 1  # one mask
    assert "<option>food</option>" in text


def test_histograms_count_all_rows_and_the_page_shows_some(bench):
    lines = [line(regions=[MASK] * (number % 3)) for number in range(30)]
    text = page_of(bench, "--num", "5", lines=lines)
    assert text.count("<article") == 5
    assert "30 rows, 10 of them without a region; 5 shown" in text
    for name, count in (("0", 10), ("1", 10), ("2", 10), ("1 to 5 %", 30)):
        assert f"<span>{name}</span>" in text
        assert re.search(rf"<span>{name}</span><i style=\"width:[\d.]+%\"></i><span>{count}</span>", text)


def test_texts_of_the_data_are_no_markup(bench):
    evil = "<script>alert(1)</script>\"'&$x"
    regions = [{"box": [40, 20, 80, 60], "label": evil}]
    text = page_of(bench, lines=[line(question=evil, answer=evil, type=evil, license=evil, id=evil, regions=regions)])
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;" in text


def test_source_filters_rows(bench):
    page_of(bench, "--source", "jsonl", lines=[line()])
    result = bench.run("inspect", bench.root / "out", "--out", bench.root / "p.html", "--source", "gqa")
    assert (result.exit_code, "there are: jsonl" in result.output) == (2, True)


def test_linked_images_are_shown_and_a_lost_one_is_named(bench):
    text = page_of(bench, lines=[line()], options=("--link-images",))
    assert "data:image/jpeg" in text
    (bench.images / "a.jpg").unlink()
    result = bench.run("inspect", bench.root / "out", "--out", bench.root / "p.html")
    assert (result.exit_code, "which cannot be read" in result.output) == (2, True)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_filters_work_in_a_real_browser(bench, tmp_path: Path):
    """The page's policy lets its own script run, and each filter leaves the rows that it names."""
    lines = [line(regions=[MASK], type=kind, answer=f"cake {number}") for number, kind in enumerate("aab")]
    page_of(bench, lines=lines)
    shown = "[...document.querySelectorAll('article')].filter(one => one.offsetParent !== null).length"
    with Browser(tmp_path / "profile") as browser:
        browser.send("Page.navigate", url=(bench.root / "page.html").as_uri())
        browser.wait_for("document.readyState === 'complete' && document.querySelectorAll('article').length === 3")
        for name, value, count in (("type", "a", 2), ("type", "", 3), ("words", "CAKE 2", 1), ("words", "tart", 0)):
            field = f"document.getElementById('{name}')"
            browser.run(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('input'))")
            assert browser.run(shown) == count, (name, value)
            assert f"{count} of 3 rows shown" in browser.run("document.body.innerText")
        assert browser.run("getComputedStyle(document.querySelector('.masks')).display") != "none"
        browser.run("document.getElementById('masks').click()")
        assert browser.run("getComputedStyle(document.querySelector('.masks')).display") == "none"
        assert browser.errors == []
