"""Rows for training: the same as `load_dataset`'s, with each picture on disk once."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value, config, load_dataset
from PIL import Image as Pillow

from sayo.recipes import DataSection
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


def test_rows_are_those_of_load_dataset_and_a_picture_is_stored_once(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
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


def test_the_same_files_are_the_same_rows_and_changed_files_are_others(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    first, second = (load_data(DataSection(path=str(prepared)), "train") for _ in range(2))
    assert first._fingerprint == second._fingerprint
    Dataset.from_dict({"id": ["new"], "images": [[]]}, first.features).to_parquet(
        prepared / "data" / "train-00000-of-00002.parquet"
    )
    assert load_data(DataSection(path=str(prepared)), "train")["id"][0] == "new"
