"""`sayo mix`: weighted parts of several prepared data sets as one, no picture twice and none in two splits."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.card import write_card
from data_prep.examples import PrepareError, RejectedError
from data_prep.pictures import PartIndex, Pictures, coco_of_genome, index_part
from data_prep.pipeline import finished_shards, shard_paths
from data_prep.rows import features
from data_prep.shards import ROWS_PER_GROUP, ShardWriter, read_account
from data_prep.workers import progress_bar

_PART = re.compile(r"(?P<folder>.+?)(?::(?P<count>\d+))?")
VALIDATION = "validation"


@dataclass(frozen=True)
class Part:
    """A folder of prepared data and how many of its rows to draw; None takes all."""

    folder: Path
    count: int | None

    @classmethod
    def parse(cls, text: str) -> Part:
        """`"data/gqa:16000"` or `"data/gqa"`."""
        found = _PART.fullmatch(text)
        if found is None:
            raise PrepareError("a part is FOLDER or FOLDER:ROWS, such as data/gqa:16000")
        return cls(Path(found["folder"]), int(found["count"]) if found["count"] else None)


@dataclass(frozen=True)
class Drawn:
    """What one part gives: rows in file order, and rows passed over because their picture was taken already."""

    part: PartIndex
    rows: np.ndarray
    shared: list[str]


def mix_parts(
    parts: list[Part],
    out: Path,
    *,
    seed: int = 0,
    split: str = "train",
    validation: float = 0.0,
    exclude: list[Path] | None = None,
    genome_images: str | None = None,
    rows_per_shard: int = 2000,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Draw rows and write them, the parts evenly interleaved.

    Args:
        parts: earlier ones come first: a picture that one has used is not used by a later one.
        seed: decides which rows are drawn, and which pictures go to validation.
        split: the split that is read of every part.
        validation: share of pictures whose rows go to the split `validation`.
        exclude: prepared data (any split) whose pictures must not be in the mix, such as a benchmark.
        genome_images: Visual Genome's image_data.json, which says which of its and GQA's pictures are COCO's.

    Returns:
        the summary (see `data_prep.card.write_card`).

    Raises:
        PrepareError: a part has too few rows, or the parts were mapped for different processors.
    """
    if not 0 <= validation < 1:
        raise PrepareError(f"--validation: {validation} must be a share of the pictures, from 0 to less than 1")
    if rows_per_shard < 1:
        raise PrepareError(f"--rows-per-shard: {rows_per_shard} must be at least 1")
    pictures = Pictures(coco_of_genome(genome_images))
    banned = [index_part(folder, "*", seed, pictures) for folder in exclude or []]
    indexed = [index_part(part.folder, split, seed, pictures) for part in parts]
    _check_fingerprints(indexed)
    drawn = _draw(parts, indexed, banned, pictures)
    settings = {
        "source": "mix",
        "seed": seed,
        "--validation": validation,
        "--rows-per-shard": rows_per_shard,
        "parts": [
            {"part": one.part.folder.name, "rows": len(one.part), "drawn": len(one.rows), "shared": len(one.shared)}
            for one in drawn
        ],
        "digest": _digest([*indexed, *banned]),
    }
    held_out = [np.array([_share(pictures.group(one.part.nodes[row]), seed) < validation for row in one.rows], bool)
                for one in drawn]  # fmt: skip
    with progress_bar(sum(len(one.rows) for one in drawn), "mixing") as (advance, _):
        for name, wanted in (("train", False), (VALIDATION, True)):
            chosen = [(one.part, one.rows[held == wanted]) for one, held in zip(drawn, held_out, strict=True)]
            rejects = [row for one in drawn for row in one.shared] if name == "train" else []
            _write_split(name, chosen, rejects, out, {**settings, "--split": name}, rows_per_shard, overwrite, advance)
    return write_card(out)


def _check_fingerprints(parts: list[PartIndex]) -> None:
    found = {part.folder: part.fingerprints for part in parts if len(part)}
    if len(frozenset().union(*found.values())) > 1:
        kinds = "; ".join(
            f"{folder}: {', '.join(str(one or 'no processor') for one in those)}" for folder, those in found.items()
        )
        raise PrepareError(
            f"the parts carry tokens of different processors ({kinds}). Map each for one processor first: "
            f"sayo map {parts[0].folder} --processor MODEL --out {parts[0].folder}-mapped"
        )


def _draw(parts: list[Part], indexed: list[PartIndex], banned: list[PartIndex], pictures: Pictures) -> list[Drawn]:
    taken = {pictures.group(node) for part in banned for node in np.unique(part.nodes)}
    drawn = []
    for wanted, part in zip(parts, indexed, strict=True):
        rows, shared = [], []
        most = len(part) if wanted.count is None else wanted.count
        for row in np.argsort(part.keys, kind="stable"):
            if len(rows) == most:
                break
            (shared if pictures.group(part.nodes[row]) in taken else rows).append(int(row))
        if wanted.count is not None and len(rows) < wanted.count:
            raise PrepareError(
                f"{part.folder} has {len(part)} rows, of which {len(shared)} show pictures that an earlier part or "
                f"--exclude has: ask for at most {len(rows)} instead of {wanted.count}"
            )
        taken.update(pictures.group(part.nodes[row]) for row in rows)
        drawn.append(Drawn(part, np.sort(np.array(rows, np.int64)), [part.ids[row] for row in sorted(shared)]))
    return drawn


def _write_split(
    name: str,
    chosen: list[tuple[PartIndex, np.ndarray]],
    rejects: list[str],
    out: Path,
    settings: dict[str, Any],
    rows_per_shard: int,
    overwrite: bool,
    advance: Any,
) -> None:
    total = sum(len(rows) for _, rows in chosen)
    if total == 0 and not (name == "train"):
        return
    paths = shard_paths(out, name, max(1, -(-total // rows_per_shard)))
    done = finished_shards(out, name, paths, settings, overwrite)
    rows, schema = _interleaved(chosen), features().arrow_schema
    for number, path in enumerate(paths):
        if path in done:  # the rows are read all the same: the next shard goes on behind them
            for _ in range(rows_per_shard):
                next(rows, None)
            advance(done[path]["read"])
            continue
        with ShardWriter(path, schema) as writer:
            for row_id in rejects if number == 0 else []:
                writer.reject(row_id, RejectedError("picture_taken", "an earlier part or --exclude has this picture"))
            left = rows_per_shard
            while group := list(islice(rows, min(left, ROWS_PER_GROUP))):
                left -= len(group)
                table = pa.concat_tables(group)
                at = schema.get_field_index("split")
                table = table.set_column(at, schema.field(at), pa.array([name] * len(table), pa.string()))
                writer.write(table.cast(schema))
                advance(len(table))
            writer.finish(settings)


def _interleaved(chosen: list[tuple[PartIndex, np.ndarray]]) -> Iterator[pa.Table]:
    """One-row tables: each part in its file order, spread evenly over the whole."""

    def placed(number: int, part: PartIndex, rows: np.ndarray) -> Iterator[tuple[float, int, pa.Table]]:
        for place, table in enumerate(_read(part, rows)):
            yield (place + 0.5) / len(rows), number, table

    streams = [placed(number, part, rows) for number, (part, rows) in enumerate(chosen)]
    for _, _, table in heapq.merge(*streams, key=lambda entry: entry[:2]):
        yield table


def _read(part: PartIndex, rows: np.ndarray) -> Iterator[pa.Table]:
    """The rows of a part, in file order; each row group is read once."""
    for number, file in enumerate(part.files):
        first = part.starts[number]
        inside = rows[(rows >= first) & (rows < part.starts[number + 1])] - first
        if not len(inside):
            continue
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            here = inside[inside < size]
            if len(here):
                table = parquet.read_row_group(group)
                for row in here.tolist():
                    yield table.slice(row, 1)
            inside = inside[inside >= size] - size


def _share(group: bytes, seed: int) -> float:
    """A number in 0..1 that belongs to a picture: below --validation, its rows are held out."""
    return int.from_bytes(blake2b(group + str(seed).encode(), digest_size=8).digest(), "big") / 2**64


def _digest(parts: list[PartIndex]) -> str:
    """What a finished shard of the mix must share to be kept: the contents that were read of every part."""
    digest = sha256()
    for part in parts:
        digest.update(part.keys.tobytes() + repr([(file.name, file.stat().st_size) for file in part.files]).encode())
        digest.update(repr([read_account(file)["settings"] for file in part.files]).encode())
    return digest.hexdigest()[:16]
