"""A `Look` as compact JSON: maps as small integers, deflated, as many of them as the page may weigh.

An *entry* is one thing to look at: the mean over all read layers, one layer (heads averaged), or one head of a layer.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sayo.look.look import SHARES, Look

LEVELS = (255, 63, 31, 15)
"""Steps of a quantised map, best first: fewer steps deflate better."""
PNG_PIXELS, JPEG_SIDE = 256 * 256, 1280  # small pictures stay exact, large ones are shrunk to what a screen shows


class Maps(NamedTuple):
    """The maps that a page keeps.

    Attributes:
        entries: `[layer, head]`; -1 is the mean over all layers, or over all heads.
        levels: a value is `scale * (code / levels) ** 2`.
        packed: one mapping per entry: `codes` (deflated bytes, `T + 1` rows of `N`, base64) and `scales` (`T + 1`
            float32, base64). Each entry is packed on its own, so that a page unpacks only what is looked at.
        indices: where each entry comes from, for its shares: `("mean" | "layer" | "head", ...)`.
    """

    entries: list[list[int]]
    levels: int
    packed: list[dict[str, str]]
    indices: list[tuple]


def quantize(values: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """`(R, N)` non-negative -> codes `(R, N)` uint8 and scales `(R,)` float32, each row by its own maximum.

    Square-root steps: attention sinks dwarf the rest of a map, which linear steps would round to nothing. The error of
    a value `v` is at most `sqrt(v * scale) / levels + scale / (2 * levels) ** 2`.
    """
    scales = values.max(axis=1, initial=0.0).astype(np.float32)
    shares = np.divide(values, scales[:, None], out=np.zeros_like(values), where=scales[:, None] > 0)
    return np.rint(levels * np.sqrt(shares)).astype(np.uint8), scales


def dequantize(codes: np.ndarray, scales: np.ndarray, levels: int) -> np.ndarray:
    """Inverse of `quantize`, as the page does it."""
    return scales[:, None] * (codes.astype(np.float64) / levels) ** 2


def pack_maps(look: Look, budget: int) -> Maps:
    """The maps of all layers in the finest steps that fit into `budget` bytes, then heads of the last layers.

    If even the coarsest steps are too large, every second layer goes (counted from the last), and so on.
    """
    thinning = 1
    for levels in (*LEVELS, *[LEVELS[-1]] * len(look.layers)):
        kept = [index for index in range(len(look.layers)) if (len(look.layers) - 1 - index) % thinning == 0]
        indices = [("mean",), *(("layer", index) for index in kept)]
        packed, size = [], 0
        for index in indices:
            packed.append(_pack(_map_of(look, index), levels))
            size += _size(packed[-1])
            # Maps of one model weigh about the same: a third of them tells whether all will fit.
            if size > budget or (3 * len(packed) >= len(indices) and size * len(indices) > 1.2 * budget * len(packed)):
                size = budget + 1
                break
        if size <= budget:
            break
        if levels == LEVELS[-1]:
            thinning *= 2
    for position in reversed(range(len(look.head_layers))):
        if look.layers.index(look.head_layers[position]) not in kept:
            continue
        heads = [("head", position, head) for head in range(look.head_maps.shape[1])]
        more = [_pack(_map_of(look, index), levels) for index in heads]
        size += sum(map(_size, more))
        if size > budget:
            break
        indices += heads
        packed += more
    return Maps([_entry(look, index) for index in indices], levels, packed, indices)


def payload(look: Look, maps: Maps | None) -> dict[str, Any]:
    """Everything that the page's script needs; without maps, to measure what they may weigh."""
    footprints, panels = _panels(look)
    names = [name for name in SHARES if name in look.shares]
    shares = [[_share_of(look, name, index) for name in names] for index in maps.indices] if maps else []
    return {
        "tokens": look.tokens,
        "special": [index for index, is_special in enumerate(look.special) if is_special],
        "entropy": [float(f"{value:.5g}") for value in look.entropy],
        "num_heads": int(look.head_maps.shape[1]),
        "read_layers": list(look.layers),
        "entries": maps.entries if maps else [],
        "levels": maps.levels if maps else 0,
        "maps": maps.packed if maps else [],
        "share_names": names,
        "shares": _base64(np.array(shares, dtype="<f4").tobytes()),  # (entries, names, T + 1)
        "region_size": look.region_size,
        "image_size": look.image_size,
        "images": [{"uri": image_uri(image), "width": image.width, "height": image.height} for image in look.images],
        "panels": panels,
        "panel_of": footprints[:, 4].astype(int).tolist(),
        "footprints": _base64(footprints[:, :4].astype("<f4").tobytes()),
        "regions": look.regions,
    }


def image_uri(image: Image.Image) -> str:
    """The picture as a data URI: PNG if small, else JPEG of at most `JPEG_SIDE` pixels."""
    buffer = io.BytesIO()
    if image.width * image.height <= PNG_PIXELS:
        image.save(buffer, format="png", optimize=True)
        return "data:image/png;base64," + _base64(buffer.getvalue())
    small = image.copy()
    small.thumbnail((JPEG_SIDE, JPEG_SIDE))
    small.save(buffer, format="jpeg", quality=85)
    return "data:image/jpeg;base64," + _base64(buffer.getvalue())


def panels_of(look: Look) -> Iterator[tuple[int, int, slice, np.ndarray]]:
    """Every (image, view) that is shown apart: its image, view, slice of the visual tokens, and `(n,)` mask in it."""
    start = 0
    for image, cells in enumerate(look.cells):
        place = slice(start, start + len(cells))
        start = place.stop
        seen = ~np.isnan(cells.footprints).any(axis=1)
        for view in np.unique(cells.views[seen]):
            yield image, int(view), place, seen & (cells.views == view)


def _panels(look: Look) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """`(N, 5)`: footprint and panel of every visual token (-1 for a token that sees no pixel); and the panels."""
    table = np.concatenate(
        [np.column_stack([np.nan_to_num(cells.footprints), np.full(len(cells), -1)]) for cells in look.cells]
    )
    panels = []
    for image, view, place, inside in panels_of(look):
        table[place, 4][inside] = len(panels)
        panels.append({"image": image, "view": view, "tokens": int(inside.sum())})
    return table, panels


def _map_of(look: Look, index: tuple) -> np.ndarray:
    if index[0] == "mean":
        return look.maps.mean(axis=0)
    return look.maps[index[1]] if index[0] == "layer" else look.head_maps[index[1], index[2]]


def _share_of(look: Look, name: str, index: tuple) -> np.ndarray:
    if index[0] == "mean":
        return look.shares[name].mean(axis=0)
    return look.shares[name][index[1]] if index[0] == "layer" else look.head_shares[name][index[1], index[2]]


def _entry(look: Look, index: tuple) -> list[int]:
    if index[0] == "mean":
        return [-1, -1]
    return [look.layers[index[1]], -1] if index[0] == "layer" else [look.head_layers[index[1]], index[2]]


def _pack(values: np.ndarray, levels: int) -> dict[str, str]:
    codes, scales = quantize(values, levels)
    # Maps have runs of zeros but no repeats worth a search: smaller than the default strategy, and ten times faster.
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    data = deflate.compress(codes.tobytes()) + deflate.flush()
    return {"codes": _base64(data), "scales": _base64(scales.astype("<f4").tobytes())}


def _size(packed: dict[str, str]) -> int:
    # quotes, names and the shares of the entry (five float32 per row for the four bytes of its scale)
    return len(packed["codes"]) + 6 * len(packed["scales"]) + 64


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
