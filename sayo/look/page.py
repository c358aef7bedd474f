"""The page: HTML, style, script and data in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from sayo import __version__
from sayo.look.look import Look
from sayo.look.payload import Maps, pack_maps, payload
from sayo.metrics.region import pooled_attention, tas

PAGE_BYTES = 10_000_000
_MARGIN = 50_000  # what the text about the maps may add


def write_page(look: Look, out: str | Path, max_bytes: int = PAGE_BYTES) -> Path:
    """Write the page of one response to `out` and return its path.

    Args:
        max_bytes: upper bound of the file. Maps get coarser, then heads and layers are left out, until it fits; the
            page says what was kept.

    Raises:
        ValueError: the bound is too small even for one map.
    """
    bare = len(_render(look, None).encode())
    maps = pack_maps(look, max_bytes - bare - _MARGIN)
    html = _render(look, maps)
    if len(html.encode()) > max_bytes:
        raise ValueError(
            f"the page needs {len(html.encode()):,} bytes, {max_bytes:,} are allowed: read fewer layers (--layers "
            "last) or a shorter response (--max-new-tokens)"
        )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def facts(look: Look) -> dict[str, str]:
    """What the header says, with units."""
    image = float(look.shares["image"].mean())
    known = {
        "Model": look.model,
        "Response": f"{len(look.tokens)} tokens, {look.settings['response']}",
        "Visual tokens": f"{look.image_size:,}",
        "Attention on the image": f"{image:.1%}",
    }
    if "region" in look.shares:
        known["Target"] = (
            f"{look.region_size:.1f} visual tokens, {float(look.shares['region'].mean()):.1%} of attention"
        )
        pooled = pooled_attention(look.trace, "deciding")
        known["Target attention score"] = f"{tas(pooled.region, pooled.image):.2f} (TAS, deciding rows, all layers)"
    return {name: value for name, value in known.items() if value}


def kept(look: Look, maps: Maps) -> str:
    """One sentence about which maps the page holds."""
    layers = [layer for layer, head in maps.entries if layer >= 0 and head < 0]
    heads = sorted({layer for layer, head in maps.entries if head >= 0})
    read = len(look.layers)
    which = "all of them" if len(layers) == read else f"{len(layers)} of them ({_ranges(layers)})"
    single = "all layers" if len(heads) == read else f"layers {_ranges(heads)}" if heads else "no layer"
    text = f"This page keeps the mean over all {read} layers that were read and the maps of {which}, heads averaged; "
    text += f"single heads of {single}. Map values come in {maps.levels + 1} square-root steps of each map's maximum; "
    text += "shares are exact."
    if len(layers) < read or len(heads) < read:
        text += " To keep more, read fewer layers (--layers)."
    return text


def _render(look: Look, maps: Maps | None) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # What a model or a user said is text to this page: autoescape turns its tags into characters.
    environment = Environment(
        loader=PackageLoader("sayo.look", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    script = files("sayo.look").joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        question=look.question,
        facts=facts(look),
        kept=kept(look, maps) if maps else "",
        style=files("sayo.look").joinpath("page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=digest,
        data=_json({**payload(look, maps), "colors": _colors()}),
        version=__version__,
    )


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _colors() -> str:
    """256 RGB bytes of the colour map, base64."""
    from matplotlib import colormaps

    from sayo.draw import COLORMAP

    table = np.rint(colormaps[COLORMAP](np.arange(256))[:, :3] * 255).astype(np.uint8)
    return base64.b64encode(table.tobytes()).decode()


def _ranges(numbers: list[int]) -> str:
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}–{numbers[-1]}"
    return ", ".join(map(str, numbers))
