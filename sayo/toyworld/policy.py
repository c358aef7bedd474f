"""Tiny policies made of the real model classes, small enough to learn the toy world from scratch on two CPU cores."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sayo.processors import ToyQwen2_5_VLProcessor, ToyQwen3VLProcessor
from sayo.toyworld.vocabulary import (
    CHAT_TEMPLATE,
    IM_END,
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    make_tokenizer,
)

Family = Literal["qwen3_vl", "qwen2_5_vl"]

PATCH_SIZE, MERGE_SIZE, TEMPORAL_PATCH_SIZE = 8, 2, 2
"""A visual token is 16 x 16 pixels: a 64 x 64 picture is 16 tokens, and no picture of the toy world is resized."""
WIDTH = 96
INITIALIZER_RANGE = 0.08
"""Close to 1 / sqrt(WIDTH). The default of .02 is meant for widths of thousands; with it this policy learns later."""
MIN_PIXELS, MAX_PIXELS = 48 * 48, 128 * 128


def make_policy(family: Family, seed: int = 0) -> PreTrainedModel:
    """A randomly initialised policy of the family, float32, about a million parameters.

    Raises:
        ValueError: if the family is not one of `Family`.
    """
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    if family == "qwen3_vl":
        model = Qwen3VLForConditionalGeneration(_qwen3_vl_config(tokenizer))
    elif family == "qwen2_5_vl":
        model = Qwen2_5_VLForConditionalGeneration(_qwen2_5_vl_config(tokenizer))
    else:
        raise ValueError(f"family must be 'qwen3_vl' or 'qwen2_5_vl', got {family!r}")
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
    processor_class = ToyQwen3VLProcessor if family == "qwen3_vl" else ToyQwen2_5_VLProcessor
    return processor_class(image_processor, make_tokenizer(), chat_template=CHAT_TEMPLATE)


def write_policy(out: Path, family: Family = "qwen3_vl", seed: int = 0) -> int:
    """Saves policy and processor as an ordinary local checkpoint; returns the number of parameters."""
    model = make_policy(family, seed)
    model.save_pretrained(out)
    make_processor(family).save_pretrained(out)
    return model.num_parameters()


def _text_config(tokenizer: PreTrainedTokenizerFast) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": INITIALIZER_RANGE,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _token_ids(tokenizer: PreTrainedTokenizerFast) -> dict:
    return {
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_PAD),
        "video_token_id": tokenizer.convert_tokens_to_ids(VIDEO_PAD),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids(VISION_START),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids(VISION_END),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(IM_END),
        "tie_word_embeddings": True,
    }


def _vision_config() -> dict:
    return {
        "depth": 2,
        "hidden_size": WIDTH,
        "intermediate_size": 192,
        "num_heads": 4,
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE_SIZE,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
        "out_hidden_size": WIDTH,
        "initializer_range": INITIALIZER_RANGE,
    }


def _qwen3_vl_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    # head_dim 24: 12 rotary pairs, shared by time, height and width
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4], "mrope_interleaved": True}
    return Qwen3VLConfig(
        text_config={**_text_config(tokenizer), "head_dim": WIDTH // 4, "rope_parameters": rope},
        vision_config={**_vision_config(), "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        **_token_ids(tokenizer),
    )


def _qwen2_5_vl_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]}
    return Qwen2_5_VLConfig(
        text_config={**_text_config(tokenizer), "rope_parameters": rope},
        # window_size 64: windowed attention over 64 x 64 pixels in the first layer, full attention in the last
        vision_config={**_vision_config(), "window_size": 64, "fullatt_block_indexes": [1]},
        **_token_ids(tokenizer),
    )
