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
        footprints: worked by hand: width, height, token, and its box; no box for a class token or a newline.
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
    footprints: list[list[float]] = field(default_factory=list)

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


PUBLISHED = [Published(**row) for row in yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())]
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


def test_worked_footprints(row):
    processor, config = row.make()
    layout = VisualLayout.from_processor(processor, config, row.changed)
    for width, height, token, *footprint in row.footprints:
        found = layout.cells(width, height).footprints[token]
        np.testing.assert_allclose(found, footprint or [np.nan] * 4, rtol=1e-12)
    if row.name == "LLaVA-1.5":  # its centre crop hides what it cuts off
        assert not coverage_of_box(layout.cells(672, 336), [0, 0, 160, 336]).any()
