"""ReFocus_Data (Fu et al. 2025, https://huggingface.co/datasets/ReFocus/ReFocus_Data): charts with focus areas.

The images lie inside the parquet files. `focus_areas_bbox` (a dict of four lists) is where the teacher looked: each
box is an answer region. The teacher's thoughts and edited images are not read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.examples import EmbeddedImage, Example, PrepareError, RejectedError
from data_prep.fields import as_record, text
from data_prep.sources.base import Lookup, RecordSource, id_of, pixel_box, region_of

_COLUMNS = ("id", "question", "answer", "image", "focus_areas_bbox", "source")
_BATCH = 16  # rows held in memory at once: each has an image


class RefocusSource(RecordSource):
    """Rows in file order; `files` is a parquet file, a folder of them or a glob."""

    name, license = "refocus", "Apache-2.0"
    rows_per_shard = 500  # the images of a whole shard wait in memory

    def __init__(self, files: str | Path):
        self.files = self._files(files, "ReFocus_Data parquet files", ".parquet")
        count = 0
        for file in self.files:
            try:
                metadata = pq.ParquetFile(file)
            except (pa.ArrowException, OSError) as error:
                raise PrepareError(f"{file} is not a parquet file ({error})") from None
            if missing := [name for name in _COLUMNS if name not in metadata.schema_arrow.names]:
                raise PrepareError(f"{file} lacks the columns {', '.join(missing)}: is it ReFocus_Data?")
            count += metadata.metadata.num_rows
        super().__init__({"--files": self.files}, count=count)

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        for file in self.files:
            rows = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            index = 0
            try:
                for batch in rows.iter_batches(_BATCH, columns=list(_COLUMNS), use_threads=False):
                    for record in batch.to_pylist():
                        place = f"{file.name}#{index}"
                        yield id_of(record, place, "id"), place, record
                        index += 1
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise PrepareError(f"{file} cannot be read after row {index}: {error}") from None

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        image = as_record(record["image"])
        if not isinstance(image.get("bytes"), bytes):
            raise RejectedError("missing_image", "the row holds no image bytes")
        return self._example(
            row_id,
            text(record, "question"),
            [text(record, "answer")],
            EmbeddedImage(Path(str(image.get("path") or "image")).name, image["bytes"]),
            [region_of(box, label="focus area") for box in _boxes(record)],
            question_type=text(record, "source") if record["source"] else "unknown",
        )


def _boxes(record: dict[str, Any]) -> list:
    """The boxes of a dict of lists: `{"x1": [1, 2], "y1": [3, 4], ...}` holds two."""
    what = "focus_areas_bbox"
    if record[what] is None:
        return []
    sides = [as_record(record[what]).get(name) or [] for name in ("x1", "y1", "x2", "y2")]
    if not all(isinstance(side, list) for side in sides) or len({len(side) for side in sides}) != 1:
        raise RejectedError("malformed_record", f"{what} has lists of different lengths: {str(sides)[:200]}")
    return [pixel_box(values, what) for values in zip(*sides, strict=True)]
