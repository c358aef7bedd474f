"""Data sets that come as parquet files: ReFocus_Data, TreeVGR-RL-37K and saliency-r1-8k.

The formats of the last two were read in public readers of their files; no record of them was seen.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.examples import EmbeddedImage, Example, PrepareError, RejectedError
from data_prep.fields import as_record, box_of_xyxy, check_normalised, text, written_list
from data_prep.sources.base import Lookup, RecordSource, id_of, list_of, pixel_box, region_of

_BATCH = 16  # rows held in memory at once: each may have an image


class ParquetSource(RecordSource):
    """Rows in file order, `columns` of them; `files` is a parquet file, a folder of them or a glob."""

    columns: tuple[str, ...]

    def __init__(self, files: str | Path):
        self.files = self._files(files, "parquet files", ".parquet")
        count = 0
        for file in self.files:
            try:
                metadata = pq.ParquetFile(file)
            except (pa.ArrowException, OSError) as error:
                raise PrepareError(f"{file} is not a parquet file ({error})") from None
            if missing := [name for name in self.columns if name not in metadata.schema_arrow.names]:
                raise PrepareError(f"{file} lacks the columns {', '.join(missing)}: is it another data set?")
            count += metadata.metadata.num_rows
        super().__init__({"--files": self.files}, count=count)

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        for file in self.files:
            rows = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            index = 0
            try:
                for batch in rows.iter_batches(_BATCH, columns=list(self.columns), use_threads=False):
                    for record in batch.to_pylist():
                        place = f"{file.name}#{index}"
                        yield id_of(record, place, "id"), place, record
                        index += 1
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise PrepareError(f"{file} cannot be read after row {index}: {error}") from None


class RefocusSource(ParquetSource):
    """ReFocus_Data (Fu et al. 2025, https://huggingface.co/datasets/ReFocus/ReFocus_Data): charts with focus areas.

    `focus_areas_bbox` (a dict of four lists) is where the teacher looked: each box is an answer region. The teacher's
    thoughts and edited images are not read.
    """

    name, license = "refocus", "Apache-2.0"
    columns = ("id", "question", "answer", "image", "focus_areas_bbox", "source")
    rows_per_shard = 500  # the images of a whole shard wait in memory

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        question, answer, image = text(record, "question"), text(record, "answer"), _embedded(record)
        regions = [region_of(box, label="focus area") for box in _focus_areas(record)]
        kind = text(record, "source") if record["source"] else "unknown"
        return self._example(row_id, question, [answer], image, regions, question_type=kind)


class SaliencySource(ParquetSource):
    """saliency-r1-8k (https://huggingface.co/datasets/peterant330/saliency-r1-8k): rows of Visual-CoT, one box each.

    `bbox` is text, "[x1, y1, x2, y2]" in shares of the picture's sides (rounding takes some a little past 1); it is an
    answer region. A row without one keeps no region. `question_id` is unique in each part only, so rows are named by
    their place. No licence of the data set could be found.
    """

    name, license = "saliency_r1", "unknown"
    columns = ("dataset", "problem", "solution", "bbox", "image")
    rows_per_shard = 500

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        boxes = [written_list(record["bbox"], "bbox")] if record["bbox"] else []
        boxes = [check_normalised(box_of_xyxy(box, "bbox"), "bbox") for box in boxes]
        question, answer, kind = (text(record, name) for name in ("problem", "solution", "dataset"))
        regions = [region_of(box, space="normalised") for box in boxes]
        return self._example(row_id, question, [answer], _embedded(record), regions, question_type=kind)


class TreeVgrSource(ParquetSource):
    """TreeVGR-RL-37K (Wang et al. 2025, https://huggingface.co/datasets/HaochenWang/TreeVGR-RL-37K): V* and VisDrone.

    `images` names files below the folder of the data set, `problem` begins with "<image>" and holds the options where
    there are any, `target_instances` is a list of {bbox, label, name} with boxes [x1, y1, x2, y2] in pixels. All of
    them are answer regions, as in TreeBench. No licence of the data set could be found.
    """

    name, license = "treevgr", "unknown"
    columns = ("images", "problem", "answer", "target_instances")
    picture_fields = ("images",)

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        images = [text({"images": name}, "images") for name in list_of(record, "images", least=1)]
        regions = []
        for instance in map(as_record, list_of(record, "target_instances")):
            label = instance.get("name") or instance.get("label")
            regions.append(region_of(pixel_box(instance.get("bbox"), "target_instances"), label=label))
        if len(images) > 1 and regions:
            raise RejectedError("malformed_record", f"{len(images)} images: which of them has the target instances?")
        question = text(record, "problem").replace("<image>", "").strip()
        return self._example(row_id, question, [text(record, "answer").strip()], images, regions)


def _embedded(record: dict[str, Any]) -> EmbeddedImage:
    """The picture of a column `image` as `datasets` stores it."""
    image = as_record(record["image"])
    if not isinstance(image.get("bytes"), bytes):
        raise RejectedError("missing_image", "the row holds no image bytes")
    return EmbeddedImage(Path(str(image.get("path") or "image")).name, image["bytes"])


def _focus_areas(record: dict[str, Any]) -> list:
    """The boxes of a dict of lists: `{"x1": [1, 2], "y1": [3, 4], ...}` holds two."""
    what = "focus_areas_bbox"
    if record[what] is None:
        return []
    sides = [as_record(record[what]).get(name) or [] for name in ("x1", "y1", "x2", "y2")]
    if not all(isinstance(side, list) for side in sides) or len({len(side) for side in sides}) != 1:
        raise RejectedError("malformed_record", f"{what} has lists of different lengths: {str(sides)[:200]}")
    return [pixel_box(values, what) for values in zip(*sides, strict=True)]
