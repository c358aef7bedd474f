"""Tiny policies of the real model classes, small enough to learn the toy world from scratch on two CPU cores."""

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sayo.processors import ToyQwen2_5_VLProcessor, ToyQwen3VLProcessor
from sayo.toyworld.vocabulary import CHAT_TEMPLATE, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START, make_tokenizer

Family = Literal["qwen3_vl", "qwen2_5_vl"]

PATCH_SIZE, MERGE_SIZE, TEMPORAL_PATCH_SIZE = 8, 2, 2
"""A visual token is 16 x 16 pixels: a 64 x 64 picture has 16 tokens, and no picture of the toy world is resized."""
WIDTH = 96
INITIALIZER_RANGE = 0.08
"""Close to 1 / sqrt(WIDTH). The default of .02 suits widths of thousands; with it this policy learns more slowly."""
MIN_PIXELS, MAX_PIXELS = 48 * 48, 128 * 128
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]}

# processor class, text config, vision config
FAMILIES: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "qwen3_vl": (
        ToyQwen3VLProcessor,
        # head_dim 24: 12 rotary pairs, shared by time, height and width
        {"head_dim": WIDTH // 4, "rope_parameters": {**ROPE, "mrope_interleaved": True}},
        {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    ),
    "qwen2_5_vl": (
        ToyQwen2_5_VLProcessor,
        {"rope_parameters": ROPE},
        # window_size 64: windowed attention over 64 x 64 pixels in the first layer, full attention in the last
        {"window_size": 64, "fullatt_block_indexes": [1]},
    ),
}


def make_policy(family: Family, seed: int = 0) -> PreTrainedModel:
    """A randomly initialised policy of the family: float32, about a million parameters."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **_config(family, tokenizer)))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def make_processor(family: Family) -> ToyQwen3VLProcessor | ToyQwen2_5_VLProcessor:
    """The policy's processor: PIL image processor, word tokenizer and chat template."""
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        patch_size=PATCH_SIZE,
        merge_size=MERGE_SIZE,
        temporal_patch_size=TEMPORAL_PATCH_SIZE,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return FAMILIES[family][0](image_processor, make_tokenizer(), chat_template=CHAT_TEMPLATE)


def write_policy(out: Path, family: Family = "qwen3_vl", seed: int = 0) -> int:
    """Saves policy and processor as an ordinary local checkpoint; returns the number of parameters."""
    model = make_policy(family, seed)
    model.save_pretrained(out)
    make_processor(family).save_pretrained(out)
    return model.num_parameters()


def _config(family: Family, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    _, text, vision = FAMILIES[family]
    ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    tokens = {"image": IMAGE_PAD, "video": VIDEO_PAD, "vision_start": VISION_START, "vision_end": VISION_END}
    size = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "initializer_range": INITIALIZER_RANGE}
    return {
        "text_config": {
            **size,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            **ends,
            **text,
        },
        "vision_config": {
            **size,
            "depth": 2,
            "num_heads": 4,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": TEMPORAL_PATCH_SIZE,
            "out_hidden_size": WIDTH,
            **vision,
        },
        "tie_word_embeddings": True,
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()},
        **ends,
    }
