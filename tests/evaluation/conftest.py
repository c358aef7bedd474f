"""Small files of our own with the columns of each public data set, and the written responses to their questions."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

RESPONSES = Path(__file__).parent / "responses"
PICTURE_COLUMNS = {
    "mathvision": ["decoded_image"],
    "mathvista": ["decoded_image"],
    "wemath": ["image_path"],
    "mme_realworld_lite": ["bytes"],
    "mmmu": [f"image_{number}" for number in range(1, 8)],
    "mmmu_pro": [f"image_{number}" for number in range(1, 8)],
    "local": ["images"],
}


def written(task: str) -> list[dict[str, Any]]:
    """Rows of a task with their written responses."""
    return yaml.safe_load((RESPONSES / f"{task}.yaml").read_text(encoding="utf-8"))


def png(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A picture of coloured noise, encoded."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_task(task: str, folder: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    """Write rows (those of the written responses if not given) as that data set's files; pictures are added."""
    rows = [dict(entry["row"]) for entry in written(task)] if rows is None else [dict(row) for row in rows]
    folder.mkdir(parents=True)
    if task == "vstar":
        for number, row in enumerate(rows):
            place = folder / row.pop("folder")
            place.mkdir(exist_ok=True)
            (place / f"sa_{number}.jpg").write_bytes(png(number))
            (place / f"sa_{number}.json").write_text(json.dumps(row))
        return folder
    if task == "gqa":
        pictures = [{"id": row["imageId"], "image": {"bytes": png(n), "path": None}} for n, row in enumerate(rows)]
        _parquet(folder / "testdev_balanced_images", pictures, {"image": datasets.Image()})
        _parquet(folder / "testdev_balanced_instructions", rows, {})
        return folder
    columns = PICTURE_COLUMNS.get(task, ["image"])
    kinds: dict[str, Any] = {}
    for number, row in enumerate(rows):
        for position, column in enumerate(columns):
            picture = {"bytes": png(number), "path": None} if position < 2 else None
            if task == "local":
                picture, kinds[column] = [picture], datasets.List(datasets.Image())
            elif task == "mme_realworld_lite":
                picture = base64.b64encode(picture["bytes"]).decode()
            else:
                kinds[column] = datasets.Image()
            row.setdefault(column, picture)
    return _parquet(folder, rows, kinds)


def _parquet(folder: Path, rows: list[dict[str, Any]], kinds: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    table = datasets.Dataset.from_list(rows)
    features = datasets.Features({**table.features, **kinds})
    table.cast(features).to_parquet(folder / "data.parquet")
    return folder


@pytest.fixture
def task_files(tmp_path):
    """`write_task` into a fresh folder."""
    return lambda task, rows=None: write_task(task, tmp_path / "data" / task, rows)
