"""Tiny random models of the real classes with their real image processors: attention, generation and training.

Their configs are in `tiny_models.yaml`. Everything else (inputs, number of visual tokens) is asked of the model.
"""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name
from transformers.utils import is_torchvision_available

OF_PROCESSORS = {"num_patches", "num_crops", "rows", "cols", "grids", "aspect_ratios", "num_soft_tokens_per_image"}
PAD, EOS, IMAGE, VIDEO, VISION_START, VISION_END = 0, 1, 90, 91, 92, 93


class Family(NamedTuple):
    """`vision` and `text` are configs, `more` is the rest of the model's; `settings` are the image processor's."""

    model_type: str
    text: dict[str, Any]
    vision: dict[str, Any]
    more: dict[str, Any]
    processor: str
    settings: dict[str, Any]


def _families(entries: dict[str, dict]) -> dict[str, Family]:
    return {name: Family(**{"model_type": name, "more": {}, **entry}) for name, entry in entries.items()}


CONFIGS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
FAMILIES = _families(CONFIGS["families"])
VISION_MODELS = FAMILIES | _families(CONFIGS["hybrid"]) | _families(CONFIGS["tiled"])
TEXT_MODELS: dict[str, dict[str, Any]] = CONFIGS["text_models"]
KERNELS = dict.fromkeys((*FAMILIES, *TEXT_MODELS), ("sdpa", "eager"))
KERNELS |= dict.fromkeys(
    ("gemma2", "paligemma2", "gpt_oss", "inkling2_text"), ("eager",)
)  # transformers has no sdpa for these


def build(
    name: str, kernel: str | None = None, *, seed: int = 0, sharpness: float = 10.0, **text: Any
) -> PreTrainedModel:
    """A model of one family (or text decoder) in eval mode.

    Args:
        kernel: its `attn_implementation`; the first of `KERNELS` by default.
        sharpness: factor on the query and key projections: as initialised, attention would be nearly uniform.
        text: overrides of the text config.
    """
    if name in TEXT_MODELS:
        config = AutoConfig.for_model(name, **copy.deepcopy({**TEXT_MODELS[name], **text}))
        factory = AutoModelForCausalLM
    else:
        # Copied deeply: some configs write their own defaults into the rope parameters that they are given.
        family = copy.deepcopy(VISION_MODELS[name])
        ids = {"video_token_id": VIDEO, "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
        config = AutoConfig.for_model(
            family.model_type,
            text_config={**family.text, **text},
            vision_config=family.vision,
            image_token_id=IMAGE,
            pad_token_id=PAD,
            eos_token_id=EOS,
            **family.more,
            **(ids if "depth" in family.vision else {}),
        )
        config.image_token_id = IMAGE  # an attribute_map of some families: not every constructor takes it
        factory = AutoModelForImageTextToText
    torch.manual_seed(seed)
    model = factory.from_config(
        config, attn_implementation=kernel or KERNELS.get(name, ("sdpa",))[0], dtype=torch.float32
    ).eval()
    sharpen(model, sharpness)
    model.generation_config.pad_token_id = PAD
    return model


@torch.no_grad()
def sharpen(model: PreTrainedModel, sharpness: float = 10.0) -> None:
    """Attention as initialised would be nearly uniform."""
    for parameter_name, parameter in model.named_parameters():
        if "q_proj" in parameter_name or "k_proj" in parameter_name:
            parameter.mul_(sharpness)
        if parameter_name.endswith("q_norm.weight"):  # a norm undoes the projections' scale
            parameter.add_(sharpness / 5 - 1)
        if parameter_name.endswith("sinks"):
            parameter.normal_()
        if "rel_logits_proj" in parameter_name:
            parameter.normal_(std=sharpness)


def batch(
    name: str,
    sizes: tuple[tuple[int, int], ...] = ((32, 16), (16, 24)),
    text_lengths: tuple[int, ...] = (5, 3),
    *,
    completion: int = 6,
    padding_side: str = "left",
    images: int = 1,
    seed: int = 1,
) -> dict[str, torch.Tensor]:
    """Model inputs of prompts with pictures of `sizes` (W, H), each followed by a completion, padded to one length."""
    random = np.random.default_rng(seed)
    pictures = [[random.integers(0, 256, (h, w, 3), dtype=np.uint8) for _ in range(images)] for w, h in sizes]
    has_images = name not in TEXT_MODELS and images > 0
    rows = []
    for sample, length in zip(pictures, text_lengths, strict=True):
        visual = [VISION_START, *visual_ids(name, sample), VISION_END] if has_images else []
        before = [] if name.startswith("paligemma") else random.integers(5, 80, 3).tolist()
        rows.append(torch.tensor([*before, *visual, *random.integers(5, 80, length + completion).tolist()]))
    inputs = _pad(rows, padding_side)
    if has_images:
        inputs |= pixels(name, pictures)
    return inputs | _token_types(name, inputs, completion)


def prompts(name: str, **options: Any) -> dict[str, torch.Tensor]:
    """A left-padded batch that ends where the completion would start, as `generate` gets it."""
    inputs = batch(name, completion=0, **options)
    if name.startswith("paligemma"):
        inputs["token_type_ids"].zero_()
    return inputs


def teacher_forced(name: str, inputs: dict[str, torch.Tensor], sequences: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs of one forward over the prompts of `inputs` and their completions."""
    length = sequences.shape[1] - inputs["input_ids"].shape[1]
    ones = ("attention_mask", *(["token_type_ids"] if name.startswith("paligemma") else []))
    padded = {
        key: torch.nn.functional.pad(inputs[key], (0, length), value=int(key in ones))
        for key in ("attention_mask", "mm_token_type_ids", "token_type_ids")
        if key in inputs
    }
    return {**inputs, "input_ids": sequences, **padded}


def visual_ids(name: str, pictures: list[np.ndarray]) -> list[int]:
    """The image part of a prompt: as many image ids as the model makes visual tokens, one run per image."""
    lengths = _visual_lengths(name, tuple(picture.shape[:2] for picture in pictures))
    return [token for length in lengths for token in [*[IMAGE] * length, VISION_END, VISION_START]][:-2]


@functools.cache
def _visual_lengths(name: str, shapes: tuple[tuple[int, int], ...]) -> list[int]:
    pictures = [np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    with torch.no_grad():
        output = build(name).base_model.get_image_features(**pixels(name, [pictures]), return_dict=True)
    features = visual_features(output)
    if isinstance(features, torch.Tensor):
        features = features.reshape(-1, features.shape[-1]).chunk(len(shapes))
    return [len(feature) for feature in features]


def pixels(name: str, pictures: list[list[np.ndarray]]) -> dict[str, torch.Tensor]:
    """What the family's own image processor makes of the pictures of each sample."""
    family = VISION_MODELS[name]
    output = image_processor_class(family.processor)(**family.settings)(pictures, return_tensors="pt")
    return for_model(output)


def for_model(output: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An image processor's output without what is for the processor alone, in float32 (Llama4's is bfloat16)."""
    kept = {key: value for key, value in output.items() if key not in OF_PROCESSORS}
    return {key: value.float() if value.is_floating_point() else value for key, value in kept.items()}


def visual_features(output: Any) -> Any:
    """Of `get_image_features`: what replaces the image tokens (Llama4 projects it later)."""
    return output.last_hidden_state if output.get("pooler_output") is None else output.pooler_output


def image_processor_class(name: str, backend: str | None = None) -> type:
    """An image processor of a back-end; if none is named, of torchvision, or of PIL where torchvision is missing."""
    backend = backend or ("torchvision" if is_torchvision_available() else "pil")
    return get_image_processor_class_from_name(f"{name}Pil" if backend == "pil" else name)


def _pad(rows: list[torch.Tensor], padding_side: str) -> dict[str, torch.Tensor]:
    longest = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), longest), PAD)
    attention_mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), None) if padding_side == "left" else slice(0, len(row))
        input_ids[index, place] = row
        attention_mask[index, place] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def _token_types(name: str, inputs: dict[str, torch.Tensor], completion: int) -> dict[str, torch.Tensor]:
    is_image = (inputs["input_ids"] == IMAGE).long()
    if name == "gemma3":  # an image's tokens see one another
        return {"token_type_ids": is_image}
    if name.startswith("paligemma"):  # the prompt's tokens see one another
        types = torch.zeros_like(is_image)
        types[:, types.shape[1] - completion :] = 1
        return {"token_type_ids": types}
    if name in VISION_MODELS and "depth" in VISION_MODELS[name].vision:
        return {"mm_token_type_ids": is_image}
    return {}
