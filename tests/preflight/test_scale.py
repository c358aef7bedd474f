"""The page on scale is what the code computes."""

from pathlib import Path

import pytest

from sayo.preflight.policy import MetaPolicy, load_config
from sayo.preflight.scale import page
from sayo.recipes import model_section

PARAMETERS = {  # as the hub counts those of the published weights
    "qwen3_vl_2b": 2_127_532_032,
    "qwen3_vl_4b": 4_437_815_808,
    "qwen3_vl_8b": 8_767_123_696,
    "qwen2_5_vl_3b": 3_754_622_976,
    "qwen2_5_vl_7b": 8_292_166_656,
}


@pytest.mark.parametrize("model", PARAMETERS)
def test_a_shipped_model_is_priced_without_the_hub_as_published(model):
    section = model_section(model)
    assert MetaPolicy(section, load_config(section.name_or_path)).parameters == PARAMETERS[model]


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert (Path(__file__).parents[2] / "docs/scale.md").read_text() == page()
