"""One response and where the model looked while it gave it: everything that the page and the picture show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from sayo.attention import AttentionTrace
from sayo.attention.groups import key_groups
from sayo.attention.layers import LayerSpec
from sayo.evaluation.rollouts import processor_inputs
from sayo.geometry import VisualCells, VisualLayout, region_tokens
from sayo.look.scoring import Generated, generate, read_response
from sayo.look.tokens import token_texts

SHARES = ("region", "image", "question", "response", "prefix")


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
        region_size, image_size: sum of the weights of the target's tokens; `N`.
        settings: how the response was made, for the page's header.
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
    image_size: int
    settings: dict[str, Any]

    @property
    def trace(self) -> AttentionTrace:
        """The same reading as metrics and rewards receive it."""
        sizes = {"image": float(self.image_size), "region": self.region_size}
        names = [name for name in sizes if name in self.shares]
        return AttentionTrace(
            masses={name: self.shares[name] for name in names},
            sizes={name: sizes[name] for name in names},
            entropy=self.entropy,
            layers=self.layers,
            maps=self.maps,
        )


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
        raise ValueError("`look_at` needs at least one image.")
    images = [ImageOps.exif_transpose(image).convert("RGB") for image in images]
    prompt = [{"role": "user", "content": question}]
    if system_prompt:
        prompt.insert(0, {"role": "system", "content": system_prompt})
    inputs = processor_inputs(processor, [{"prompt": prompt, "images": images}], model.device)
    cells = _cells(processor, model.config, images, inputs["input_ids"])
    sample = _region_sample(cells, regions)
    was_training = model.training
    model.eval()
    if response is None:
        made = generate(model, processor, inputs, max_new_tokens, temperature)
    else:
        made = Generated(_response_ids(processor.tokenizer, response).to(model.device), None)
    tokenizer, length = processor.tokenizer, made.ids.shape[1]
    input_ids = torch.cat([inputs["input_ids"], made.ids], dim=1)
    groups, image_index = key_groups(input_ids, length, [sample], model.config.image_token_id)
    groups |= _text_groups(tokenizer, input_ids[0], length, groups["image"][0], question)
    if not sample:
        del groups["region"]
    result = read_response(model, inputs, made, groups, image_index, layers, temperature)
    model.train(was_training)
    ids = made.ids[0].tolist()
    special = set(tokenizer.all_special_ids)
    return Look(
        model=name,
        question=question,
        images=images,
        cells=cells,
        regions=[
            {"image": int(region.get("image") or 0), "box": list(map(float, region["box"]))} for region in regions
        ],
        tokens=token_texts(tokenizer, ids),
        special=[token_id in special for token_id in ids],
        region_size=float(sum(sample.get("region_weights", []))),
        image_size=image_index.shape[1],
        settings={
            "response": "given" if response is not None else "greedy" if not temperature else f"T = {temperature:g}",
            "layers": str(layers),
        },
        **result,
    )


def _cells(processor: Any, config: Any, images: list[Image.Image], input_ids: torch.Tensor) -> list[VisualCells]:
    layout = VisualLayout.from_processor(processor, config)
    found = int((input_ids == config.image_token_id).sum())
    if len(images) == 1:
        return [layout.cells(*images[0].size, count=found)]
    cells = [layout.cells(*image.size, num_images=len(images)) for image in images]
    if sum(map(len, cells)) != found:
        raise ValueError(
            f"the {layout.family} layout has {sum(map(len, cells))} visual tokens for these {len(images)} images, the "
            f"processor made {found}: pass one image, or check the processor's settings"
        )
    return cells


def _region_sample(cells: list[VisualCells], regions: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """The regions as `key_groups` wants them; empty without regions."""
    if not regions:
        return {}
    tokens, weights = region_tokens(cells, regions)
    return {"region_tokens": tokens.tolist(), "region_weights": weights.tolist()}


def _response_ids(tokenizer: Any, response: str) -> torch.Tensor:
    # A response is text: "<|image_pad|>" in it must not become an image that is not there.
    encoded = tokenizer(response, add_special_tokens=False, split_special_tokens=True, return_tensors="pt")
    if encoded["input_ids"].shape[1] == 0:
        raise ValueError("the given response has no tokens; leave it out to let the model answer")
    return encoded["input_ids"].long()


def _text_groups(
    tokenizer: Any, input_ids: torch.Tensor, length: int, image: torch.Tensor, question: str
) -> dict[str, torch.Tensor]:
    """`(1, S)` float32 of the question, the response and the prefix.

    The question is found in the prompt by its characters, so that no template needs to be known; a template that
    rewrites it falls back to all text after the last image.
    """
    is_image, prompt_length = image.cpu().numpy() > 0, len(input_ids) - length
    # One character per visual token keeps positions aligned without decoding thousands of pads.
    positions = np.flatnonzero(~is_image[:prompt_length])
    texts = token_texts(tokenizer, input_ids[:prompt_length].cpu().numpy()[positions])
    ends = np.cumsum([len(text) for text in texts])
    start = "".join(texts).rfind(question.strip())
    marks = np.zeros((3, len(input_ids)), dtype=np.float32)
    if start >= 0 and question.strip():
        inside = (ends > start) & (ends - [len(text) for text in texts] < start + len(question.strip()))
        marks[0, positions[inside]] = 1
    else:
        marks[0, positions[positions > np.flatnonzero(is_image).max()]] = 1
    marks[1, prompt_length:] = 1
    marks[2, : np.flatnonzero(is_image).min()] = 1
    marks[2] *= 1 - marks[0]
    rows = torch.from_numpy(marks).to(input_ids.device)[:, None]
    return dict(zip(("question", "response", "prefix"), rows, strict=True))
