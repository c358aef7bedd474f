"""The table of families: real (tiny, random) models and their real image processors.

To add a family: one row in `TABLE` (and, for its tests of published sizes, one in test_families.py).
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import transformers as tf
from transformers import AutoConfig
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from sayo.geometry import VisualLayout

TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 320,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MROPE = {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}}
VIT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP = {**VIT, "model_type": "clip_vision_model", "projection_dim": 16, "num_hidden_layers": 2}
SIGLIP = {**VIT, "model_type": "siglip_vision_model", "vision_use_head": False}
QWEN2 = {"embed_dim": 16, "hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
QWEN25 = {**VIT, "depth": 2, "num_heads": 2, "out_hidden_size": 16, "patch_size": 14, "window_size": 112}
QWEN25 |= {"fullatt_block_indexes": [1]}
QWEN3 = {**VIT, "depth": 2, "num_heads": 2, "out_hidden_size": 16, "patch_size": 16, "num_position_embeddings": 64}
QWEN3 |= {"deepstack_visual_indexes": [0]}
QWEN35 = {name: value for name, value in QWEN3.items() if name != "deepstack_visual_indexes"}
LINEAR = {**MROPE, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
LINEAR |= {"linear_value_head_dim": 8}
GLM = {**VIT, "depth": 1, "num_heads": 2, "out_hidden_size": 16, "patch_size": 14, "image_size": 112}
LIMITS = {"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 120}}
PINPOINTS = [[h, w] for h in (112, 224, 336) for w in (112, 224, 336)]
OV_PINPOINTS = [[h, w] for h in (118, 236, 354) for w in (118, 236, 354)]
IDEFICS = {"size": {"longest_edge": 224}, "max_image_size": {"longest_edge": 56}, "return_row_col_info": True}


@dataclass(frozen=True)
class Family:
    """One row: a layout with the real model and image processor that it describes.

    Attributes:
        cell: side of a token's cell in pixels of the image that the vision tower gets.
        blur: resampling steps x their half width in samples; widens a footprint to all pixels it can depend on.
        changed: image settings passed at each call.
    """

    name: str
    config: dict[str, Any]
    image_processor: str
    settings: dict[str, Any]
    cell: int
    blur: int = 3
    changed: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ((500, 375), (211, 390), (96, 64))

    @property
    def model_type(self) -> str:
        return self.config["model_type"]

    def make_config(self):
        return AutoConfig.for_model(**self.config)

    def make_image_processor(self):
        return get_image_processor_class_from_name(self.image_processor)(**self.settings)

    def layout(self) -> VisualLayout:
        return VisualLayout.from_processor(self.make_image_processor(), self.make_config(), self.changed or None)


def config(model_type, text, vision, text_type=None, **more):
    text = {**text, "model_type": text_type} if text_type else text
    return {"model_type": model_type, "text_config": text, "vision_config": vision, **more}


def llava(model_type, vision, **more):
    return config(model_type, TEXT, vision, "llama", image_token_index=5, **more)


QWEN_PIL = "Qwen2VLImageProcessorPil"
NEXT = {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}, "image_grid_pinpoints": PINPOINTS}
CROP = {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}}
GEMMA_TEXT = {**TEXT, "sliding_window": 16, "query_pre_attn_scalar": 8}
GEMMA = config("gemma3", GEMMA_TEXT, {**SIGLIP, "image_size": 112, "patch_size": 14}, mm_tokens_per_image=16)
SCAN = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 60, "pan_and_scan_max_num_crops": 4}
SCAN |= {"pan_and_scan_min_ratio_to_activate": 1.2}
INTERN = config(
    "internvl", TEXT, {**VIT, "image_size": [112, 112], "patch_size": [14, 14]}, "qwen2", downsample_ratio=0.5
)
INTERN_SIZE = {"size": {"height": 112, "width": 112}, "max_patches": 6}
IDEFICS3 = config("idefics3", TEXT, {**VIT, "image_size": 56, "patch_size": 7}, "llama", scale_factor=2)
SMOLVLM = config("smolvlm", TEXT, {**VIT, "image_size": 56, "patch_size": 7}, "llama", scale_factor=2)
ONEVISION = {"image_grid_pinpoints": OV_PINPOINTS, "size": {"height": 118, "width": 118}}
PIXTRAL = {**VIT, "image_size": 448, "patch_size": 14, "head_dim": 8}

TABLE = [
    Family("qwen2_vl", config("qwen2_vl", MROPE, QWEN2), QWEN_PIL, LIMITS, 28),
    Family("qwen2_5_vl", config("qwen2_5_vl", MROPE, QWEN25), QWEN_PIL, LIMITS, 28),
    Family("qwen3_vl", config("qwen3_vl", MROPE, QWEN3), QWEN_PIL, {**LIMITS, "patch_size": 16}, 32),
    Family("qwen3_5", config("qwen3_5", LINEAR, QWEN35), QWEN_PIL, {**LIMITS, "patch_size": 16}, 32),
    Family("glm4v", config("glm4v", MROPE, GLM), "Glm4vImageProcessorPil", LIMITS, 28),
    Family(
        "glm46v", config("glm46v", {**MROPE, "model_type": "glm4v_text"}, GLM), "Glm46VImageProcessorPil", LIMITS, 28
    ),
    Family("internvl", INTERN, "GotOcr2ImageProcessorPil", INTERN_SIZE, 28),
    Family(
        "internvl one grid", INTERN, "GotOcr2ImageProcessorPil", INTERN_SIZE, 28, changed={"crop_to_patches": False}
    ),
    Family(
        "llava crop", llava("llava", {**CLIP, "image_size": 112, "patch_size": 14}), "CLIPImageProcessorPil", CROP, 14
    ),
    Family(
        "llava pad",
        llava("llava", {**CLIP, "image_size": 112, "patch_size": 14}),
        "LlavaImageProcessorPil",
        {**CROP, "do_pad": True},
        14,
    ),
    Family(
        "llava_next",
        llava("llava_next", {**CLIP, "image_size": 112, "patch_size": 14}, image_grid_pinpoints=PINPOINTS),
        "LlavaNextImageProcessorPil",
        NEXT,
        14,
    ),
    Family(
        "llava_onevision",
        config(
            "llava_onevision",
            TEXT,
            {**SIGLIP, "image_size": 118, "patch_size": 14},
            "qwen2",
            image_grid_pinpoints=OV_PINPOINTS,
            vision_aspect_ratio="anyres_max_4",
        ),
        "LlavaOnevisionImageProcessorPil",
        ONEVISION,
        14,
    ),
    Family("gemma3", GEMMA, "Gemma3ImageProcessorPil", {"size": {"height": 112, "width": 112}}, 28),
    Family(
        "gemma3 pan & scan",
        GEMMA,
        "Gemma3ImageProcessorPil",
        {"size": {"height": 112, "width": 112}},
        28,
        changed=SCAN,
    ),
    Family("idefics3", IDEFICS3, "Idefics3ImageProcessorPil", IDEFICS, 14, blur=9),
    Family("smolvlm", SMOLVLM, "SmolVLMImageProcessorPil", IDEFICS, 14, blur=9),
    Family(
        "paligemma",
        config("paligemma", GEMMA_TEXT, {**SIGLIP, "image_size": 112, "patch_size": 14}, "gemma", projection_dim=16),
        "SiglipImageProcessorPil",
        {"size": {"height": 112, "width": 112}},
        14,
    ),
    Family(
        "mistral3",
        config("mistral3", TEXT, {**PIXTRAL, "model_type": "pixtral"}, "mistral", spatial_merge_size=2),
        "PixtralImageProcessorPil",
        {"size": {"longest_edge": 448}, "patch_size": {"height": 28, "width": 28}},
        28,
    ),
    Family(
        "pixtral",
        llava(
            "llava",
            {**PIXTRAL, "model_type": "pixtral"},
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        ),
        "PixtralImageProcessorPil",
        {"size": {"longest_edge": 224}, "patch_size": {"height": 14, "width": 14}},
        14,
    ),
]


@pytest.fixture(params=[row.name for row in TABLE])
def family(request) -> Family:
    return next(row for row in TABLE if row.name == request.param)


@pytest.fixture(scope="session", autouse=True)
def quiet():
    tf.logging.set_verbosity_error()
