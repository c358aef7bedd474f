"""Every family's cells against the real image processors and processors, at published settings and any image size."""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import image_processor_class
from transformers import AutoConfig
from transformers.utils import is_torchvision_available

from sayo.geometry import VisualLayout, coverage_of_box

TORCHVISION, BACKENDS = is_torchvision_available(), "transformers.image_processing_backends"


@dataclass(frozen=True)
class Published:
    """One row: the settings of a published checkpoint, its real classes, and its tokens for a 640 x 480 image.

    Attributes:
        classes: image processor; model folder and processor (None: it cannot be imported without torchvision).
        tiling: how the cells of a view lie: "whole" (they tile the image), "part" (disjoint, but a rim or what a
            centre crop cuts off is seen by none), "shrunk" (they may overlap).
    """

    name: str
    model_type: str
    classes: tuple[str, str | None]
    settings: dict[str, Any]
    tokens: int
    tiling: str = "whole"
    attributes: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)

    def make(self):
        """(processor with its image processor, but without a tokenizer; model config)."""
        config = AutoConfig.for_model(self.model_type, **self.model)
        image_processor = image_processor_class(self.classes[0])(**self.settings)
        if self.classes[1] is None:
            return image_processor, config
        folder, name = self.classes[1].split(".")
        processor_class = getattr(import_module(f"transformers.models.{folder}.processing_{folder}"), name)
        processor = processor_class.__new__(processor_class)
        attributes = {"image_processor": image_processor, "image_token": "@", "image_token_id": 5, **self.attributes}
        for key, value in attributes.items():
            setattr(processor, key, value)
        return processor, config


def pixels(low, high):
    return {"size": {"shortest_edge": low, "longest_edge": high}}


def square(side):
    return {"size": {"height": side, "width": side}}


def tiles(longest, tile):
    return {"size": {"longest_edge": longest}, "max_image_size": {"longest_edge": tile}}


QWEN, GLM = "Qwen2VLImageProcessor", "Glm4vImageProcessor"
QWEN2 = (QWEN, "qwen2_vl.Qwen2VLProcessor")
QWEN25 = (QWEN, "qwen2_5_vl.Qwen2_5_VLProcessor")
QWEN3 = (QWEN, "qwen3_vl.Qwen3VLProcessor")
GLM4V, GLM46V = (GLM, "glm4v.Glm4vProcessor"), ("Glm46VImageProcessor", "glm46v.Glm46VProcessor")
INTERN = ("GotOcr2ImageProcessor", "internvl.InternVLProcessor")
LLAVA_CROP = ("CLIPImageProcessor", "llava.LlavaProcessor")
LLAVA_PAD = ("LlavaImageProcessor", "llava.LlavaProcessor")
NEXT = ("LlavaNextImageProcessor", "llava_next.LlavaNextProcessor")
ONEVISION = ("LlavaOnevisionImageProcessor", "llava_onevision.LlavaOnevisionProcessor")
GEMMA = ("Gemma3ImageProcessor", "gemma3.Gemma3Processor")
IDEFICS = ("Idefics3ImageProcessor", "idefics3.Idefics3Processor")
SMOL = ("SmolVLMImageProcessor", "smolvlm.SmolVLMProcessor")
PALI = ("SiglipImageProcessor", "paligemma.PaliGemmaProcessor")
PIXTRAL = ("PixtralImageProcessor", None)

LIMITS, LIMITS3 = pixels(3136, 12845056), {**pixels(65536, 16777216), "patch_size": 16}
LIMITS_GLM = pixels(12544, 9633792)
CROP = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
MISTRAL = {"size": {"longest_edge": 1540}, "patch_size": {"height": 28, "width": 28}}
PIXTRAL12 = {"size": {"longest_edge": 1024}, "patch_size": {"height": 16, "width": 16}}


def vision(model_type, image_size, patch_size, **more):
    return {"vision_config": {"model_type": model_type, "image_size": image_size, "patch_size": patch_size}, **more}


CLIP, SIGLIP = vision("clip_vision_model", 336, 14), "siglip_vision_model"
IDEFICS_VIT, SMOL_VIT = vision("idefics3_vision", 364, 14), vision("smolvlm_vision", 512, 16, scale_factor=4)
SMOL_VIT2 = vision("smolvlm_vision", 384, 14, scale_factor=3)

OF_INTERN = {"image_seq_length": 256, "start_image_token": "<", "end_image_token": ">"}
OF_LLAVA = {"patch_size": 14, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
OF_ONE = {"num_image_tokens": 729, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"}
OF_PALI, ONE_VIT = {"image_seq_length": 1024}, vision(SIGLIP, 384, 14)
OF_GEMMA = {"image_seq_length": 256, "full_image_sequence": "b" + "@" * 256 + "e"}


def of_idefics(tokens):
    return {"fake_image_token": "+", "global_image_tag": "g", "global_image_token": "g", "image_seq_len": tokens}


FULL = {"vision_feature_select_strategy": "full"}  # the class token stays
ONE_GRID, SCAN, WHOLE = {"crop_to_patches": False}, {"do_pan_and_scan": True}, {"do_image_splitting": False}
PUBLISHED = [
    Published("Qwen2-VL", "qwen2_vl", QWEN2, LIMITS, 391),
    Published("Qwen2.5-VL", "qwen2_5_vl", QWEN25, LIMITS, 391),
    Published("Qwen2.5-VL small", "qwen2_5_vl", QWEN25, pixels(3136, 200704), 18 * 13),
    Published("Qwen3-VL", "qwen3_vl", QWEN3, LIMITS3, 300),
    Published("Qwen3-VL-MoE", "qwen3_vl_moe", QWEN3, LIMITS3, 300),
    Published("GLM-4.1V", "glm4v", GLM4V, LIMITS_GLM, 391),
    Published("GLM-4.5V", "glm4v_moe", GLM4V, LIMITS_GLM, 391),
    Published("GLM-4.6V", "glm46v", GLM46V, LIMITS_GLM, 391),
    Published("InternVL3", "internvl", INTERN, square(448), 3328, attributes=OF_INTERN),
    Published("InternVL3 one grid", "internvl", INTERN, square(448), 256, attributes=OF_INTERN, changed=ONE_GRID),
    Published("LLaVA-1.5", "llava", LLAVA_CROP, CROP, 576, "part", OF_LLAVA, CLIP),
    Published("LLaVA-1.5 full", "llava", LLAVA_CROP, CROP, 577, "part", {**OF_LLAVA, **FULL}, {**CLIP, **FULL}),
    Published("LLaVA-1.5 padded", "llava", LLAVA_PAD, {**CROP, "do_pad": True}, 576, "whole", OF_LLAVA, CLIP),
    Published("LLaVA-1.6", "llava_next", NEXT, CROP, 2340, "part", OF_LLAVA, CLIP),
    Published("LLaVA-OneVision", "llava_onevision", ONEVISION, square(384), 2929, "shrunk", OF_ONE, ONE_VIT),
    Published("Gemma3", "gemma3", GEMMA, square(896), 256, attributes=OF_GEMMA),
    Published("Gemma3 pan & scan", "gemma3", GEMMA, square(896), 768, attributes=OF_GEMMA, changed=SCAN),
    Published("Idefics3", "idefics3", IDEFICS, tiles(1456, 364), 2197, "whole", of_idefics(169), IDEFICS_VIT),
    Published("SmolVLM-256M", "smolvlm", SMOL, tiles(2048, 512), 832, "whole", of_idefics(64), SMOL_VIT),
    Published("SmolVLM-2.2B", "smolvlm", SMOL, tiles(1536, 384), 1053, "part", of_idefics(81), SMOL_VIT2),
    Published("SmolVLM whole", "smolvlm", SMOL, tiles(2048, 512), 64, "whole", of_idefics(64), SMOL_VIT, WHOLE),
    Published("PaliGemma-448", "paligemma", PALI, square(448), 1024, "whole", OF_PALI, vision(SIGLIP, 448, 14)),
    Published("Mistral3", "mistral3", PIXTRAL, MISTRAL, 23 * 18),
    Published("Pixtral-12B", "llava", PIXTRAL, PIXTRAL12, 40 * 30, model=vision("pixtral", 1024, 16)),
    *(Published(**row) for row in yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())),
]
IMAGE_TOKENS = ("@", "<IMG_ATOM>", "<|patch|>", "<im_patch>")  # some processors do not let choose


@pytest.fixture(scope="module", params=PUBLISHED, ids=lambda row: row.name)
def row(request) -> Published:
    if image_processor_class(request.param.classes[0]) is None:
        pytest.skip("this image processor needs torchvision")
    return request.param


def zeros(*shape: int):
    """Pictures as the back-end holds them, without memory: all their pixels are one byte."""
    return torch.zeros((), dtype=torch.uint8).expand(shape) if TORCHVISION else np.broadcast_to(np.uint8(0), shape)


@pytest.fixture(scope="module", autouse=True)
def sizes_only():
    """Resizing keeps its sizes but touches no pixel."""
    resize = "torchvision.transforms.v2.functional.resize" if TORCHVISION else f"{BACKENDS}.np_resize"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, lambda image, size, **kwargs: zeros(*image.shape[:-2], *size))
        if TORCHVISION:  # it would copy each picture
            patch.setattr(f"{BACKENDS}.TorchvisionBackend.process_image", lambda self, image, **kwargs: image)
        yield


def placeholders(row: Published, processor, width: int, height: int) -> int:
    """Number of image ids that the real processor would write for an image of this size."""
    image = zeros(3, height, width)
    image_processor = getattr(processor, "image_processor", processor)
    if hasattr(image_processor, "merge_size"):  # cutting huge images into patches would take its time: sizes only
        factor = image_processor.patch_size * image_processor.merge_size
        resized = image_processor.resize(image, image_processor.size, None, factor=factor, temporal_factor=2)
        grid = np.array([[1, *(side // image_processor.patch_size for side in resized.shape[1:])]])
        return processor.replace_image_token({"image_grid_thw": grid}, 0).count("@")
    options = {**(getattr(processor, "images_kwargs", None) or {}), **row.changed}
    options |= {"do_rescale": False, "do_normalize": False, "do_convert_rgb": False, "return_tensors": "np"}
    inputs = image_processor.preprocess([image], input_data_format="channels_first", **options)
    if "image_sizes" in inputs:
        inputs["image_sizes"] = [tuple(int(side) for side in size) for size in inputs["image_sizes"]]
    if row.classes[1] is None:
        cell = image_processor.patch_size["height"]
        return (inputs["image_sizes"][0][0] // cell) * (inputs["image_sizes"][0][1] // cell)
    return max(map(processor.replace_image_token(inputs, 0).count, IMAGE_TOKENS))


side = st.integers(20, 4000)
any_size = {"max_examples": 25, "deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def test_published_token_count(row):
    processor, config = row.make()
    cells = VisualLayout.from_processor(processor, config, row.changed).cells(640, 480)
    assert len(cells) == row.tokens == placeholders(row, processor, 640, 480)


@settings(**any_size)
@given(width=side, height=side)
def test_count_is_the_processors_own(row, width, height):
    processor, config = row.make()
    layout = VisualLayout.from_processor(processor, config, row.changed)
    assert len(layout.cells(width, height)) == placeholders(row, processor, width, height)


@settings(**any_size)
@given(width=side, height=side, seed=st.integers(0, 2**32 - 1))
def test_cells_tile_what_is_seen(row, width, height, seed):
    processor, config = row.make()
    cells = VisualLayout.from_processor(processor, config, row.changed).cells(width, height)
    x1, y1, x2, y2 = cells.footprints.T
    assert np.nanmin(cells.footprints) >= 0
    assert np.nanmax(x2) <= width
    assert np.nanmax(y2) <= height
    full = coverage_of_box(cells, [0, 0, width, height])
    np.testing.assert_array_equal(full, (~np.isnan(x1)).astype(float))
    points = np.random.default_rng(seed).random((50, 2)) * [width, height]
    inside = (x1 <= points[:, :1]) & (points[:, :1] < x2) & (y1 <= points[:, 1:]) & (points[:, 1:] < y2)
    for view in np.unique(cells.views):
        holders = inside[:, cells.views == view].sum(axis=1)
        if row.tiling == "whole":
            assert (holders == 1).all()
        elif row.tiling == "part" or view == 0:
            assert (holders <= 1).all()
        else:
            assert (holders <= 4).all()
            assert holders.any()


def layout_of(name: str) -> VisualLayout:
    row = next(row for row in PUBLISHED if row.name == name)
    processor, config = row.make()
    return VisualLayout.from_processor(processor, config, row.changed)


@pytest.mark.parametrize(
    ("name", "size", "token", "footprint"),
    [
        # 672 x 336 keeps its size (shortest edge 336); the crop starts at x = (672 - 336) / 2.
        ("LLaVA-1.5", (672, 336), 0, (168, 0, 182, 14)),
        ("LLaVA-1.5 full", (672, 336), 0, None),
        ("LLaVA-1.5 full", (672, 336), 1, (168, 0, 182, 14)),
        # Padded to 672 x 672 (168 above), halved: a patch is 28 pixels and row 6 starts at 6 * 28 - 168 = 0.
        ("LLaVA-1.5 padded", (672, 336), 6 * 24, (0, 0, 28, 28)),
        # Two tiles of 448: the second starts at token 256; then the thumbnail, stretched 2 : 1.
        ("InternVL3", (896, 448), 256, (448, 0, 476, 28)),
        ("InternVL3", (896, 448), 512, (0, 0, 56, 28)),
        # Canvas 672 x 336 without padding: base view, then 24 rows of 48 patches and a newline.
        ("LLaVA-1.6", (672, 336), 1, (28, 0, 56, 14)),
        ("LLaVA-1.6", (672, 336), 576 + 49, (0, 14, 14, 28)),
        # 1456 x 728 = 4 x 2 tiles of 182 x 182 original pixels, 13 x 13 tokens each; the whole image last.
        ("Idefics3", (728, 364), 169 + 14, (182 + 14, 14, 182 + 28, 28)),
        ("Idefics3", (728, 364), 8 * 169, (0, 0, 56, 28)),
        # 384-pixel tiles: 27 patches of 14 pixels, merged 3 x 3 -> a token is 42 / 384 of its tile.
        ("SmolVLM-2.2B", (1536, 1536), 80, (336, 336, 378, 378)),
        # Two crops of 500 pixels after the full image.
        ("Gemma3 pan & scan", (1000, 500), 512, (500, 0, 531.25, 31.25)),
        # A patch of the 768 x 768 canvas (scale 2); the second tile starts at patch 27 = canvas pixel 384.
        ("LLaVA-OneVision", (384, 384), 729 + 27, None),
        ("PaliGemma-448", (640, 320), 33, (20, 10, 40, 20)),
    ],
)
def test_worked_footprints(name, size, token, footprint):
    if footprint is None:  # a class token, or the newline behind a row
        footprint = (np.nan,) * 4
    np.testing.assert_allclose(layout_of(name).cells(*size).footprints[token], footprint, rtol=1e-12)


def test_a_centre_crop_hides_what_it_cuts_off():
    assert not coverage_of_box(layout_of("LLaVA-1.5").cells(672, 336), [0, 0, 160, 336]).any()
