"""ReFocus_Data (Fu et al. 2025, https://huggingface.co/datasets/ReFocus/ReFocus_Data): charts with focus areas.

The images lie inside the parquet files. `focus_areas_bbox` (a dict of four lists) is where the teacher looked: each
box is an answer region. The teacher's thoughts and edited images are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.examples import EmbeddedImage, Example, PrepareError, Region, Reject, RejectError
from data_prep.fields import as_record, box_of_xyxy, check_pixels, text, weight_of
from data_prep.json_records import digest_of, list_files

LICENSE = "Apache-2.0"
WHERE = "The parquet files are at https://huggingface.co/datasets/ReFocus/ReFocus_Data (folder data/)"
_COLUMNS = ("id", "question", "answer", "image", "focus_areas_bbox", "source")
_SIDES = ("x1", "y1", "x2", "y2")
_BATCH = 16  # rows held in memory at once: each has an image


class RefocusSource:
    """Rows in file order.

    Args:
        files: a parquet file, a folder of them or a glob.

    Raises:
        PrepareError: no file is there, or one lacks a column.
    """

    name = "refocus"
    rows_per_shard = 500  # the images of a whole shard wait in memory

    def __init__(self, files: str | Path):
        self.files = list_files(files, "ReFocus_Data parquet files", WHERE, ".parquet")
        self._count = 0
        for file in self.files:
            try:
                metadata = pq.ParquetFile(file)
            except (pa.ArrowException, OSError) as error:
                raise PrepareError(f"{file} is not a parquet file ({error}). {WHERE}") from None
            if missing := [name for name in _COLUMNS if name not in metadata.schema_arrow.names]:
                raise PrepareError(f"{file} lacks the columns {', '.join(missing)}: is it ReFocus_Data? {WHERE}")
            self._count += metadata.metadata.num_rows

    def __len__(self) -> int:
        return self._count

    def settings(self) -> dict[str, Any]:
        return {"--files": digest_of(self.files)}

    def __iter__(self) -> Iterator[Example | Reject]:
        for file in self.files:
            rows = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            at = 0
            try:
                for batch in rows.iter_batches(_BATCH, columns=list(_COLUMNS), use_threads=False):
                    for record in batch.to_pylist():
                        yield _entry(record, f"{file.name}#{at}")
                        at += 1
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise PrepareError(f"{file} cannot be read after row {at}: {error}") from None


def _entry(record: dict[str, Any], place: str) -> Example | Reject:
    row_id = record["id"] if isinstance(record["id"], str) and record["id"] else place
    try:
        return build_example(row_id, record)
    except RejectError as error:
        return Reject(row_id, error.reason, f"{error.detail} ({place})")


def build_example(row_id: str, record: dict[str, Any]) -> Example:
    """One row as an example.

    Raises:
        RejectError: malformed_record, no_answer, missing_image, nan_box, reversed_box, zero_area_box or
            box_looks_normalised.
    """
    image = as_record(record["image"])
    if not isinstance(image.get("bytes"), bytes):
        raise RejectError("missing_image", "the row holds no image bytes")
    solution = text(record, "answer")
    return Example(
        id=row_id,
        question=text(record, "question"),
        solution=solution,
        answers=(solution,),
        images=(EmbeddedImage(Path(str(image.get("path") or "image")).name, image["bytes"]),),
        annotated_sizes=(None,),
        regions=tuple(Region(box, "answer", weight_of("answer"), "focus area") for box in _boxes(record)),
        question_type=text(record, "source") if record["source"] else "unknown",
        source="refocus",
        license=LICENSE,
    )


def _boxes(record: dict[str, Any]) -> list:
    """The boxes of a dict of lists: `{"x1": [1, 2], "y1": [3, 4], ...}` holds two."""
    if record["focus_areas_bbox"] is None:
        return []
    sides = [as_record(record["focus_areas_bbox"]).get(name) or [] for name in _SIDES]
    if not all(isinstance(side, list) for side in sides) or len({len(side) for side in sides}) != 1:
        raise RejectError("malformed_record", f"focus_areas_bbox has lists of different lengths: {str(sides)[:200]}")
    what = "focus_areas_bbox"
    return [check_pixels(box_of_xyxy(values, what), what) for values in zip(*sides, strict=True)]
