"""Reading of settings from processor and model JSON, in the spellings that checkpoints use."""

from collections.abc import Mapping
from typing import Any

from sayo.geometry.cells import LayoutError

Json = dict[str, Any]


def first(*values: Any) -> Any:
    """The first value that is not None."""
    return next(value for value in values if value is not None)


def square(value: int | list[int] | Json) -> int:
    """The side of a square that is written as a number, `[h, w]` or `{"height": h, "width": w}`.

    Raises:
        LayoutError: the sides differ.
    """
    sides = set(value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value])
    sides.discard(None)
    if len(sides) != 1:
        raise LayoutError(
            f"expected a square, got {value}; write a builder for this layout in sayo/geometry/families.py"
        )
    return int(sides.pop())


def edges_of(image_processor: Json, name: str, default: dict[str, int]) -> dict[str, int]:
    """A size of the image processor as a dictionary of its set edges; a bare number (old files) is `shortest_edge`."""
    size = image_processor.get(name)
    if isinstance(size, int):
        return {"shortest_edge": size}
    return {edge: int(value) for edge, value in (size or default).items() if value is not None}


def with_limits(image_processor: Json, limits: Mapping[str, int]) -> Json:
    """Settings of an image processor with other edges in `size`; an edge that is not given keeps its saved value.

    Raises:
        LayoutError: an edge that the saved size does not have: the processor would ignore it or resize in another way.
    """
    size, old = edges_of(image_processor, "size", {}), {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
    saved = {*size, *(edge for edge, name in old.items() if name in size or name in image_processor)}
    if unknown := [edge for edge in limits if saved and edge not in saved]:
        raise LayoutError(f"the size of this image processor has no {unknown[0]}, only {', '.join(sorted(saved))}")
    replaced = {old.get(edge) for edge in limits}  # the old names of Qwen-VL's files, which would win
    kept = {edge: value for edge, value in size.items() if edge not in replaced}
    others = {name: value for name, value in image_processor.items() if name not in replaced}
    return {**others, "size": {**kept, **limits}}


def vision_setting(config: Json, name: str) -> int:
    """A number of the model's vision config, such as `patch_size`.

    Raises:
        LayoutError: the config does not hold it (files of old transformers versions leave defaults out).
    """
    value = (config.get("vision_config") or {}).get(name)
    if value is None:
        raise LayoutError(
            f"config.json of this {config.get('model_type')} model has no vision_config.{name}: load and save its "
            "config once (AutoConfig.from_pretrained(...).save_pretrained(...)), which writes all values"
        )
    return square(value)
