"""Random models of the toy policy's families in larger shapes, for benchmarks and tests of `sayo preflight`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from sayo.toyworld.policy import FAMILIES, config_of, generation_config_of, make_processor
from sayo.toyworld.vocabulary import make_tokenizer

SHAPES: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())[
    "shapes"
]
SMALL_WORDS = {"vocab_size": len(make_tokenizer())}
"""A change of a shape's `text`: the toy's vocabulary, whose processor the model is used with."""


def make_config(
    family: str, shape: Mapping[str, Mapping], text: Mapping | None = None, vision: Mapping | None = None
) -> PreTrainedConfig:
    """The transformers config of a toy family in another shape; `text` and `vision` are changes of the shape."""
    toy = FAMILIES[family]
    text = {**toy["text"], **shape["text"], **(text or {})}
    vision = {**toy["vision"], **shape["vision"], **(vision or {}), "out_hidden_size": text["hidden_size"]}
    rotary = text["head_dim"] // 2
    sections = [rotary - 2 * (rotary // 3), rotary // 3, rotary // 3]
    text["rope_parameters"] = {**text["rope_parameters"], "mrope_section": sections}
    if "fullatt_block_indexes" in vision:
        vision["fullatt_block_indexes"] = [vision["depth"] - 1]
    return config_of(family, {**toy, "text": text, "vision": vision}, make_tokenizer())


def make_model(
    family: str,
    shape: Mapping[str, Mapping],
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    kernel: str = "sdpa",
    **changes: Mapping,
) -> PreTrainedModel:
    """A model with random weights (seed 0), see `make_config`; bfloat16 on a GPU unless `dtype` says otherwise."""
    dtype = dtype or (torch.bfloat16 if device == "cuda" else torch.float32)
    config = make_config(family, shape, **changes)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=kernel)
    model.generation_config = generation_config_of(make_tokenizer())
    return model


def write_checkpoint(out: Path, family: str, shape: Mapping[str, Mapping], pixels: dict[str, int]) -> None:
    """Model and processor as a local checkpoint; `pixels` are the processor's limits on the size of a picture."""
    make_model(family, shape).save_pretrained(out)
    processor = make_processor(family)
    processor.image_processor.size = pixels
    processor.save_pretrained(out)
