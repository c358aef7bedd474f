"""HTML pages: one template engine, and every page one file that needs nothing else."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sayo import __version__

PNG_PIXELS = 256 * 256  # pictures of at most so many pixels stay exact
LONGEST_SIDE = 1280  # pixels of a larger picture: what a screen shows


def render_page(template: str, **values: Any) -> str:
    """The page that `templates/<template>.html` describes, with `values`.

    What a model, a user or a data set said is text to a page: autoescape turns its tags into characters. The only
    script that a page runs is `templates/<template>.js`, whose hash stands in the page's content security policy.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sayo.viz"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}
    script = ""
    if f"{template}.js" in environment.list_templates():
        script = environment.loader.get_source(environment, f"{template}.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template(f"{template}.html")
    return page.render(version=__version__, script=script, script_hash=digest, **values)


def write_text(text: str, out: str | Path) -> Path:
    """Write a page to `out`, making its folder; one with the same name is replaced once the new one is complete."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(out)
    return out


def picture(
    image: Image.Image,
    regions: Sequence[Mapping[str, Any]] = (),
    veil: Image.Image | None = None,
    masks: Sequence[Image.Image] = (),
    longest: int = LONGEST_SIDE,
) -> dict[str, Any]:
    """What the template's macro `picture` draws.

    Args:
        regions: mappings with `box` (xyxy in pixels of the image) and, if known, `role` and `label`.
        veil: of `sayo.draw.spotlight`, laid over the image.
        masks: RGBA pictures that are stretched over the image.
        longest: pixels of the longer side, at most.
    """
    outlines = [
        {"box": region["box"], "role": region.get("role") or "answer", "label": region.get("label") or ""}
        for region in regions
    ]
    return {
        "uri": image_uri(image, longest),
        "width": image.width,
        "height": image.height,
        "regions": sorted(outlines, key=lambda region: region["role"] == "answer"),  # the answer on top
        "veil": None if veil is None else image_uri(veil, longest),
        "masks": [image_uri(mask, longest) for mask in masks],
    }


def image_uri(image: Image.Image, longest: int = LONGEST_SIDE) -> str:
    """The picture as a data URI: PNG if it is small or has an alpha channel, else JPEG of at most `longest` pixels."""
    buffer = io.BytesIO()
    if image.mode == "RGBA" or image.width * image.height <= PNG_PIXELS:
        image.save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{to_base64(buffer.getvalue())}"
    small = image.convert("RGB")
    small.thumbnail((longest, longest))
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{to_base64(buffer.getvalue())}"


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
