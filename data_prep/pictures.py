"""Which rows of prepared data sets show the same picture: by content, by COCO id, or because a row has both."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.examples import PrepareError
from data_prep.images import bytes_of
from data_prep.json_records import iter_records, list_files
from data_prep.shards import list_shards, read_account

_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})(?:_\d+)?\.jpe?g")
_GENOME_SOURCES = frozenset({"gqa", "visual_genome"})
PictureKey = tuple[int, bytes]
"""(0, digest of the contents) or (1, COCO id)."""


class Pictures:
    """Groups of keys of one picture (union-find). The smallest key, always a digest, names its group.

    `image_data` is Visual Genome's image_data.json, which says which of its (and GQA's) images are COCO's.
    """

    def __init__(self, image_data: str | None = None):
        self._parent: dict[PictureKey, PictureKey] = {}
        where = "image_data.json.zip is at https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"
        files = list_files(image_data, "image_data.json", where) if image_data is not None else []
        self._coco_of_genome = {
            str(entry.get("image_id", entry.get("id"))): entry["coco_id"]
            for file in files
            for _, entry in iter_records(file)
            if isinstance(entry, dict) and isinstance(entry.get("coco_id"), int)
        }

    def add_row(self, digests: list[bytes], names: list[str], source: str) -> PictureKey:
        """A key of a row's pictures; all pictures of one row belong together."""
        first = (0, digests[0])
        for digest, name in zip(digests, names, strict=True):
            self._join(first, (0, digest))
            coco_id = self._coco_id(name, source)
            if coco_id is not None:
                self._join(first, (1, b"%d" % coco_id))
        return first

    def group(self, key: PictureKey) -> PictureKey:
        """Name of the group that the key belongs to; ask after all rows were added."""
        parent = self._parent
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    def _join(self, a: PictureKey, b: PictureKey) -> None:
        a, b = self.group(a), self.group(b)
        self._parent[max(a, b)] = min(a, b)

    def _coco_id(self, name: str, source: str) -> int | None:
        base = PurePosixPath(name).name
        if source in _GENOME_SOURCES and (coco_id := self._coco_of_genome.get(PurePosixPath(base).stem)) is not None:
            return coco_id
        match = _COCO_NAME.fullmatch(base)
        return int(match[1]) if match else None


@dataclass(frozen=True)
class PartIndex:
    """The rows of one part, in file order.

    Attributes:
        order: `(N,)` uint64 hash of seed and id: rows are drawn in its order.
        pictures: N keys of the rows' pictures.
        groups: (shard, row group) of each group of rows; starts: `(G + 1,)` index of the first row of each.
    """

    folder: Path
    order: np.ndarray
    pictures: list[PictureKey]
    ids: list[str]
    groups: list[tuple[Path, int]]
    starts: list[int]
    fingerprints: frozenset[str | None]

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, rows: np.ndarray) -> Iterator[pa.Table]:
        """One-row tables of the rows (sorted indices); each row group is read once."""
        for (file, group), start, end in zip(self.groups, self.starts[:-1], self.starts[1:], strict=True):
            inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
            if len(inside):
                table = pq.ParquetFile(file).read_row_group(group)
                yield from (table.slice(row, 1) for row in inside.tolist())


def index_part(folder: Path, split: str, seed: int, pictures: Pictures) -> PartIndex:
    """Read a part once: ids, picture contents and fingerprints; raises PrepareError for no such data or split."""
    order, keys, ids, groups, starts = [], [], [], [], [0]
    fingerprints: set[str | None] = set()
    for file in list_shards(folder, split):
        read_account(file)  # raises for data of another version
        for group, table in enumerate(_row_groups(file)):
            for row_id, source, digests, names in _rows(table):
                order.append(_hash(f"{seed}|{source}|{row_id}"))
                keys.append(pictures.add_row(digests, names, source))
                ids.append(row_id)
            fingerprints.update(pc.unique(table["processor_fingerprint"]).to_pylist())
            groups.append((file, group))
            starts.append(len(ids))
    return PartIndex(folder, np.array(order, np.uint64), keys, ids, groups, starts, frozenset(fingerprints))


def _row_groups(file: Path) -> Iterator[pa.Table]:
    try:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            yield parquet.read_row_group(group, columns=["id", "images", "source", "processor_fingerprint"])
    except (pa.ArrowException, OSError) as error:
        raise PrepareError(f"{file} cannot be read: {error}. Prepare this part again with --overwrite") from None


def _rows(table: pa.Table) -> Iterator[tuple[str, str, list[bytes], list[str]]]:
    """(id, source, content digest and name of each image) of each row; equal bytes are hashed once."""
    images = table["images"].combine_chunks()
    codes = pc.dictionary_encode(images.flatten().field("bytes"), null_encoding="encode")
    known = [None if value is None else _digest(value) for value in codes.dictionary.to_pylist()]
    paths = images.flatten().field("path").to_pylist()
    digests = [
        known[code] or _digest(bytes_of({"bytes": None, "path": path}))
        for code, path in zip(codes.indices.to_pylist(), paths, strict=True)
    ]
    ends = np.cumsum(pc.list_value_length(images).to_numpy(zero_copy_only=False)).tolist()
    starts = [0, *ends[:-1]]
    for row_id, source, a, b in zip(table["id"].to_pylist(), table["source"].to_pylist(), starts, ends, strict=True):
        yield row_id, source, digests[a:b], paths[a:b]


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=12).digest()


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
