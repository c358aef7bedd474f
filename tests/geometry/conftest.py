"""Real (tiny, random) models of every family with their real image processors, by the rows of `families.yaml`."""

import copy
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
import yaml
from tiny_models import VISION_MODELS, image_processor_class
from transformers import AutoConfig

from sayo.geometry import VisualLayout


@dataclass(frozen=True)
class Family:
    """One row: a layout with the real model and image processor that it describes."""

    name: str
    family: str
    settings: dict[str, Any]
    vision: dict[str, Any]
    cell: int
    model_type: str | None = None
    text_type: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
    processor: str | None = None
    blur: int = 3
    changed: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ((500, 375), (211, 390), (96, 64))

    def make_config(self):
        tiny = copy.deepcopy(VISION_MODELS[self.family])  # some write into the rope parameters they are given
        return AutoConfig.for_model(
            self.model_type or tiny.model_type,
            text_config=tiny.text | ({"model_type": self.text_type} if self.text_type else {}),
            vision_config=tiny.vision | self.vision,
            **tiny.more | self.more,
        )

    def image_processor_class(self, backend: str | None = None):
        name = f"{self.processor}ImageProcessor" if self.processor else VISION_MODELS[self.family].processor
        return image_processor_class(name, backend)

    def make_image_processor(self, backend: str | None = None):
        found = self.image_processor_class(backend)
        if found is None:
            pytest.skip(f"{self.name} has no image processor of this back-end")
        return found(**self.settings)

    def layout(self) -> VisualLayout:
        return VisualLayout.from_processor(self.make_image_processor(), self.make_config(), self.changed or None)


ROWS = yaml.safe_load(Path(__file__).with_name("families.yaml").read_text())["rows"]


@pytest.fixture(params=ROWS)
def family(request) -> Family:
    row = Family(request.param, **ROWS[request.param])
    if row.image_processor_class() is None:
        pytest.skip(f"the image processor of {row.name} needs torchvision")
    if "architecture" in row.vision and not find_spec("timm"):
        pytest.skip(f"the vision tower of {row.name} needs timm")
    return row


@pytest.fixture(scope="session", autouse=True)
def quiet():
    tf.logging.set_verbosity_error()
