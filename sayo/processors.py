"""Loading processors, and the processors of the toy policies: Qwen's own, without the video processor.

Qwen's processors need torchvision for video, which not every laptop has; the toy world shows no videos. Real models
never pass here: their checkpoints name the stock classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoProcessor, PretrainedConfig, Qwen2_5_VLProcessor, Qwen3VLProcessor


class ToyQwen3VLProcessor(Qwen3VLProcessor):
    """`Qwen3VLProcessor` for images and text only."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        # The stock __init__ insists on a video processor, so its base class is called past it.
        super(Qwen3VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)
        _name_vision_tokens(self, tokenizer)


class ToyQwen2_5_VLProcessor(Qwen2_5_VLProcessor):
    """`Qwen2_5_VLProcessor` for images and text only."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super(Qwen2_5_VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)
        _name_vision_tokens(self, tokenizer)


def _name_vision_tokens(processor: Qwen3VLProcessor | Qwen2_5_VLProcessor, tokenizer) -> None:
    for name, token in {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }.items():
        setattr(processor, name, token)
        setattr(processor, f"{name}_id", tokenizer.convert_tokens_to_ids(token))


class _ToyQwen3VLConfig(PretrainedConfig):
    """Key of `ToyQwen3VLProcessor` in AutoProcessor's table, which finds classes by the name a checkpoint gives."""

    model_type = "toy_qwen3_vl"


class _ToyQwen2_5_VLConfig(PretrainedConfig):
    """Key of `ToyQwen2_5_VLProcessor` in AutoProcessor's table."""

    model_type = "toy_qwen2_5_vl"


# A checkpoint names its processor class, and AutoProcessor looks that name up in its table.
AutoProcessor.register(_ToyQwen3VLConfig, ToyQwen3VLProcessor, exist_ok=True)
AutoProcessor.register(_ToyQwen2_5_VLConfig, ToyQwen2_5_VLProcessor, exist_ok=True)


def load_auto_processor(name_or_path: str | Path) -> Any:
    """`AutoProcessor.from_pretrained` with padding on the left, able to load toy checkpoints too."""
    return AutoProcessor.from_pretrained(name_or_path, padding_side="left")
