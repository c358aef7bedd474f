"""The page on scale is what the code computes."""

from pathlib import Path

import pytest

from sayo.preflight.policy import MetaPolicy
from sayo.preflight.scale import page, qwen3_vl
from sayo.recipes import ModelSection


def test_the_named_shape_is_the_published_model():
    # Qwen3-VL-8B's model card: 8.77 billion parameters
    assert round(MetaPolicy(ModelSection(name_or_path="random"), qwen3_vl("8B")).parameters / 1e9, 2) == 8.77


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert (Path(__file__).parents[2] / "docs/scale.md").read_text() == page()
