"""The page of one response: its maps as small integers, deflated, as many of them as the page may weigh.

An *entry* is one thing to look at: the mean over all read layers, one layer (heads averaged), or one head of a layer.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sayo.draw import COLORMAP
from sayo.metrics.region import pooled_attention, tas
from sayo.viz.look import SHARES, Look, LookError
from sayo.viz.pages import picture, render, to_base64, write_text

PAGE_BYTES = 10_000_000
LEVELS = (255, 63, 31, 15)
"""Steps of a quantised map, best first: fewer steps deflate better."""


class Entry(NamedTuple):
    """What one position of the page's layer and head controls shows.

    Attributes:
        layer, head: -1 is the mean over all layers, or over all heads.
        maps: `(T + 1, N)`.
        shares: `(groups, T + 1)`, in the order of `SHARES`.
    """

    layer: int
    head: int
    maps: np.ndarray
    shares: np.ndarray


def write_look(look: Look, out: str | Path, max_bytes: int = PAGE_BYTES) -> Path:
    """Write the page of one response to `out` and return its path.

    Args:
        max_bytes: upper bound of the file. Maps get coarser, then heads are left out, until it fits; the page says
            what was kept.

    Raises:
        LookError: the bound is too small even for coarse maps.
    """
    bare = len(_render(look, [], [], LEVELS[0]).encode())
    html = _render(look, *pack_entries(look, max_bytes - bare - 2000))
    return write_text(html, out)


def pack_entries(look: Look, budget: int) -> tuple[list[Entry], list[dict[str, str]], int]:
    """All layers in the finest steps that fit into `budget` bytes, then heads of the last layers as long as they fit.

    Returns:
        the entries, each packed (see `_pack`; alone, so that a page unpacks only what is looked at), and the levels.

    Raises:
        LookError: the layers do not fit, in the coarsest steps.
    """
    entries = list(_layer_entries(look))
    for levels in LEVELS:
        packed = [_pack(entry, levels) for entry in entries]
        size = sum(map(_size, packed))
        if size <= budget:
            break
    else:
        raise LookError(
            f"the maps need {size:,} bytes, {max(budget, 0):,} are left: read fewer layers (--layers last) or a "
            "shorter response (--max-new-tokens)"
        )
    for heads in _head_entries(look):
        more = [_pack(entry, levels) for entry in heads]
        size += sum(map(_size, more))
        if size > budget:
            break
        entries, packed = entries + heads, packed + more
    return entries, packed, levels


def quantize(values: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """`(R, N)` non-negative -> codes `(R, N)` uint8 and scales `(R,)` float32: each row's own maximum.

    A value is `scale * (code / levels) ** 2`. Square-root steps, because attention sinks dwarf the rest of a map,
    which linear steps would round to nothing: the error of a value `v` is at most
    `sqrt(v * scale) / levels + scale / (2 * levels) ** 2`.
    """
    scales = values.max(axis=1, initial=0.0).astype(np.float32)
    shares = np.divide(values, scales[:, None], out=np.zeros_like(values), where=scales[:, None] > 0)
    return np.rint(levels * np.sqrt(shares)).astype(np.uint8), scales


def _pack(entry: Entry, levels: int) -> dict[str, str]:
    """`codes` (deflated bytes, `T + 1` rows of `N`), `scales` (float32) and `shares` (float32), all base64."""
    codes, scales = quantize(entry.maps, levels)
    # Maps have runs of zeros but no repeats worth a search: smaller than the default strategy, and ten times faster.
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    data = deflate.compress(codes.tobytes()) + deflate.flush()
    floats = {"scales": scales, "shares": entry.shares}
    return {"codes": to_base64(data)} | {
        name: to_base64(values.astype("<f4").tobytes()) for name, values in floats.items()
    }


def _size(packed: dict[str, str]) -> int:
    return sum(map(len, packed.values())) + 80  # names, quotes and the entry


def _layer_entries(look: Look) -> Iterator[Entry]:
    yield Entry(-1, -1, look.maps.mean(axis=0), _stacked(look.shares).mean(axis=1))
    for index, layer in enumerate(look.layers):
        yield Entry(layer, -1, look.maps[index], _stacked(look.shares)[:, index])


def _head_entries(look: Look) -> Iterator[list[Entry]]:
    """The heads of one layer after the other, from the last layer on."""
    for index in reversed(range(len(look.head_layers))):
        shares = _stacked(look.head_shares)[:, index]
        heads = range(shares.shape[1])
        yield [Entry(look.head_layers[index], head, look.head_maps[index, head], shares[:, head]) for head in heads]


def _stacked(shares: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([shares[name] for name in SHARES if name in shares])


def _render(look: Look, entries: list[Entry], packed: list[dict[str, str]], levels: int) -> str:
    from matplotlib import colormaps

    table = np.rint(colormaps[COLORMAP](np.arange(256))[:, :3] * 255).astype(np.uint8)
    footprints, panels = _panels(look)
    data = {
        "tokens": look.tokens,
        "special": [index for index, is_special in enumerate(look.special) if is_special],
        "entropy": [float(f"{value:.5g}") for value in look.entropy],
        "num_layers": len(look.layers),
        "entries": [[entry.layer, entry.head] for entry in entries],
        "levels": levels,
        "maps": packed,
        "share_names": [name for name in SHARES if name in look.shares],
        "region_size": look.region_size,
        "image_size": int(look.maps.shape[-1]),
        "panel_of": footprints[:, 4].astype(int).tolist(),
        "footprints": to_base64(footprints[:, :4].astype("<f4").tobytes()),
        "colors": to_base64(table.tobytes()),
    }
    heads = sorted({entry.layer for entry in entries if entry.head >= 0})
    return render("look", question=look.question, facts=_facts(look), panels=panels, head_layers=heads, data=data)


def _panels(look: Look) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """`(N, 5)`: footprint and panel of every visual token (-1 for a token that sees no pixel); and the panels."""
    table = np.concatenate(
        [np.column_stack([np.nan_to_num(cells.footprints), np.full(len(cells), -1)]) for cells in look.cells]
    )
    panels, views = [], look.views()
    for image, view, place, inside in views:
        table[place, 4][inside] = len(panels)
        labels = [f"Image {image + 1}"] if len(look.images) > 1 else []
        if sum(other[0] == image for other in views) > 1:
            labels.append("tiles" if view else "whole picture")
        regions = [region for region in look.regions if region["image"] == image]
        caption = f"{', '.join(labels)}: {inside.sum()} visual tokens" if labels else ""
        panels.append({**picture(look.images[image], regions), "caption": caption})
    return table, panels


def _facts(look: Look) -> dict[str, str]:
    """What the header says, with units."""
    facts = {"Model": look.model} if look.model else {}
    facts |= {
        "Response": f"{len(look.tokens)} tokens, {look.origin}",
        "Visual tokens": f"{look.maps.shape[-1]:,}",
        "Attention on the image": f"{look.shares['image'].mean():.1%}",
    }
    if "region" in look.shares:
        pooled = pooled_attention(look.trace, "deciding")
        facts["Region"] = f"{look.region_size:.1f} visual tokens, {look.shares['region'].mean():.1%} of attention"
        facts["Target attention score"] = f"{tas(pooled.region, pooled.image):.2f} (TAS, deciding rows, all layers)"
    return facts
