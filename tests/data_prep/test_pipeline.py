"""What lies in the parquet files, and that a run may be stopped, repeated and spread over processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image, ImageOps

from data_prep import pipeline

REPOSITORY = Path(__file__).parents[2]
COLUMNS = (
    "id prompt images question solution answers regions has_region grounding region_tokens region_weights "
    "num_visual_tokens processor_fingerprint image_sizes question_type source split license"
).split()


def load(folder: Path, split: str = "train"):
    return load_dataset(str(folder), split=split, cache_dir=str(folder.parent / "cache"))


def test_row_has_the_columns_and_the_untouched_file(make_gqa):
    gqa = make_gqa(1)
    assert gqa.prepare().exit_code == 0
    (path,) = (gqa.root / "out" / "data").iterdir()
    assert path.name == "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    assert table.column_names == COLUMNS
    (row,) = table.to_pylist()
    assert row["images"] == [{"bytes": (gqa.images / "0.jpg").read_bytes(), "path": "0.jpg"}]
    assert row["prompt"] == [{"role": "user", "content": "What color is mug 0?"}]
    assert (row["solution"], row["answers"], row["license"]) == ("red", ["red"], "CC-BY-4.0")
    region = {"image": 0, "box": [20, 30, 60, 80], "rle": None, "role": "answer", "weight": 1.0, "label": "mug"}
    assert row["regions"] == [region]
    tokens = ("region_tokens", "region_weights", "num_visual_tokens", "processor_fingerprint")
    assert [row[name] for name in tokens] == [None] * 4


def test_processor_fills_token_columns(make_gqa, processor_dir: Path):
    """320x200 is 10x6 cells of 32 x 33.3 pixels; the box (20, 30, 60, 80) lies in columns 0-1 and rows 0-2."""
    gqa = make_gqa(1)
    gqa.questions["q9"] = {**gqa.questions["q0"], "semantic": [], "annotations": {}}  # no region
    assert gqa.prepare("--processor", str(processor_dir)).exit_code == 0
    row, without = pq.read_table(gqa.root / "out" / "data").to_pylist()
    assert row["num_visual_tokens"] == [60]
    assert row["region_tokens"] == [1, 10, 11, 20, 21]  # 0 is covered by less than 5 %
    covered = dict(zip(row["region_tokens"], row["region_weights"], strict=True))
    assert covered[10] == pytest.approx(12 / 32)
    assert covered[11] == pytest.approx(28 / 32)
    assert covered[21] == pytest.approx(28 / 32 * (80 - 200 / 3) / (200 / 6))
    assert '"qwen3_vl"' in row["processor_fingerprint"]
    assert (without["has_region"], without["region_tokens"], without["num_visual_tokens"]) == (False, [], [60])


# Orientations 5 to 8 swap width and height: only there the graph's size can say that boxes count in the stored pixels.
@pytest.mark.parametrize(
    ("orientation", "drawn_on"), [*((i, "shown") for i in range(1, 9)), *((i, "stored") for i in range(5, 9))]
)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_rotated_image(make_gqa, orientation: int, drawn_on: str, suffix: str):
    """A white rectangle must fill the box of the loaded picture, wherever the annotation was drawn."""
    gqa = make_gqa(1)
    stored = Image.new("RGB", (160, 96))
    stored.paste((255, 255, 255), (16, 32, 64, 80))
    exif = Image.Exif()
    exif[0x0112] = orientation
    (gqa.images / "0.jpg").unlink()
    stored.save(gqa.images / f"0{suffix}", exif=exif, **({"quality": 100} if suffix == ".jpg" else {}))
    shown = ImageOps.exif_transpose(Image.open(gqa.images / f"0{suffix}"))
    annotated = shown if drawn_on == "shown" else stored
    y, x = np.nonzero(np.asarray(annotated.convert("L")) > 128)
    box = {"x": int(x.min()), "y": int(y.min()), "w": int(np.ptp(x)) + 1, "h": int(np.ptp(y)) + 1}
    gqa.graphs["0"].update(width=annotated.width, height=annotated.height)
    gqa.graphs["0"]["objects"]["10"].update(box)
    assert gqa.prepare().exit_code == 0
    row = load(gqa.root / "out")[0]
    picture = np.asarray(row["images"][0].convert("L")) > 128
    assert row["image_sizes"] == [[picture.shape[1], picture.shape[0]]]
    x1, y1, x2, y2 = (int(edge) for edge in row["regions"][0]["box"])
    assert picture[y1:y2, x1:x2].all()
    assert picture.sum() == (x2 - x1) * (y2 - y1)


def test_a_picture_is_stored_once_whatever_the_order_of_the_questions(make_gqa, processor_dir, monkeypatch):
    """GQA's balanced files have the questions about a picture in a hundred places."""
    monkeypatch.setattr(pipeline, "ROWS_PER_GROUP", 10)
    gqa = make_gqa(6)
    for index in range(6, 60):
        gqa.questions[f"q{index}"] = {**gqa.questions[f"q{index % 6}"], "question": f"What color is mug {index}?"}
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (200, 320, 3), np.uint8)
        Image.fromarray(pixels).save(gqa.images / f"{index}.jpg")
    pictures = sum(path.stat().st_size for path in gqa.images.iterdir())
    assert gqa.prepare("--rows-per-shard", "30").exit_code == 0
    assert gqa.run("map", gqa.root / "out", "--processor", processor_dir, "--out", gqa.root / "mapped").exit_code == 0
    for out in ("out", "mapped"):
        ids = [row["id"] for row in gqa.rows(out)]
        assert ids == [f"q{index}" for first in range(6) for index in range(first, 60, 6)]
        size = sum(path.stat().st_size for path in (gqa.root / out / "data").iterdir())
        assert pictures < size < 1.2 * pictures


def test_splits_share_a_folder_and_a_summary(make_gqa):
    gqa = make_gqa(3)
    assert gqa.prepare("--split", "validation", "--limit", "1").exit_code == 0
    assert gqa.prepare("--split", "train").exit_code == 0
    assert len(load(gqa.root / "out", "train")) == 3
    assert len(load(gqa.root / "out", "validation")) == 1
    summary = gqa.summary()
    assert {split: entry["kept"] for split, entry in summary["splits"].items()} == {"train": 3, "validation": 1}
    assert summary["kept"] == 4


def test_other_settings_name_the_flag_and_overwrite_helps(make_gqa):
    gqa = make_gqa(3)
    assert gqa.prepare().exit_code == 0
    before = gqa.contents()
    result = gqa.prepare("--limit", "2")
    assert result.exit_code == 2
    assert "--limit: None there, 2 now" in result.output
    assert "--overwrite" in result.output
    gqa.questions["q0"]["answer"] = "blue"
    result = gqa.prepare()
    assert (result.exit_code, "--questions" in result.output) == (2, True)
    assert gqa.contents() == before
    assert gqa.prepare("--overwrite").exit_code == 0
    assert load(gqa.root / "out")[0]["solution"] == "blue"


def command(gqa, out: str, *more: str) -> list[str]:
    return [sys.executable, "-c", "from sayo.cli import app; app()", "prepare", *gqa.arguments(out, *more)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def finish(command: list[str]) -> None:
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("num_proc", ["2", pytest.param("1", marks=pytest.mark.slow)])
def test_killed_run_resumes_and_ends_with_the_same_bytes(make_gqa, num_proc: str):
    gqa = make_gqa(120)
    (gqa.images / "7.jpg").unlink()
    (gqa.images / "90.jpg").write_text("no picture")
    gqa.write()
    options = ("--rows-per-shard", "2")
    whole = command(gqa, "whole", *options)
    finish(whole)
    run = command(gqa, "killed", *options, "--num-proc", num_proc)
    data = gqa.root / "killed" / "data"
    process = subprocess.Popen(run, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(data.glob("*.parquet"))) < 5:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)
    finished = len(list(data.glob("*.parquet")))
    assert 5 <= finished < 60
    time.sleep(0.3)
    assert len(list(data.glob("*.parquet"))) == finished, "a worker outlived the killed command"
    for path in data.glob("*.parquet"):
        pq.read_table(path)  # complete or absent
    finish(run)
    assert gqa.contents("killed") == gqa.contents("whole")
    assert gqa.summary("killed")["rejected_by_reason"] == {"missing_image": 1, "unreadable_image": 1}


def test_workers_import_no_torch(tmp_path: Path):
    """A worker imports the main module again, which for `sayo` is the whole command line."""
    seen = "(__import__('data_prep.pipeline') and 'torch' in __import__('sys').modules,)"
    code = "from sayo.cli import app\nfrom data_prep.workers import run_jobs\n"
    code += f"if __name__ == '__main__': print([*run_jobs(eval, [({seen!r},)] * 2, 2)])"
    (tmp_path / "main.py").write_text(code)
    done = subprocess.run([sys.executable, tmp_path / "main.py"], env=environment(), capture_output=True, text=True)
    assert done.stdout == "[(False,), (False,)]\n", done.stderr


@pytest.mark.parametrize("num_proc", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_ctrl_c_is_one_line_and_the_same_command_goes_on(make_gqa, num_proc: str):
    gqa = make_gqa(120)
    gqa.write()
    run = command(gqa, "out", "--rows-per-shard", "1", "--num-proc", num_proc)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(run, env=environment(), start_new_session=True, **pipes)
    while len(list((gqa.root / "out" / "data").glob("*.parquet"))) < 5:
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: the workers get it, too
    _, error = process.communicate(timeout=60)
    said = " ".join(error.rpartition("stopped: ")[2].split())
    kept = len(list((gqa.root / "out" / "data").glob("*.parquet")))
    assert process.returncode == 130 and "Traceback" not in error
    assert said.startswith(f"{kept} complete files in ") and "the same command goes on after them" in said
    finish(run)
    assert gqa.summary()["kept"] == 120


def test_linked_images_load_from_where_they_are(make_gqa):
    gqa = make_gqa(2)
    assert gqa.prepare("--link-images").exit_code == 0
    (path,) = (gqa.root / "out" / "data").iterdir()
    rows = pq.read_table(path).to_pylist()
    assert rows[0]["images"] == [{"bytes": None, "path": str(gqa.images / "0.jpg")}]
    assert load(gqa.root / "out")[1]["images"][0].size == (320, 200)
    assert gqa.prepare().exit_code == 2  # the other way of storing is another setting
    (gqa.images / "0.jpg").rename(gqa.root / "elsewhere.jpg")
    (gqa.images / "0.jpg").symlink_to(gqa.root / "elsewhere.jpg")
    assert gqa.prepare("--link-images", out="linked").exit_code == 0
    assert gqa.summary("linked")["rejected_by_reason"] == {"path_outside_image_dir": 1}
