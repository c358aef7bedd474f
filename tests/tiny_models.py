"""Tiny random models of the real classes with their real image processors: attention, generation and training.

To add a family: one row in `FAMILIES`. Everything else (inputs, number of visual tokens) is asked of the model.
"""

import copy
import functools
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

PAD, EOS, BOS, IMAGE, VIDEO, VISION_START, VISION_END = 0, 1, 2, 90, 91, 92, 93
VOCABULARY = 100
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": BOS,
    "tie_word_embeddings": False,
}
MROPE = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
MOE = {**MROPE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
GLM_MOE = {**MROPE, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1}
GLM_MOE |= {"n_shared_experts": 1, "topk_group": 1, "first_k_dense_replace": 1, "partial_rotary_factor": 1.0}
LINEAR = {**MROPE, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
LINEAR |= {"linear_value_head_dim": 8}
WINDOW = {**TEXT, "sliding_window": 16, "query_pre_attn_scalar": 8}
GEMMA3 = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {**TOWER, "image_size": 16, "patch_size": 4}
CLIP = {**SQUARE, "model_type": "clip_vision_model", "projection_dim": 16}
SIGLIP = {**SQUARE, "model_type": "siglip_vision_model", "vision_use_head": False}
NATIVE = {**TOWER, "depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "out_hidden_size": 32}
QWEN2 = {"embed_dim": 16, "hidden_size": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
QWEN25 = {**NATIVE, "window_size": 16, "fullatt_block_indexes": [1]}
QWEN3 = {**NATIVE, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
QWEN35 = {**NATIVE, "num_position_embeddings": 64}
GLM = {**NATIVE, "image_size": 32}
PIXTRAL = {**TOWER, "model_type": "pixtral", "head_dim": 8, "image_size": 64, "patch_size": 4}

BY_PATCH = {"patch_size": 4, "size": {"shortest_edge": 8 * 8, "longest_edge": 8 * 8 * 16}}
SIDE = {"size": {"height": 16, "width": 16}}
CROP = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
PINPOINTS = [[16, 32], [32, 16], [32, 32]]
TILED = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}

# name: (model_type, text, vision, other config, image processor, its settings)
FAMILIES: dict[str, tuple[str, dict, dict, dict, str, dict]] = {
    "qwen2_vl": ("qwen2_vl", MROPE, QWEN2, {}, "Qwen2VLImageProcessorPil", BY_PATCH),
    "qwen2_5_vl": ("qwen2_5_vl", MROPE, QWEN25, {}, "Qwen2VLImageProcessorPil", BY_PATCH),
    "qwen3_vl": ("qwen3_vl", MROPE, QWEN3, {}, "Qwen2VLImageProcessorPil", BY_PATCH),
    "qwen3_vl_moe": ("qwen3_vl_moe", MOE, QWEN3, {}, "Qwen2VLImageProcessorPil", BY_PATCH),
    "glm4v": ("glm4v", MROPE, GLM, {}, "Glm4vImageProcessorPil", BY_PATCH),
    "glm4v_moe": ("glm4v_moe", GLM_MOE, GLM, {}, "Glm4vImageProcessorPil", BY_PATCH),
    "internvl": (
        "internvl",
        {**TEXT, "model_type": "qwen2"},
        {**TOWER, "image_size": [16, 16], "patch_size": [4, 4]},
        {"downsample_ratio": 0.5},
        "GotOcr2ImageProcessorPil",
        {**SIDE, "max_patches": 4, "crop_to_patches": True},
    ),
    "llava": ("llava", {**TEXT, "model_type": "llama"}, CLIP, {}, "CLIPImageProcessorPil", CROP),
    "llava_next": (
        "llava_next",
        {**TEXT, "model_type": "llama"},
        CLIP,
        {"image_grid_pinpoints": PINPOINTS},
        "LlavaNextImageProcessorPil",
        {**CROP, "image_grid_pinpoints": PINPOINTS},
    ),
    "llava_onevision": (
        "llava_onevision",
        {**TEXT, "model_type": "qwen2"},
        SIGLIP,
        {"image_grid_pinpoints": PINPOINTS},
        "LlavaOnevisionImageProcessorPil",
        {**SIDE, "image_grid_pinpoints": PINPOINTS},
    ),
    "gemma3": ("gemma3", GEMMA3, SIGLIP, {"mm_tokens_per_image": 4}, "Gemma3ImageProcessorPil", SIDE),
    "idefics3": (
        "idefics3",
        {**TEXT, "model_type": "llama"},
        SQUARE,
        {"scale_factor": 2},
        "Idefics3ImageProcessorPil",
        TILED,
    ),
    "smolvlm": (
        "smolvlm",
        {**TEXT, "model_type": "llama"},
        SQUARE,
        {"scale_factor": 2},
        "SmolVLMImageProcessorPil",
        TILED,
    ),
    "paligemma": (
        "paligemma",
        {**TEXT, "model_type": "gemma"},
        SIGLIP,
        {"projection_dim": 32},
        "SiglipImageProcessorPil",
        SIDE,
    ),
    "paligemma2": (
        "paligemma",
        {**GEMMA3, "model_type": "gemma2", "attn_logit_softcapping": 5.0},
        SIGLIP,
        {"projection_dim": 32},
        "SiglipImageProcessorPil",
        SIDE,
    ),
    "mistral3": (
        "mistral3",
        {**TEXT, "model_type": "mistral", "sliding_window": None},
        PIXTRAL,
        {"spatial_merge_size": 2},
        "PixtralImageProcessorPil",
        {"size": {"longest_edge": 32}, "patch_size": {"height": 8, "width": 8}},
    ),
    "pixtral": (
        "llava",
        {**TEXT, "model_type": "llama"},
        PIXTRAL,
        {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
        "PixtralImageProcessorPil",
        {"size": {"longest_edge": 24}, "patch_size": {"height": 4, "width": 4}},
    ),
}
TEXT_MODELS: dict[str, dict[str, Any]] = {  # text decoders with what no family above has
    "gemma2": {**WINDOW, "attn_logit_softcapping": 5.0},  # soft-capped scores, every other layer sliding
    "mistral": {**TEXT, "sliding_window": 5},  # every layer sliding
    "gpt_oss": {**TEXT, "sliding_window": 6, "num_local_experts": 2, "num_experts_per_tok": 1},  # attention sinks
}
KERNELS = dict.fromkeys((*FAMILIES, *TEXT_MODELS), ("sdpa", "eager"))
KERNELS |= dict.fromkeys(("gemma2", "paligemma2", "gpt_oss"), ("eager",))  # transformers has no sdpa for these
HYBRID = ("qwen3_5", LINEAR, QWEN35, {}, "Qwen2VLImageProcessorPil", BY_PATCH)  # linear attention in 3 of 4 layers


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
        family = copy.deepcopy(HYBRID if name == "qwen3_5" else FAMILIES[name])
        model_type, text_config, vision, more, _, _ = family
        ids = {"video_token_id": VIDEO, "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
        config = AutoConfig.for_model(
            model_type,
            text_config={**text_config, **text},
            vision_config=dict(vision),
            image_token_id=IMAGE,
            pad_token_id=PAD,
            eos_token_id=EOS,
            **more,
            **(ids if "depth" in vision else {}),
        )
        config.image_token_id = IMAGE  # an attribute_map of some families: not every constructor takes it
        factory = AutoModelForImageTextToText
    torch.manual_seed(seed)
    model = factory.from_config(
        config, attn_implementation=kernel or KERNELS.get(name, ("sdpa",))[0], dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "q_proj" in parameter_name or "k_proj" in parameter_name:
                parameter.mul_(sharpness)
            if parameter_name.endswith("q_norm.weight"):  # a norm undoes the projections' scale
                parameter.add_(sharpness / 5 - 1)
            if parameter_name.endswith("sinks"):
                parameter.normal_()
    model.generation_config.pad_token_id = PAD
    return model


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
        before, after = (
            ([] if name.startswith("paligemma") else random.integers(5, 80, 3).tolist()),
            length + completion,
        )
        rows.append(torch.tensor([*before, *visual, *random.integers(5, 80, after).tolist()]))
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
        features = build(name).get_image_features(**pixels(name, [pictures]), return_dict=True).pooler_output
    if isinstance(features, torch.Tensor):
        features = features.reshape(-1, features.shape[-1]).chunk(len(shapes))
    return [len(feature) for feature in features]


def pixels(name: str, pictures: list[list[np.ndarray]]) -> dict[str, torch.Tensor]:
    """What the family's own image processor makes of the pictures of each sample."""
    *_, processor, settings = HYBRID if name == "qwen3_5" else FAMILIES[name]
    output = get_image_processor_class_from_name(processor)(**settings)(pictures, return_tensors="pt")
    return {key: value for key, value in output.items() if key not in ("num_patches", "num_crops", "rows", "cols")}


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
    if name not in TEXT_MODELS and "depth" in (HYBRID if name == "qwen3_5" else FAMILIES[name])[2]:
        return {"mm_token_type_ids": is_image}
    return {}
