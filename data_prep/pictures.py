"""Which rows of prepared data sets show the same picture: by content, by COCO id, or because a row has both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.examples import PrepareError
from data_prep.images import bytes_of
from data_prep.json_records import iter_records, list_files
from data_prep.shards import list_shards

_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})(?:_\d+)?\.jpe?g")
_GENOME_SOURCES = frozenset({"gqa", "visual_genome"})


@dataclass
class Pictures:
    """Groups of names of one picture (union-find). A group's own name is the smallest of its content digests."""

    coco_of_genome: dict[str, int] = field(default_factory=dict)
    _node: dict[Any, int] = field(default_factory=dict)
    _parent: list[int] = field(default_factory=list)
    _digest: list[bytes] = field(default_factory=list)

    def add_row(self, digests: list[bytes], names: list[str], source: str) -> int:
        """Node of a row's pictures; all pictures of one row belong together."""
        first = self._find(self._number(digests[0], digests[0]))
        for digest, name in zip(digests, names, strict=True):
            self._join(first, self._number(digest, digest))
            coco_id = self._coco_id(name, source)
            if coco_id is not None:
                self._join(first, self._number(coco_id, digest))
        return first

    def group(self, node: int) -> bytes:
        """Name of the group that the node belongs to; ask after all rows were added."""
        return self._digest[self._find(node)]

    def _number(self, key: Any, digest: bytes) -> int:
        node = self._node.setdefault(key, len(self._parent))
        if node == len(self._parent):
            self._parent.append(node)
            self._digest.append(digest)
        return node

    def _find(self, node: int) -> int:
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def _join(self, a: int, b: int) -> None:
        a, b = self._find(a), self._find(b)
        if a != b:
            self._parent[b] = a
            self._digest[a] = min(self._digest[a], self._digest[b])

    def _coco_id(self, name: str, source: str) -> int | None:
        base = PurePosixPath(name).name
        if source in _GENOME_SOURCES and (coco_id := self.coco_of_genome.get(PurePosixPath(base).stem)) is not None:
            return coco_id
        found = _COCO_NAME.fullmatch(base)
        return int(found[1]) if found else None


def coco_of_genome(image_data: str | None) -> dict[str, int]:
    """Visual Genome image id (as in GQA's file names) -> COCO id, from `image_data.json`."""
    if image_data is None:
        return {}
    where = "image_data.json.zip is at https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"
    entries = (entry for file in list_files(image_data, "image_data.json", where) for _, entry in iter_records(file))
    return {
        str(entry.get("image_id", entry.get("id"))): entry["coco_id"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("coco_id"), int)
    }


@dataclass(frozen=True)
class PartIndex:
    """The rows of one part, in file order.

    Attributes:
        keys: `(N,)` uint64 hash of seed and id: rows are drawn in its order.
        nodes: `(N,)` int64 node of the row's pictures in `Pictures`.
        files: shards; starts: `(F + 1,)` index of the first row of each.
    """

    folder: Path
    keys: np.ndarray
    nodes: np.ndarray
    ids: list[str]
    files: list[Path]
    starts: np.ndarray
    fingerprints: frozenset[str | None]

    def __len__(self) -> int:
        return len(self.keys)


def index_part(folder: Path, split: str, seed: int, pictures: Pictures) -> PartIndex:
    """Read a part once: ids, picture contents and fingerprints.

    Raises:
        PrepareError: no such data or split.
    """
    files = list_shards(folder, split)
    keys, nodes, ids, starts = [], [], [], [0]
    fingerprints: set[str | None] = set()
    for file in files:
        for table in _groups(file):
            for row_id, row_source, digests, names in _rows(table):
                keys.append(_hash(f"{seed}|{row_source}|{row_id}"))
                nodes.append(pictures.add_row(digests, names, row_source))
                ids.append(row_id)
            fingerprints.update(pc.unique(table["processor_fingerprint"]).to_pylist())
        starts.append(len(keys))
    return PartIndex(
        folder,
        np.array(keys, np.uint64),
        np.array(nodes, np.int64),
        ids,
        files,
        np.array(starts),
        frozenset(fingerprints),
    )


def _groups(file: Path) -> Iterator[pa.Table]:
    try:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            yield parquet.read_row_group(group, columns=["id", "images", "source", "processor_fingerprint"])
    except (pa.ArrowException, OSError) as error:
        raise PrepareError(f"{file} cannot be read: {error}. Prepare this part again with --overwrite") from None


def _rows(table: pa.Table) -> Iterator[tuple[str, str, list[bytes], list[str]]]:
    """(id, source, content digest and name of each image) of each row; equal bytes are hashed once."""
    images = table["images"].combine_chunks()
    flat = images.flatten()
    codes = pc.dictionary_encode(flat.field("bytes"), null_encoding="encode")
    digests = [None if value is None else _digest(value) for value in codes.dictionary.to_pylist()]
    paths = flat.field("path").to_pylist()
    pairs = [
        (digests[code] or _digest(bytes_of({"bytes": None, "path": path})), path)
        for code, path in zip(codes.indices.to_pylist(), paths, strict=True)
    ]
    at = 0
    lengths = pc.list_value_length(images).to_pylist()
    for row_id, source, length in zip(table["id"].to_pylist(), table["source"].to_pylist(), lengths, strict=True):
        own = pairs[at : at + length]
        at += length
        yield row_id, source, [digest for digest, _ in own], [path for _, path in own]


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=12).digest()


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
