"""The page of one response: its maps as small integers, deflated, in steps as fine as the page's weight allows."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps

from sayo.attention import AttentionTrace
from sayo.draw import COLORMAP
from sayo.metrics.region import pooled_attention, tas
from sayo.viz.look import Look, LookError
from sayo.viz.pages import picture, render_page, to_base64, write_text

PAGE_BYTES = 10_000_000
SHARES = ("region", "image", "question", "response", "prefix")  # key groups that the page shows
LEVELS = (255, 63, 31, 15)
"""Steps of a quantised map, best first: fewer steps deflate better."""


def write_look(look: Look, out: str | Path, max_bytes: int = PAGE_BYTES) -> Path:
    """Write the page of one response to `out` and return its path.

    The maps of all layers get coarser until the file has at most `max_bytes`, then single heads are added, the last
    layer's first, while they fit; the page says what it holds. LookError if even the coarsest maps do not fit.
    """
    # The first entry is the mean over the layers. Each is packed alone: the page unpacks only what is looked at.
    maps, shares = (np.concatenate([values.mean(axis=0)[None], values]) for values in _arrays(look.trace))
    budget = max_bytes - len(_render(look, [], {}, LEVELS[0]).encode()) - 2000
    for levels in LEVELS:
        packed = [_pack(*entry, levels) for entry in zip(maps, shares, strict=True)]
        if (size := _size(packed)) <= budget:
            break
    else:
        raise LookError(
            f"the maps need {size:,} bytes, {max(budget, 0):,} are left: read fewer layers (--layers last) or a "
            "shorter response (--max-new-tokens)"
        )
    heads = {}
    for layer in reversed(sorted(set(look.heads.layers)) if look.heads is not None else []):
        places = [place for place, of in enumerate(look.heads.layers) if of == layer]
        added = [
            _pack(*entry, levels) for entry in zip(*(values[places] for values in _arrays(look.heads)), strict=True)
        ]
        if (size := size + _size(added)) > budget:
            break
        heads[1 + look.trace.layers.index(layer)] = len(packed)
        packed += added
    return write_text(_render(look, packed, heads, levels), out)


def _arrays(trace: AttentionTrace) -> tuple[np.ndarray, np.ndarray]:
    """Maps `(L, T + 1, N)` and shares `(L, groups, T + 1)`."""
    return trace.maps, np.stack([trace.masses[name] for name in SHARES if name in trace.masses], axis=1)


def quantize(values: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """`(R, N)` non-negative -> codes `(R, N)` uint8 and scales `(R,)` float32: each row's own maximum.

    A value is `scale * (code / levels) ** 2`. Square-root steps, because attention sinks dwarf the rest of a map,
    which linear steps would round to nothing: the error of a value `v` is at most
    `sqrt(v * scale) / levels + scale / (2 * levels) ** 2`.
    """
    scales = values.max(axis=1, initial=0.0).astype(np.float32)
    shares = np.divide(values, scales[:, None], out=np.zeros_like(values), where=scales[:, None] > 0)
    return np.rint(levels * np.sqrt(shares)).astype(np.uint8), scales


def _pack(maps: np.ndarray, shares: np.ndarray, levels: int) -> dict[str, str]:
    """`codes` (deflated bytes, `R` rows of `N`), `scales` and `shares` (`(groups, R)`, float32), all base64."""
    codes, scales = quantize(maps, levels)
    # Maps have runs of zeros but no repeats worth a search: smaller than the default strategy, and ten times faster.
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    arrays = {"codes": deflate.compress(codes.tobytes()) + deflate.flush()}
    arrays |= {name: values.astype("<f4").tobytes() for name, values in (("scales", scales), ("shares", shares))}
    return {name: to_base64(data) for name, data in arrays.items()}


def _size(packed: list[dict[str, str]]) -> int:
    return sum(len(text) + 20 for entry in packed for text in entry.values())


def _render(look: Look, packed: list[dict[str, str]], heads: dict[int, int], levels: int) -> str:
    """The page; `heads`: entry of a layer -> entry of its first head."""
    table = np.rint(colormaps[COLORMAP](np.arange(256))[:, :3] * 255).astype(np.uint8)
    footprints, panels = _panels(look)
    data = {
        "tokens": look.tokens,
        "special": [index for index, is_special in enumerate(look.special) if is_special],
        "entropy": [float(f"{value:.5g}") for value in look.trace.entropy],
        "layers": list(look.trace.layers),
        "heads": heads,
        "num_heads": 0 if look.heads is None else look.heads.layers.count(look.heads.layers[0]),
        "levels": levels,
        "maps": packed,
        "share_names": [name for name in SHARES if name in look.trace.masses],
        "region_size": look.trace.sizes.get("region", 0.0),
        "image_size": len(footprints),
        "panel_of": footprints[:, 4].astype(int).tolist(),
        "footprints": to_base64(footprints[:, :4].astype("<f4").tobytes()),
        "colors": to_base64(table.tobytes()),
    }
    return render_page("look", question=look.question, facts=_facts(look), panels=panels, data=data)


def _panels(look: Look) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """`(N, 5)`: footprint and panel of every visual token (-1 for a token that sees no pixel); and the panels."""
    table = np.concatenate(
        [np.column_stack([np.nan_to_num(cells.footprints), np.full(len(cells), -1)]) for cells in look.cells]
    )
    panels = []
    for view in look.views():
        table[view.tokens, 4] = len(panels)
        labels = [f"Image {view.image + 1}" if len(look.images) > 1 else "", view.title]
        label = ", ".join(filter(None, labels))
        regions = [region for region in look.regions if region["image"] == view.image]
        caption = f"{label}: {len(view.tokens)} visual tokens" if label else ""
        panels.append({**picture(look.images[view.image], regions), "caption": caption})
    return table, panels


def _facts(look: Look) -> dict[str, str]:
    """What the header says, with units."""
    trace = look.trace
    facts = {
        "Model": look.model,
        "Response": f"{len(trace)} tokens, {look.origin}",
        "Visual tokens": f"{trace.maps.shape[-1]:,}",
        "Attention on the image": f"{trace.masses['image'].mean():.1%}",
    }
    if trace.has_region:
        pooled = pooled_attention(trace, "deciding")
        facts["Region"] = (
            f"{trace.sizes['region']:.1f} visual tokens, {trace.masses['region'].mean():.1%} of attention"
        )
        score, layers = tas(pooled.region, pooled.image), list(trace.layers)
        facts["Target attention score"] = f"{score:.2f} (TAS, deciding rows, layers {layers})"
    return {name: fact for name, fact in facts.items() if fact}
