"""Rows for training: the same as `load_dataset`'s, with each picture on disk once."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value, config, load_dataset
from PIL import Image as Pillow

from sayo.recipes import DataSection, RecipeError
from sayo.training.setup import load_data

ROWS_PER_PICTURE, PICTURES = 10, 4


def noise(seed: int) -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
    Pillow.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Two files: ten rows for each of four pictures, one with two pictures, one without any, and one with a link."""
    pictures = [{"bytes": noise(seed), "path": f"{seed}.png"} for seed in range(PICTURES)]
    (tmp_path / "link.png").write_bytes(noise(9))
    link = {"bytes": None, "path": str(tmp_path / "link.png")}
    images = [*([picture] for picture in pictures for _ in range(ROWS_PER_PICTURE)), pictures[:2], [], [link]]
    features = Features({"id": Value("string"), "images": List(Image(mode="RGB"))})
    for part, rows in enumerate((images[:25], images[25:])):
        ids = [f"{part}-{index}" for index in range(len(rows))]
        path = tmp_path / "prepared" / "data" / f"train-0000{part}-of-00002.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(Dataset.from_dict({"id": ids, "images": rows}, features).data.table, path)
    return tmp_path / "prepared"


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_rows_are_those_of_load_dataset_and_a_picture_is_stored_once(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = load_data(DataSection(path=str(prepared)), "train")
    files = sorted(map(str, prepared.glob("data/*.parquet")))
    plain = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "plain"))
    assert rows.column_names == plain.column_names and rows.split == "train"
    assert rows["id"][:] == plain["id"][:]
    for row, expected in zip(rows, plain, strict=True):
        assert [image.mode for image in row["images"]] == ["RGB"] * len(expected["images"])
        assert [image.tobytes() for image in row["images"]] == [image.tobytes() for image in expected["images"]]
    once = PICTURES * len(noise(0))
    assert size_of(tmp_path / "cache") < 1.5 * once < ROWS_PER_PICTURE * once < size_of(tmp_path / "plain")


def write(folder, values, column="solution"):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({column: values}).to_parquet(folder / "data/train-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n---\n"
    )


def test_a_folder_is_read_as_it_is_now(tmp_path):
    """`load_dataset(folder)` takes one `prepared` for another, and for what it was before it was prepared again."""
    for run, answers in (("a", ["yes", "no"]), ("b", ["red"]), ("a", ["blue"])):
        write(tmp_path / run / "prepared", answers)
        rows, again = (load_data(DataSection(path=str(tmp_path / run / "prepared")), "train") for _ in range(2))
        assert rows["solution"][:] == answers and rows._fingerprint == again._fingerprint


def test_missing_split_and_folder(tmp_path):
    write(tmp_path / "prepared", ["yes"])
    with pytest.raises(RecipeError, match="no split 'test'"):
        load_data(DataSection(path=str(tmp_path / "prepared")), "test")
    with pytest.raises(RecipeError, match="does not exist"):
        load_data(DataSection(path=str(tmp_path / "nothing")), "train")


def test_system_prompt_comes_first_and_user_suffix_under_the_question_once(tmp_path):
    prompts = [[{"role": "user", "content": "What?"}], [{"role": "user", "content": "What?\nLook twice."}]]
    write(tmp_path, prompts, column="prompt")
    rows = load_data(DataSection(path=str(tmp_path), user_suffix="Look twice.", system_prompt="Look."), "train")
    expected = [{"role": "system", "content": "Look."}, {"role": "user", "content": "What?\nLook twice."}]
    assert rows["prompt"][:] == [expected] * 2
    named = load_data(DataSection(path=str(tmp_path), user_suffix="semantic-back"), "train")
    assert "<back>" in named[0]["prompt"][-1]["content"]
    with pytest.raises(RecipeError, match=r"data.user_suffix.*semantic-back, solution-back"):
        load_data(DataSection(path=str(tmp_path), user_suffix="semantic"), "train")
