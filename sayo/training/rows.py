"""Prepared rows for training, with each picture on disk once.

`load_dataset` copies a picture into its cache again for every row that shows it, thirteen times for GQA's balanced
questions. So the cache gets the pictures as files here, and rows that name them, as `sayo prepare --link-images` does.
"""

import shutil
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, NamedSplit, config
from filelock import FileLock

_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def holds_pictures(file: Path) -> bool:
    """True if the parquet file has the column `images` that `load_linked` reads."""
    schema = pq.read_schema(file)
    return "images" in schema.names and schema.field("images").type == _IMAGES


def load_linked(files: Sequence[Path], split: str) -> Dataset:
    """The rows of parquet files with `images` of `datasets.Image`, in order; made once in the cache of `datasets`.

    The same files (path, size and time) give the same rows and the same fingerprint; processes that start together
    wait for the first one.
    """
    marks = repr([(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files])
    folder = Path(config.HF_DATASETS_CACHE) / "sayo" / blake2b(marks.encode(), digest_size=12).hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
            (part / "pictures").mkdir(parents=True)
            schema = Features.from_arrow_schema(pq.read_schema(files[0])).arrow_schema
            with pa.OSFile(str(part / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                for table in _row_groups(files):
                    at = table.schema.get_field_index("images")
                    images = _linked(table["images"].combine_chunks(), part / "pictures", folder / "pictures")
                    writer.write_table(table.set_column(at, "images", images).select(schema.names).cast(schema))
            part.rename(folder)
    return Dataset.from_file(str(folder / "rows.arrow"), split=NamedSplit(split))


def _row_groups(files: Sequence[Path]) -> Iterator[pa.Table]:
    """Tables of some rows each, whose image bytes are indices into the different ones."""
    for path in files:
        file = pq.ParquetFile(path, read_dictionary=["images.list.element.bytes"])
        yield from (file.read_row_group(group) for group in range(file.num_row_groups))


def _linked(images: pa.ListArray, written: Path, later: Path) -> pa.ListArray:
    """The column with paths in place of bytes; the files go to `written`, which will have the name `later`."""
    values = images.flatten()
    names = []
    for data in values.field("bytes").dictionary.to_pylist():
        names.append(blake2b(data, digest_size=16).hexdigest())
        if not (written / names[-1]).exists():
            (written / names[-1]).write_bytes(data)
    codes, given = values.field("bytes").indices.to_pylist(), values.field("path").to_pylist()
    paths = [path if code is None else str(later / names[code]) for code, path in zip(codes, given, strict=True)]
    structs = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), pa.array(paths)], ["bytes", "path"])
    return pa.ListArray.from_arrays(images.offsets, structs, mask=images.is_null())
