"""Tiny policies of the real model classes, small enough to learn the toy world from scratch on two CPU cores."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sayo import processors
from sayo.toyworld.vocabulary import CHAT_TEMPLATE, make_tokenizer

Family = Literal["qwen3_vl", "qwen2_5_vl"]
_FILE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
FAMILIES: dict[str, dict[str, Any]] = _FILE["families"]


def config_of(model_type: str, entry: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The config of a model type: the library's defaults, but for what an entry says and the ids of its tokens.

    Args:
        entry: `text` and `vision` (their configs), `ids` (kind, such as "image" -> token), perhaps `more` keys.
    """
    entry = copy.deepcopy(dict(entry))  # some classes write defaults of their own into what they are given
    ids = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(token) for kind, token in entry["ids"].items()}
    ends = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "eos", "bos")}
    text = {"vocab_size": len(tokenizer), **entry["text"], **ends}
    whole = {"tie_word_embeddings": text.get("tie_word_embeddings", False), **ids, **entry.get("more", {}), **ends}
    config = AutoConfig.for_model(model_type, text_config=text, vision_config=entry["vision"], **whole)
    config.initializer_range = text["initializer_range"]  # of what lies between decoder and tower
    config.image_token_id = ids["image_token_id"]  # an attribute_map of some: not every constructor takes it
    return config


def make_policy(family: Family, seed: int = 0) -> PreTrainedModel:
    """A randomly initialised policy of the family: float32, about a million parameters."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config_of(family, FAMILIES[family], tokenizer))
    model.generation_config = generation_config_of(tokenizer)
    return model


def generation_config_of(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Sampling, up to the tokenizer's end of turn."""
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return GenerationConfig(**ends, do_sample=True)


def make_processor(family: Family) -> ProcessorMixin:
    """The policy's processor (of `sayo.processors`): PIL image processor, word tokenizer and chat template."""
    image_processor = Qwen2VLImageProcessorPil(**_FILE["image_processor"])
    processor_class = getattr(processors, FAMILIES[family]["processor"])
    return processor_class(image_processor, make_tokenizer(), chat_template=CHAT_TEMPLATE)


def write_policy(out: Path, family: Family = "qwen3_vl", seed: int = 0) -> int:
    """Saves policy and processor as an ordinary local checkpoint; returns the number of parameters."""
    model = make_policy(family, seed)
    model.save_pretrained(out)
    make_processor(family).save_pretrained(out)
    return model.num_parameters()
