"""Small prepared data, and the command lines that use them."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from data_prep.rows import features

COLOURS = ("red", "blue", "green")
TOPICS = (  # so many words of their own that no two completions are near duplicates
    "Under oak trees beside the river",
    "Within seven minutes of sunrise",
    "Behind my uncle's barn door",
    "Near an old harbour wall",
    "On top of that distant hill",
    "Across three frozen northern lakes",
    "Between two quiet village streets",
    "Inside her grandmother's tin box",
    "Along this narrow mountain railway",
    "Over every roof in town",
    "Beyond some forgotten desert road",
    "Below his bent copper kettle",
)


def picture(colour: str, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, kind, **options)
    return buffer.getvalue()


def row(index: int, **changes: object) -> dict:
    """A row whose picture is a field of the colour that is the answer."""
    colour = COLOURS[index % 3]
    question = str(changes.get("question", f"{TOPICS[index % len(TOPICS)]}, what fills field {index}?"))
    return {
        **dict.fromkeys(features()),
        "id": f"q{index}",
        "prompt": [{"role": "user", "content": question}],
        "images": [{"bytes": picture(colour), "path": f"{index}.png"}],
        "question": question,
        "solution": colour,
        "answers": [colour],
        "regions": [],
        "has_region": False,
        "image_sizes": [[8, 6]],
        "license": "CC-BY-4.0",
        "split": "train",
        **changes,
    }


def anchors_line(prepared: Path, out: Path, url: str, *more: object) -> list[str]:
    models = "describe=describe,reason=reason,anchor=anchor"
    line = ("synthesize", "visual-anchors", prepared, "--out", out, "--server", url, "--model", models, *more)
    return [str(argument) for argument in line]


def back_line(prepared: Path, out: Path, url: str, *more: object, models: str = "cot=cot,back=back") -> list[str]:
    line = ("synthesize", "look-back", prepared, "--out", out, "--server", url, "--model", models, *more)
    return [str(argument) for argument in line]
