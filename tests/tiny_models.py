"""Tiny random models of the real classes, and inputs for them: enough to check geometry, attention and training."""

from __future__ import annotations

import torch
import transformers

IMAGE, VIDEO, VISION_START, VISION_END, PAD, EOS = 90, 91, 92, 93, 0, 1
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
    "bos_token_id": None,
    "tie_word_embeddings": False,
}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}


def qwen3_vl(
    attn_implementation: str = "sdpa", seed: int = 0, sharpness: float = 20.0
) -> transformers.PreTrainedModel:
    """Qwen3-VL: patch 4, merge 2, q/k norm, deepstack."""
    config = transformers.Qwen3VLConfig(
        text_config={
            **TEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **IDS,
    )
    return _build(transformers.Qwen3VLForConditionalGeneration, config, attn_implementation, seed, sharpness)


def qwen2_5_vl(
    attn_implementation: str = "sdpa", seed: int = 0, sharpness: float = 20.0
) -> transformers.PreTrainedModel:
    """Qwen2.5-VL: patch 4, merge 2, windowed vision tower, biased q/k/v."""
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
        },
        **IDS,
    )
    return _build(transformers.Qwen2_5_VLForConditionalGeneration, config, attn_implementation, seed, sharpness)


MODELS = {"qwen3_vl": qwen3_vl, "qwen2_5_vl": qwen2_5_vl}


def _build(model_class, config, attn_implementation, seed, sharpness):
    torch.manual_seed(seed)
    model = model_class._from_config(config, attn_implementation=attn_implementation).eval()
    with torch.no_grad():  # default initialisation is so small that attention would be nearly uniform
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(sharpness)
    return model


def batch(model, grids=((4, 6), (4, 4)), text_lengths=(5, 3), completion=6, padding_side="left", images=1, seed=1):
    """Inputs of prompts with images (grids in patches) followed by completions, padded to one length.

    Returns:
        the model's keyword arguments (`input_ids`, `attention_mask`, `pixel_values`, `image_grid_thw`,
        `mm_token_type_ids`).
    """
    generator = torch.Generator().manual_seed(seed)
    rows, pixel_rows, grid_rows = [], [], []
    patch = model.config.vision_config.patch_size
    for (height, width), length in zip(grids, text_lengths, strict=True):
        row = torch.randint(5, 80, (3,), generator=generator).tolist()
        for _ in range(images):
            row += [VISION_START] + [IMAGE] * (height * width // 4) + [VISION_END]
            pixel_rows.append(torch.randn(height * width, 3 * 2 * patch * patch, generator=generator))
            grid_rows.append([1, height, width])
        rows.append(torch.tensor(row + torch.randint(5, 80, (length + completion,), generator=generator).tolist()))
    longest = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), longest), PAD)
    attention_mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), None) if padding_side == "left" else slice(0, len(row))
        input_ids[index, place] = row
        attention_mask[index, place] = 1
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "mm_token_type_ids": (input_ids == IMAGE).long(),
    }
    if images:
        inputs["pixel_values"] = torch.cat(pixel_rows)
        inputs["image_grid_thw"] = torch.tensor(grid_rows)
    return inputs
