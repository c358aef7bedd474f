"""Loading processors, and the processors of the toy policies: Qwen's own, without the video processor.

Qwen's processors need torchvision for video, which not every laptop has; the toy world shows no videos. Real models
never pass here: their checkpoints name the stock classes.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoProcessor, PretrainedConfig, ProcessorMixin, Qwen2_5_VLProcessor, Qwen3VLProcessor

from sayo.errors import SayoError
from sayo.geometry import LayoutError, with_limits
from sayo.recipes import check_model_name


class ModelError(SayoError):
    """The files of a model are not there, cannot be reached, or are no vision-language model's."""


class _WithoutVideo:
    """Comes before the stock class, whose `__init__` insists on a video processor and is passed over."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        for name, token in {
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        }.items():
            setattr(self, name, token)
            setattr(self, f"{name}_id", tokenizer.convert_tokens_to_ids(token))


class ToyQwen3VLProcessor(_WithoutVideo, Qwen3VLProcessor):
    """`Qwen3VLProcessor` for images and text only."""


class ToyQwen2_5_VLProcessor(_WithoutVideo, Qwen2_5_VLProcessor):
    """`Qwen2_5_VLProcessor` for images and text only."""


# A checkpoint names its processor class; AutoProcessor looks that name up in a table whose keys are config classes.
for _model_type, _processor in {"toy_qwen3_vl": ToyQwen3VLProcessor, "toy_qwen2_5_vl": ToyQwen2_5_VLProcessor}.items():
    _config = type(_model_type, (PretrainedConfig,), {"model_type": _model_type})
    AutoProcessor.register(_config, _processor, exist_ok=True)


@contextmanager
def named_model(name_or_path: str | Path) -> Iterator[None]:
    """What transformers says about files that are not there or no model, as a ModelError with the model's name.

    RecipeError where it is neither a folder nor in the form of a hub id.
    """
    check_model_name(str(name_or_path))
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first = re.split(r"(?<=[.!?])\s", str(error).strip())[0]
        raise ModelError(
            f"The model {str(name_or_path)!r} cannot be loaded: {first[:300].rstrip('.')}. Name a folder with the "
            "config, weights and processor of a vision-language model, or a hub id that can be reached from here."
        ) from error


def load_auto_processor(name_or_path: str | Path) -> Any:
    """`AutoProcessor.from_pretrained` with padding on the left, able to load toy checkpoints too; or a ModelError."""
    with named_model(name_or_path):
        return AutoProcessor.from_pretrained(name_or_path, padding_side="left")


def set_limits(image_processor: Any, limits: Mapping[str, int]) -> None:
    """`with_limits` on the object: `from_pretrained` silently ignores limits where the saved config has a `size`."""
    if image_processor.size is None:
        raise LayoutError(f"{type(image_processor).__name__} has no size; set what it has instead (max_soft_tokens)")
    size = with_limits(image_processor.to_dict(), limits)["size"]
    image_processor.size = type(image_processor.size)(**size)
