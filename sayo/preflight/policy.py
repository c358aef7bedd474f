"""The policy of a recipe on torch's meta device: real transformers and peft classes, no weights, exact counts."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sayo.recipes import ModelSection, RecipeError

PARTS = ("vision tower", "projector", "text decoder", "embeddings", "lm head", "LoRA")
_LAYER_LISTS = ("blocks", "layers")


@dataclass(frozen=True)
class PartCount:
    """Parameters of one part of the policy; `weight_bytes` and `trainable_bytes` follow from their dtypes."""

    parameters: int = 0
    trainable: int = 0
    weight_bytes: int = 0
    trainable_bytes: int = 0

    def __add__(self, other: PartCount) -> PartCount:
        return PartCount(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


@dataclass(frozen=True)
class Policy:
    """A policy without weights.

    config: the transformers config.
    model: on the meta device, LoRA applied and the vision tower frozen as the recipe says.
    section: the recipe's `model:` section.
    traces: what has been found about its layers so far; filled by `sayo.preflight.trace`.
    """

    config: Any
    model: nn.Module
    section: ModelSection
    traces: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the loaded weights."""
        return getattr(torch, self.section.dtype)

    @property
    def base(self) -> nn.Module:
        """The transformers model, below peft's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def vision(self) -> nn.Module:
        return self.base.model.visual

    @property
    def decoder(self) -> nn.Module:
        return self.base.model.language_model

    def parts(self) -> dict[str, PartCount]:
        """Parameters by part, in the order of `PARTS`; tied embeddings are counted once, as embeddings."""
        counts = dict.fromkeys(PARTS, PartCount())
        for name, parameter in self.model.named_parameters():
            counts[part_of(name)] += self._count(name, parameter)
        return counts

    def total(self) -> PartCount:
        return sum(self.parts().values(), PartCount())

    def _count(self, name: str, parameter: nn.Parameter) -> PartCount:
        size = parameter.numel()
        bytes_each = quantized_bytes(self.section, name, parameter) or parameter.element_size()
        trained = size if parameter.requires_grad else 0
        return PartCount(size, trained, round(size * bytes_each), trained * parameter.element_size())


def part_of(name: str) -> str:
    """The part that a parameter's qualified name belongs to."""
    if "lora_" in name or "modules_to_save" in name:
        return "LoRA"
    if "lm_head" in name:
        return "lm head"
    if "embed_tokens" in name:
        return "embeddings"
    if "merger" in name or "projector" in name:
        return "projector"
    return "vision tower" if "visual" in name or "vision_tower" in name else "text decoder"


def quantized_bytes(section: ModelSection, name: str, parameter: nn.Parameter) -> float | None:
    """Bytes per weight under bitsandbytes, which packs the matrices inside the layers and leaves the rest alone.

    4 bits carry one float32 scale per block of 64 weights (0.0625 bytes), 8 bits one per row (left out).
    """
    settings = {**section.load, **(section.load.get("quantization_config") or {})}
    in_layer = any(f".{part}." in name for part in _LAYER_LISTS)
    if not in_layer or parameter.dim() != 2 or "lora_" in name:
        return None
    return 0.5625 if settings.get("load_in_4bit") else 1.0 if settings.get("load_in_8bit") else None


def load_config(name_or_path: str) -> Any:
    """The transformers config of a local folder or a hub id; nothing else is read.

    Raises:
        RecipeError: no such folder, or the hub cannot be reached.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"The config of `model.name_or_path: {name_or_path}` cannot be read: {first} "
            "Preflight needs only its config.json: connect to the hub once, or name a local folder that holds one "
            "(`model.name_or_path=FOLDER`)."
        ) from None


def meta_policy(section: ModelSection, config: Any | None = None) -> Policy:
    """Build the recipe's policy without weights.

    Args:
        section: the recipe's `model:` section.
        config: a transformers config instead of the one at `section.name_or_path`.

    Raises:
        RecipeError: no config, unknown dtype, or a family whose layers are not priced yet.
    """
    from transformers import AutoModelForImageTextToText

    config = load_config(section.name_or_path) if config is None else config
    dtype = getattr(torch, section.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise RecipeError(f"`model.dtype: {section.dtype}` is no torch dtype: use bfloat16, float16 or float32.")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation=_offline_kernel(section.attn_implementation)
        )
    model.train()
    _check_family(model, config)
    if section.freeze_vision:
        for parameter in model.model.visual.parameters():
            parameter.requires_grad_(False)
    return Policy(config, _with_lora(model, section), section)


def _with_lora(model: nn.Module, section: ModelSection) -> nn.Module:
    if section.lora is None:
        return model
    from peft import get_peft_model

    from sayo.training.setup import lora_config

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in an old way
        return get_peft_model(model, lora_config(section), low_cpu_mem_usage=True)


def _offline_kernel(name: str) -> str:
    """Flash kernels need not be installed to be priced: they keep what sdpa keeps."""
    return "eager" if name == "eager" else "sdpa"


def _check_family(model: nn.Module, config: Any) -> None:
    inner = getattr(model, "model", None)
    text = config.get_text_config()
    if not hasattr(getattr(inner, "visual", None), "blocks") or not hasattr(inner.language_model, "layers"):
        raise RecipeError(
            f"Preflight prices the Qwen-VL families (a tower of `visual.blocks`, a merger and a decoder); "
            f"{config.model_type!r} is laid out otherwise. `sayo train --dry-run` still checks this recipe."
        )
    if getattr(text, "num_experts", None):
        raise RecipeError(
            f"Preflight prices dense decoders; {config.model_type!r} is a mixture of experts, of which only a part "
            "works for each token. `sayo train --dry-run` still checks this recipe."
        )
