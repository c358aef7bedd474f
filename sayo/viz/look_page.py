"""The page of a response, or of several: maps as small integers, deflated, in steps as fine as its weight allows."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import colormaps

from sayo.attention import AttentionTrace
from sayo.draw import DARKEST
from sayo.errors import SayoError
from sayo.metrics.region import pooled_attention, pooled_mass, tas, token_weights
from sayo.viz.pages import picture, render_page, to_base64, write_text

if TYPE_CHECKING:
    from sayo.viz.look import Look

PAGE_BYTES = 10_000_000
COLORMAP = "inferno"
SHARES = ("region", "image", "question", "response", "prefix")  # key groups that the page shows
LEVELS = (255, 63, 31, 15)
"""Steps of a quantised map, best first: fewer steps deflate better."""


class LookError(SayoError, ValueError):
    """What was asked for cannot be looked at or shown; the message says why."""


class Packed(NamedTuple):
    """What a page holds of one look's maps.

    Attributes:
        maps: entries of `_pack`: the mean over the layers, every layer, then single heads.
        heads: position of a layer's entry -> that of its first head.
        levels: of `quantize`.
    """

    maps: list[dict[str, str]]
    heads: dict[int, int]
    levels: int


def write_look(looks: "Look | Mapping[str, Look]", out: str | Path, max_bytes: int = PAGE_BYTES) -> Path:
    """Write `look_page` of one response, or of several side by side, to `out` and return its path."""
    return write_text(look_page(looks if isinstance(looks, Mapping) else {"": looks}, max_bytes), out)


def look_page(looks: "Mapping[str, Look]", max_bytes: int = PAGE_BYTES) -> str:
    """The page of some responses to one question: label -> look.

    The maps get coarser until they and the single heads fit into `max_bytes`; where the heads of all layers never do,
    the last layers' are held, as far as they fit; the page says what it holds. LookError if not even the maps fit.
    """
    empty = _render(looks, {label: Packed([], {}, LEVELS[0]) for label in looks})
    budget = (max_bytes - len(empty.encode())) // len(looks) - 2000
    return _render(looks, {label: _packed(look, budget) for label, look in looks.items()})


def _packed(look: "Look", budget: int) -> Packed:
    """Its maps in at most `budget` bytes: in the finest steps that leave room for all heads, else for the maps."""
    best, wanted = None, 0 if look.heads is None else len(set(look.heads.layers))
    for levels in LEVELS:
        packed, size = _in_steps(look, budget, levels)
        if size <= budget and (best is None or len(packed.heads) == wanted):
            best = packed
        if best is not None and len(best.heads) == wanted:
            break
    if best is None:
        raise LookError(
            f"the maps need {size:,} bytes, {max(budget, 0):,} are left: read fewer layers (--layers last) or a "
            "shorter response (--max-new-tokens)"
        )
    return best


def _in_steps(look: "Look", budget: int, levels: int) -> tuple[Packed, int]:
    """All maps, the heads of as many layers (the last first) as the budget then allows, and the bytes of the maps."""
    # The first entry is the mean over the layers. Each is packed alone: the page unpacks only what is looked at.
    maps, shares = (np.concatenate([values.mean(axis=0)[None], values]) for values in _arrays(look.trace))
    packed = [_pack(*entry, levels) for entry in zip(maps, shares, strict=True)]
    size, heads = _size(packed), {}
    left = budget - size
    for layer in reversed(sorted(set(look.heads.layers)) if look.heads is not None and left > 0 else []):
        places = [place for place, of in enumerate(look.heads.layers) if of == layer]
        entries = zip(*(values[places] for values in _arrays(look.heads)), strict=True)
        added = [_pack(*entry, levels) for entry in entries]
        left -= _size(added)
        if left < 0:
            break
        heads[1 + look.trace.layers.index(layer)] = len(packed)
        packed += added
    return Packed(packed, heads, levels), size


def _arrays(trace: AttentionTrace) -> tuple[np.ndarray, np.ndarray]:
    """Maps `(L, R, N)` and shares `(L, groups, R)` of the `R` rows that were read."""
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


def _render(looks: "Mapping[str, Look]", packed: Mapping[str, Packed]) -> str:
    table = np.rint(colormaps[COLORMAP](np.arange(256))[:, :3] * 255).astype(np.uint8)
    views, first = [], next(iter(looks.values()))
    for label, look in looks.items():
        footprints, panels = _panels(look)
        data = {
            "tokens": look.tokens,
            "special": [index for index, is_special in enumerate(look.special) if is_special],
            "entropy": [float(f"{value:.5g}") for value in look.trace.entropy],
            "weights": [float(f"{value:.6g}") for value in token_weights(look.trace.entropy, "entropy_weighted")],
            "rows": look.trace.maps.shape[1],
            "layers": list(look.trace.layers),
            "num_heads": 0 if look.heads is None else look.heads.layers.count(look.heads.layers[0]),
            **packed[label]._asdict(),
            "share_names": [name for name in SHARES if name in look.trace.masses],
            "region_size": look.trace.sizes.get("region", 0.0),
            "image_size": len(footprints),
            "panel_of": footprints[:, 4].astype(int).tolist(),
            "footprints": to_base64(footprints[:, :4].astype("<f4").tobytes()),
        }
        views.append({"label": label, "facts": _facts(look), "panels": panels, "data": data})
    shared = {"colors": to_base64(table.tobytes()), "darkest": DARKEST}
    return render_page("look", question=first.question or "Where the model looks", views=views, shared=shared)


def _panels(look: "Look") -> tuple[np.ndarray, list[dict[str, Any]]]:
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


def _facts(look: "Look") -> dict[str, str]:
    """What the header says, with units; means over the tokens, weighted by entropy as the map of the response is."""
    trace, weights = look.trace, token_weights(look.trace.entropy, "entropy_weighted")
    facts = {
        "Model": look.model,
        "Response": f"{len(trace)} tokens, {look.origin}".rstrip(", "),
        "Visual tokens": f"{trace.maps.shape[-1]:,}",
        "Attention on the image": f"{pooled_mass(trace, 'image', 'deciding', weights):.1%}",
    }
    if trace.has_region:
        pooled = pooled_attention(trace, "deciding", "entropy_weighted")
        facts["Region"] = f"{trace.sizes['region']:.1f} visual tokens, {pooled.region_mass:.1%} of attention"
        score, layers = tas(pooled.region, pooled.image), ", ".join(map(str, trace.layers))
        facts["Target attention score"] = f"{score:.2f} (TAS; .5: no preference; layers {layers})"
    return {name: fact for name, fact in facts.items() if fact}
