"""The table of families: real (tiny, random) models and their real image processors.

To add a family: one row in `TABLE` (and, for its tests of published sizes, one in test_families.py).
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import tiny_models as tiny
import transformers as tf
from transformers import AutoConfig
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from sayo.geometry import VisualLayout

PATCH_14, IMAGE_112 = {"patch_size": 14}, {"image_size": 112, "patch_size": 14}
CLIP, SIGLIP = {**tiny.CLIP, **IMAGE_112}, {**tiny.SIGLIP, **IMAGE_112}
QWEN3, QWEN35 = {**tiny.QWEN3, "patch_size": 16}, {**tiny.QWEN35, "patch_size": 16}
GLM = {**tiny.GLM, **IMAGE_112}
QWEN25 = {**tiny.QWEN25, **PATCH_14, "window_size": 112}
LIMITS = {"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 120}}
NEXT = {"image_grid_pinpoints": [[h, w] for h in (112, 224, 336) for w in (112, 224, 336)]}
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
        return AutoConfig.for_model(**copy.deepcopy(self.config))  # some write into the rope parameters they are given

    def make_image_processor(self):
        return get_image_processor_class_from_name(f"{self.image_processor}ImageProcessorPil")(**self.settings)

    def layout(self) -> VisualLayout:
        return VisualLayout.from_processor(self.make_image_processor(), self.make_config(), self.changed or None)


def config(model_type, text, vision, text_type=None, **more):
    text = {**text, "model_type": text_type} if text_type else text
    return {"model_type": model_type, "text_config": text, "vision_config": vision, **more}


def llava(model_type, vision, **more):
    return config(model_type, tiny.TEXT, vision, "llama", image_token_index=5, **more)


CROP = {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}}
SQUARE = {"size": {"height": 112, "width": 112}}
GEMMA = config("gemma3", tiny.WINDOW, SIGLIP, mm_tokens_per_image=16)
SCAN = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 60, "pan_and_scan_max_num_crops": 4}
SCAN |= {"pan_and_scan_min_ratio_to_activate": 1.2}
INTERN_VIT = {**tiny.TOWER, "image_size": [112, 112], "patch_size": [14, 14]}
INTERN = config("internvl", tiny.TEXT, INTERN_VIT, "qwen2", downsample_ratio=0.5)
SMALL_VIT = {**tiny.TOWER, "image_size": 56, "patch_size": 7}
IDEFICS3, SMOLVLM = (config(name, tiny.TEXT, SMALL_VIT, "llama", scale_factor=2) for name in ("idefics3", "smolvlm"))
ANYRES = {"image_grid_pinpoints": OV_PINPOINTS, "vision_aspect_ratio": "anyres_max_4"}
ONEVISION = config("llava_onevision", tiny.TEXT, {**SIGLIP, "image_size": 118}, "qwen2", **ANYRES)
OV_SQUARE = {"image_grid_pinpoints": OV_PINPOINTS, "size": {"height": 118, "width": 118}}
PIXTRAL = {**tiny.PIXTRAL, "image_size": 448, "patch_size": 14}
MISTRAL3 = config("mistral3", tiny.TEXT, PIXTRAL, "mistral", spatial_merge_size=2)
PIXTRAL12 = llava("llava", PIXTRAL, vision_feature_layer=-1, vision_feature_select_strategy="full")


def patches(longest, side):
    return {"size": {"longest_edge": longest}, "patch_size": {"height": side, "width": side}}


TABLE = [
    Family("qwen2_vl", config("qwen2_vl", tiny.MROPE, {**tiny.QWEN2, **PATCH_14}), "Qwen2VL", LIMITS, 28),
    Family("qwen2_5_vl", config("qwen2_5_vl", tiny.MROPE, QWEN25), "Qwen2VL", LIMITS, 28),
    Family("qwen3_vl", config("qwen3_vl", tiny.MROPE, QWEN3), "Qwen2VL", {**LIMITS, "patch_size": 16}, 32),
    Family("qwen3_5", config("qwen3_5", tiny.LINEAR, QWEN35), "Qwen2VL", {**LIMITS, "patch_size": 16}, 32),
    Family("glm4v", config("glm4v", tiny.MROPE, GLM), "Glm4v", LIMITS, 28),
    Family("glm46v", config("glm46v", {**tiny.MROPE, "model_type": "glm4v_text"}, GLM), "Glm46V", LIMITS, 28),
    Family("internvl", INTERN, "GotOcr2", {**SQUARE, "max_patches": 6}, 28),
    Family("internvl one grid", INTERN, "GotOcr2", SQUARE, 28, changed={"crop_to_patches": False}),
    Family("llava crop", llava("llava", CLIP), "CLIP", CROP, 14),
    Family("llava pad", llava("llava", CLIP), "Llava", {**CROP, "do_pad": True}, 14),
    Family("llava_next", llava("llava_next", CLIP, **NEXT), "LlavaNext", {**CROP, **NEXT}, 14),
    Family("llava_onevision", ONEVISION, "LlavaOnevision", OV_SQUARE, 14),
    Family("gemma3", GEMMA, "Gemma3", SQUARE, 28),
    Family("gemma3 pan & scan", GEMMA, "Gemma3", SQUARE, 28, changed=SCAN),
    Family("idefics3", IDEFICS3, "Idefics3", IDEFICS, 14, blur=9),
    Family("smolvlm", SMOLVLM, "SmolVLM", IDEFICS, 14, blur=9),
    Family("paligemma", config("paligemma", tiny.WINDOW, SIGLIP, "gemma", projection_dim=16), "Siglip", SQUARE, 14),
    Family("mistral3", MISTRAL3, "Pixtral", patches(448, 28), 28),
    Family("pixtral", PIXTRAL12, "Pixtral", patches(224, 14), 14),
]


@pytest.fixture(params=[row.name for row in TABLE])
def family(request) -> Family:
    return next(row for row in TABLE if row.name == request.param)


@pytest.fixture(scope="session", autouse=True)
def quiet():
    tf.logging.set_verbosity_error()
