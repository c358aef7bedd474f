"""The policy of a recipe on torch's meta device: real transformers and peft classes, no weights, exact counts."""

import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from sayo.recipes import ModelSection, RecipeError
from sayo.training.setup import freeze_vision, lora_config, torch_dtype


class MetaPolicy:
    """A policy of any family that transformers has, without weights.

    `base` is the transformers model below peft's wrapper `model`; `decoder` and (in the Qwen families) `tower` are its
    parts, `mergers` the number of projectors; `text` and `vision` are configs. `parameters` counts tied embeddings
    once, `trainable` are those that get a gradient; `weight_bytes` and `trainable_bytes` are their bytes as loaded;
    `bits` is 4 or 8 under bitsandbytes. An unknown dtype raises RecipeError.
    """

    def __init__(self, section: ModelSection, config: Any):
        self.config, self.text, self.vision = config, config.get_text_config(), config.vision_config
        self.dtype = torch_dtype(section)
        self.head_dim = getattr(self.text, "head_dim", None) or self.text.hidden_size // self.text.num_attention_heads
        # Flash kernels need not be installed to be priced: they keep what sdpa keeps.
        kernel = "eager" if section.attn_implementation == "eager" else "sdpa"
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in an old way
            model = AutoModelForImageTextToText.from_config(config, dtype=self.dtype, attn_implementation=kernel)
            self.base = freeze_vision(model.train()) if section.freeze_vision else model.train()
            lora = lora_config(section, model)
            self.model = get_peft_model(model, lora, low_cpu_mem_usage=True) if lora is not None else model
        self.decoder, self.tower = model.get_decoder(), getattr(model.model, "visual", None)
        self.mergers = 1 + len(getattr(self.vision, "deepstack_visual_indexes", None) or ())
        named = list(self.model.named_parameters())
        self.parameters = sum(p.numel() for _, p in named)
        self.trainable, self.trainable_bytes = trainable(self.model)
        options = {**section.load, **(section.load.get("quantization_config") or {})}
        self.bits = 4 if options.get("load_in_4bit") else 8 if options.get("load_in_8bit") else None
        self.weight_bytes = round(sum(p.numel() * self.bytes_each(name, p) for name, p in named))

    def bytes_each(self, name: str, parameter: nn.Parameter) -> float:
        """Bytes per weight; bitsandbytes packs matrices inside layers, 4 bits with a float32 scale per 64 weights."""
        in_layer = ".layers." in name or ".blocks." in name
        if self.bits is None or not in_layer or parameter.dim() != 2 or "lora_" in name:
            return parameter.element_size()
        return 0.5625 if self.bits == 4 else 1.0


def trainable(module: nn.Module) -> tuple[int, int]:
    """Parameters that get a gradient, and the bytes of their gradients, each in its own dtype."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return sum(p.numel() for p in trained), sum(p.numel() * p.element_size() for p in trained)


SHAPES = yaml.safe_load((Path(__file__).parent / "shapes.yaml").read_text(encoding="utf-8"))


def load_config(name_or_path: str) -> Any:
    """The transformers config of a local folder or a hub id; RecipeError where there is none to be had.

    That of a Qwen model of `recipes/model` is made from `shapes.yaml`, without a hub.
    """
    if name_or_path in SHAPES:
        return AutoConfig.for_model(**SHAPES[name_or_path])
    try:
        config = AutoConfig.from_pretrained(name_or_path)
        if not hasattr(config, "vision_config"):
            raise ValueError(f"it is {config.model_type!r}, no vision-language model.")
        return config
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"The config of `model.name_or_path: {name_or_path}` cannot be read: {str(error).strip().splitlines()[0]} "
            "Preflight needs only its config.json: connect to the hub once, or name a local folder that holds one."
        ) from None
