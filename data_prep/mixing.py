"""`sayo mix`: weighted parts of several prepared data sets as one, no picture twice and none in two splits."""

import heapq
import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data_prep.card import write_card
from data_prep.examples import PrepareError, RejectedError
from data_prep.pictures import PartIndex, PictureKey, Pictures, index_part
from data_prep.rows import features
from data_prep.shards import ROWS_PER_GROUP, ShardWriter, finished_shards, read_account, shard_paths
from data_prep.workers import progress_bar

_PART = re.compile(r"(.*?)(?::(\d+))?")


class Draw(NamedTuple):
    """What one part gives: rows in file order, and ids of rows passed over because their picture was taken already."""

    part: PartIndex
    rows: np.ndarray
    shared: list[str]


def mix_parts(
    parts: Sequence[str],
    out: Path,
    *,
    seed: int = 0,
    split: str = "train",
    validation: float = 0.0,
    exclude: Sequence[Path] = (),
    genome_images: str | None = None,
    rows_per_shard: int = 2000,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Draw rows and write them, the parts evenly interleaved; the arguments are the options of `sayo mix`.

    Parts are "FOLDER:ROWS" or "FOLDER" (all its rows); a picture that one has used is not used by a later one.
    Returns the summary of `write_card`.

    Raises:
        PrepareError: a part has too few rows, or the parts were mapped for different processors.
    """
    pictures = Pictures(genome_images)
    banned = [index_part(folder, "*", seed, pictures) for folder in exclude]
    wanted = [_PART.fullmatch(part).groups() for part in parts]  # type: ignore[union-attr]
    indexed = [index_part(Path(folder), split, seed, pictures) for folder, _ in wanted]
    _check_fingerprints(indexed)
    taken = {pictures.group(key) for part in banned for key in part.pictures}
    draws = [
        _draw(part, None if count is None else int(count), taken, pictures)
        for part, (_, count) in zip(indexed, wanted, strict=True)
    ]
    settings = {
        "source": "mix",
        "seed": seed,
        "--validation": validation,
        "--rows-per-shard": rows_per_shard,
        "parts": [
            {"part": part.folder.name, "rows": len(part), "drawn": len(rows), "shared": len(shared)}
            for part, rows, shared in draws
        ],
        "digest": _digest([*indexed, *banned]),
    }
    held_out = [
        np.array([_share(pictures.group(part.pictures[row]), seed) < validation for row in rows], bool)
        for part, rows, _ in draws
    ]
    for name in ("train", "validation"):
        chosen = [
            Draw(draw.part, draw.rows[held == (name == "validation")], draw.shared if name == "train" else [])
            for draw, held in zip(draws, held_out, strict=True)
        ]
        _write_split(chosen, out, {**settings, "--split": name}, rows_per_shard, overwrite)
    return write_card(out)


def _check_fingerprints(parts: list[PartIndex]) -> None:
    fingerprints = {part.folder: part.fingerprints for part in parts if len(part)}
    if len(frozenset().union(*fingerprints.values())) > 1:
        kinds = "; ".join(
            f"{folder}: {', '.join(kind or 'no processor' for kind in those)}"
            for folder, those in fingerprints.items()
        )
        raise PrepareError(
            f"the parts carry tokens of different processors ({kinds}). Map each for one processor first: "
            f"sayo map {parts[0].folder} --processor MODEL --out {parts[0].folder}-mapped"
        )


def _draw(part: PartIndex, count: int | None, taken: set[PictureKey], pictures: Pictures) -> Draw:
    """Draw `count` rows (None: all) whose pictures are not `taken`, and add theirs to it."""
    rows, shared = [], []
    for row in np.argsort(part.order, kind="stable").tolist():
        if len(rows) == count:
            break
        (shared if pictures.group(part.pictures[row]) in taken else rows).append(row)
    if count is not None and len(rows) < count:
        raise PrepareError(
            f"{part.folder} has {len(part)} rows, of which {len(shared)} show pictures that an earlier part or "
            f"--exclude has: ask for at most {len(rows)} instead of {count}"
        )
    taken.update(pictures.group(part.pictures[row]) for row in rows)
    return Draw(part, np.sort(np.array(rows, np.int64)), [part.ids[row] for row in sorted(shared)])


def _write_split(draws: list[Draw], out: Path, settings: dict[str, Any], rows_per_shard: int, overwrite: bool) -> None:
    name, total = settings["--split"], sum(len(draw.rows) for draw in draws)
    if total == 0 and name != "train":
        return
    paths = shard_paths(out, name, max(1, -(-total // rows_per_shard)))
    done = finished_shards(out, name, paths, settings, overwrite)
    rows, schema = _interleaved(draws), features().arrow_schema
    at = schema.get_field_index("split")
    with progress_bar(total, f"mixing {name}") as (advance, _):
        for path in paths:
            shard = islice(rows, rows_per_shard)
            if path in done:  # its rows are read all the same: the next shard begins behind them
                advance(sum(1 for _ in shard))
                continue
            with ShardWriter(path, schema) as writer:
                for row_id in (row_id for draw in draws for row_id in draw.shared if path == paths[0]):
                    detail = "an earlier part or --exclude has this picture"
                    writer.reject(row_id, RejectedError("picture_taken", detail))
                while group := list(islice(shard, ROWS_PER_GROUP)):
                    table = pa.concat_tables(group)
                    table = table.set_column(at, schema.field(at), pa.array([name] * len(table), pa.string()))
                    writer.write(table.cast(schema))
                    advance(len(table))
                writer.finish(settings)


def _interleaved(draws: list[Draw]) -> Iterator[pa.Table]:
    """One-row tables: each part in its file order, spread evenly over the whole."""

    def placed(draw: Draw) -> Iterator[tuple[float, pa.Table]]:
        for place, table in enumerate(draw.part.read(draw.rows)):
            yield (place + 0.5) / len(draw.rows), table

    for _, table in heapq.merge(*map(placed, draws), key=lambda entry: entry[0]):
        yield table


def _share(group: PictureKey, seed: int) -> float:
    """A number in 0..1 that belongs to a picture: below --validation, its rows are held out."""
    return int.from_bytes(blake2b(group[1] + str(seed).encode(), digest_size=8).digest(), "big") / 2**64


def _digest(parts: list[PartIndex]) -> str:
    """What a finished shard of the mix must share to be kept: the contents that were read of every part."""
    digest = sha256()
    for part in parts:
        files = sorted({file for file, _ in part.groups})
        digest.update(part.order.tobytes() + repr([(file.name, file.stat().st_size) for file in files]).encode())
        digest.update(repr([read_account(file)["settings"] for file in files]).encode())
    return digest.hexdigest()[:16]
