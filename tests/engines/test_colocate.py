"""GRPO with a colocated vLLM: it answers the prompts that the trainer scores, from the distribution that is scored."""

import re

import pytest
from engines.runs import DIFFERENCE, LIMITS, logged, make_data, sayo, write_recipe

pytestmark = pytest.mark.slow

FAMILIES = {
    "qwen2_5_vl": LIMITS,
    "internvl": None,
    "smolvlm": {"longest_edge": 1024},  # two by two tiles
    "idefics3": {"longest_edge": 728},
}
"""Beside Qwen3-VL, below. With transformers 5.23, vLLM 0.30 cannot import its LLaVA and Mistral models, and does not
know the names of Gemma 3's parameters."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees(stand_in, tmp_path, family):
    """One and two pictures a prompt, of awkward sizes; after the first step the engine has new weights."""
    policy, limits = stand_in(family), FAMILIES[family]
    data = make_data(tmp_path, policy, limits)
    # One prompt a step: on a CPU a tower over 448 x 448 pixels takes a minute for eight completions of two pictures.
    recipe = write_recipe(tmp_path, policy, data, model={"size": limits}, per_device_train_batch_size=4)
    sayo("train", "--config-name", recipe)
    assert len(differences := logged(tmp_path / "run", DIFFERENCE)) == 3
    assert max(differences) <= 1e-3


def test_limits_of_the_recipe(stand_in, tmp_path):
    """Pixel limits unlike those saved with the model: pictures above the largest and below the smallest size."""
    policy = stand_in("qwen3_vl")
    data = make_data(tmp_path, policy, LIMITS)
    sayo("train", "--config-name", write_recipe(tmp_path, policy, data, model={"size": LIMITS}))
    assert max(logged(tmp_path / "run", DIFFERENCE)) <= 1e-3


@pytest.mark.parametrize(
    ("without", "stopped_by"),
    [
        ("unexpanded prompts", r"vLLM answered a prompt of \d+ tokens; the trainer scores one of \d+"),
        ("pixel limits", r"vLLM answered a prompt of \d+ tokens; the trainer scores one of \d+"),
        ("ban in scoring", r"differ by \S+ nats a token .*max_sampling_difference=0.001"),
        ("forgotten features", r"differ by \S+ nats a token .*max_sampling_difference=0.001"),
    ],
)
def test_a_fault_stops_the_run(stand_in, tmp_path, without, stopped_by):
    policy = stand_in("qwen3_vl")
    data = make_data(tmp_path, policy, LIMITS)
    recipe = write_recipe(tmp_path, policy, data, model={"size": LIMITS}, max_sampling_difference=1e-3)
    output = sayo("train", "--config-name", recipe, without=without, expect=1)
    assert re.search(stopped_by, " ".join(output.split()))
