"""One response and where the model looked while it gave it: everything that the page and the picture show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.layers import LayerSpec
from sayo.errors import SayoError
from sayo.geometry import VisualCells, VisualLayout, region_tokens
from sayo.rollout import generate, given_response, processor_inputs, rollout_groups, teacher_force, token_texts

SHARES = ("region", "image", "question", "response", "prefix")
HEAD_VALUES = 12_000_000
"""Values of head-by-head maps worth reading: about what fits into a page (see `sayo.viz.look_page`)."""


class LookError(SayoError, ValueError):
    """What was asked for cannot be looked at; the message says why."""


@dataclass(frozen=True, eq=False)
class Look:
    """Attention of one response of `T` tokens over `N` visual tokens; `L` decoder layers were read.

    Row `i` of the attention arrays is the query position `P - 1 + i` of a prompt of `P` tokens: the row that decided
    the first token, then the row of every token (see `sayo.attention.trace.Rows`).

    Attributes:
        model: name to show.
        question: text of the prompt.
        images: the pictures as the processor got them (RGB, EXIF orientation applied).
        cells: one per image; their tokens in order are the `N` visual tokens.
        regions: mappings with `image` (index) and `box` (xyxy in pixels of that image).
        tokens: `T` strings; joined, they are the response.
        special: `T` bools: control tokens such as the end of the turn.
        entropy: `(T,)` float32, nats.
        layers: the `L` decoder layers.
        shares: key group -> `(L, T + 1)` float32, the part of all attention that it received, heads averaged.
            "region" (visual tokens of the regions, weighted with their coverage; absent without regions), "image",
            "question", "response" (so far, the query's own token included) and "prefix" (before the first image).
        maps: `(L, T + 1, N)` float32, attention on each visual token, heads averaged.
        head_layers: the layers of `layers` whose heads were kept apart (as many of the last as fit into a page).
        head_shares: key group -> `(len(head_layers), H, T + 1)` float32.
        head_maps: `(len(head_layers), H, T + 1, N)` float32.
        region_size: sum of the weights of the region's tokens.
        origin: how the response was made: "given", "greedy" or its temperature.
    """

    model: str
    question: str
    images: list[Image.Image]
    cells: list[VisualCells]
    regions: list[dict[str, Any]]
    tokens: list[str]
    special: list[bool]
    entropy: np.ndarray
    layers: tuple[int, ...]
    shares: dict[str, np.ndarray]
    maps: np.ndarray = field(repr=False)
    head_layers: tuple[int, ...]
    head_shares: dict[str, np.ndarray]
    head_maps: np.ndarray = field(repr=False)
    region_size: float
    origin: str

    @property
    def colored(self) -> str:
        """The key group that colours the response: "region", or "image" without regions."""
        return "region" if "region" in self.shares else "image"

    @property
    def trace(self) -> AttentionTrace:
        """The same reading as metrics and rewards receive it."""
        sizes = {"image": float(self.maps.shape[-1]), "region": self.region_size}
        sizes = {name: size for name, size in sizes.items() if name in self.shares}
        masses = {name: self.shares[name] for name in sizes}
        return AttentionTrace(masses, sizes, self.entropy, self.layers, self.maps)

    def views(self) -> list[tuple[int, int, slice, np.ndarray]]:
        """Every (image, view) that is shown apart: image, view, its slice of the visual tokens, `(n,)` mask in it."""
        views, start = [], 0
        for image, cells in enumerate(self.cells):
            place = slice(start, start + len(cells))
            start = place.stop
            seen = ~np.isnan(cells.footprints).any(axis=1)
            views += [(image, int(view), place, seen & (cells.views == view)) for view in np.unique(cells.views[seen])]
        return views


def look_at(
    model: nn.Module,
    processor: Any,
    images: Sequence[Image.Image],
    question: str,
    *,
    regions: Sequence[Mapping[str, Any]] = (),
    layers: LayerSpec = "all",
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    response: str | None = None,
    system_prompt: str | None = None,
    name: str = "",
) -> Look:
    """Let the model answer (or take a given response) and read where it looks at every token.

    All layers are read heads averaged; the heads are kept apart for as many of the last layers as `HEAD_VALUES`
    allows. No array is larger than rows x keys.

    Args:
        model, processor: any vision-language model whose layout `sayo.geometry` knows.
        images: at least one; placed before the question.
        regions: mappings with `box` (xyxy in pixels) and, with several images, `image`.
        layers: as of `AttentionCapture`.
        temperature: 0 is greedy.
        response: text to read instead of sampling.

    Raises:
        ValueError: no image, a bad box, a response without tokens, or an image the layout cannot map.
    """
    if not images:
        raise LookError("`look_at` needs at least one image.")
    if response == "":
        raise LookError("the given response has no tokens; leave it out to let the model answer")
    images = [ImageOps.exif_transpose(image).convert("RGB") for image in images]
    prompt = [{"role": "system", "content": system_prompt}] if system_prompt else []
    row = {"prompt": [*prompt, {"role": "user", "content": question}], "images": images}
    inputs = processor_inputs(processor, [row], model.device)
    cells = _cells(processor, model.config, images, inputs["input_ids"])
    if regions:
        tokens, weights = region_tokens(cells, regions)
        row |= {"region_tokens": tokens.tolist(), "region_weights": weights.tolist()}
    row["num_visual_tokens"] = [len(image) for image in cells]
    was_training = model.training
    model.eval()
    if response is None:
        options = {"max_new_tokens": max_new_tokens, "temperature": temperature}
        completions = generate(model, processor, inputs, **options, keep_cache=True)
    else:
        completions = given_response(processor.tokenizer, response, model.device)
    groups, image_index = rollout_groups(model, processor, inputs, completions, [row])
    groups = {name: groups[name] for name in SHARES if name != "region" or regions}
    flat, split = _captures(model, layers, completions.ids.shape[1] + 1, image_index.shape[1])
    captures = [capture for capture in (flat, split) if capture is not None]
    readings, entropy = teacher_force(model, inputs, completions, captures, groups, image_index, temperature)
    model.train(was_training)
    ids, special = completions.ids[0].tolist(), set(processor.tokenizer.all_special_ids)
    return Look(
        model=name,
        question=question,
        images=images,
        cells=cells,
        regions=[{"image": int(r.get("image") or 0), "box": list(map(float, r["box"]))} for r in regions],
        tokens=token_texts(processor.tokenizer, ids),
        special=[token_id in special for token_id in ids],
        entropy=entropy[0].cpu().numpy(),
        region_size=float(sum(row.get("region_weights", []))),
        origin="given" if response is not None else "greedy" if not temperature else f"T = {temperature:g}",
        **_attention(readings, split is not None),
    )


def _cells(processor: Any, config: Any, images: list[Image.Image], input_ids: torch.Tensor) -> list[VisualCells]:
    layout = VisualLayout.from_processor(processor, config)
    if len(images) == 1:  # the number of its tokens is known, which families without a layout of their own need
        return [layout.cells(*images[0].size, count=int((input_ids == config.image_token_id).sum()))]
    return [layout.cells(*image.size, num_images=len(images)) for image in images]


def _captures(
    model: nn.Module, layers: LayerSpec, num_rows: int, num_visual: int
) -> tuple[AttentionCapture | None, AttentionCapture | None]:
    """Captures of the layers that are read heads averaged, and of those whose heads are kept apart."""
    every = AttentionCapture(model, layers=layers).layers
    per_layer = model.config.get_text_config().num_attention_heads * num_rows * num_visual
    first = len(every) - min(len(every), HEAD_VALUES // max(per_layer, 1))
    flat = AttentionCapture(model, layers=list(every[:first]), maps=True) if first else None
    split = (
        AttentionCapture(model, layers=list(every[first:]), maps=True, per_head=True) if first < len(every) else None
    )
    return flat, split


def _attention(readings: Sequence[Any], has_heads: bool) -> dict[str, Any]:
    """The attention of a `Look`: of both readings heads averaged, of the last head by head if it has them."""
    shares = [{name: _array(mass) for name, mass in reading.masses.items()} for reading in readings]
    maps = [_array(reading.maps) for reading in readings]
    last = {"head_layers": (), "head_shares": {}, "head_maps": np.zeros((0, 0, *maps[-1].shape[-2:]), np.float32)}
    if has_heads:
        last = {"head_layers": readings[-1].layers, "head_shares": shares[-1], "head_maps": maps[-1]}
        shares[-1:] = [{name: share.mean(axis=1) for name, share in shares[-1].items()}]
        maps[-1:] = [maps[-1].mean(axis=1)]
    return {
        "layers": tuple(layer for reading in readings for layer in reading.layers),
        "shares": {name: np.concatenate([part[name] for part in shares]) for name in shares[0]},
        "maps": np.concatenate(maps),
        **last,
    }


def _array(values: torch.Tensor) -> np.ndarray:
    return values[0].float().cpu().numpy()
