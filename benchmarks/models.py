"""Random models of the toy policy's families in larger shapes, for benchmarks and tests of `sayo preflight`."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from sayo.toyworld.policy import make_policy, make_processor


class Shape(NamedTuple):
    """Of the text decoder and the vision tower; `words` None keeps the toy's vocabulary."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    words: int | None = None
    depth: int = 2
    vision_hidden: int = 96
    vision_intermediate: int = 192
    tied: bool = True


SHAPES = {
    "toy": Shape(96, 192, 3, 4, 2, 24),
    "12M": Shape(256, 1024, 6, 8, 4, 32, 4096, 4, 192, 512, tied=False),
    "80M": Shape(512, 2048, 8, 8, 4, 64, 32000, 6, 320, 1024, tied=False),
    "390M": Shape(1024, 4096, 12, 16, 4, 64, 80000, 8, 512, 2048, tied=False),
    "100M": Shape(768, 3072, 12, 12, 4, 64, 151_936),
    "4B": Shape(2560, 9728, 36, 32, 8, 128, 151_936),
    "8B": Shape(4096, 12288, 36, 32, 8, 128, 151_936),
}


def make_config(family: str, shape: Shape) -> Any:
    """The transformers config of a toy family in another shape."""
    config = make_policy(family).config
    values, rotary = config.to_dict(), shape.head_dim // 2
    text, vision = values["text_config"], values["vision_config"]
    text.pop("layer_types", None)  # one entry per layer of the toy
    text |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 2**17,
        "initializer_range": 0.02,
    }
    text["rope_parameters"]["mrope_section"] = [rotary - 2 * (rotary // 3), rotary // 3, rotary // 3]
    text |= {"vocab_size": shape.words or text["vocab_size"], "tie_word_embeddings": shape.tied}
    values["tie_word_embeddings"] = shape.tied
    vision |= {
        "depth": shape.depth,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.vision_intermediate,
        "out_hidden_size": shape.hidden,
    }
    if "fullatt_block_indexes" in vision:
        vision["fullatt_block_indexes"] = [shape.depth - 1]
    return type(config)(**values)


def make_model(
    family: str, shape: Shape, *, dtype: torch.dtype | None = None, device: str = "cpu", kernel: str = "sdpa"
) -> PreTrainedModel:
    """A model with random weights (seed 0); bfloat16 on a GPU unless `dtype` says otherwise."""
    dtype = dtype or (torch.bfloat16 if device == "cuda" else torch.float32)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            make_config(family, shape), dtype=dtype, attn_implementation=kernel
        )
    model.generation_config = make_policy(family).generation_config
    return model


def write_checkpoint(out: Path, family: str, shape: Shape, pixels: dict[str, int]) -> None:
    """Model and processor as a local checkpoint; `pixels` are the processor's limits on the size of a picture."""
    make_model(family, shape).save_pretrained(out)
    processor = make_processor(family)
    processor.image_processor.size = pixels
    processor.save_pretrained(out)
