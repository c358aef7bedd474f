"""A reading that did not happen is an error with the way out, never a zero."""

from __future__ import annotations

import pytest
import torch
from tiny_models import IMAGE, batch, build
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sayo.attention import AttentionCapture, AttentionNotCaptured
from sayo.attention.groups import key_groups


def read(model, inputs, **options):
    capture = AttentionCapture(model, **options)
    return capture.reading(slice(-3, None), {"image": inputs["input_ids"] == IMAGE})


def test_model_did_not_run():
    model = build("qwen3_vl")
    with pytest.raises(AttentionNotCaptured, match="read for 0 of 2 samples"):
        with read(model, batch("qwen3_vl")):
            pass


def test_groups_of_another_length():
    model = build("qwen3_vl")
    inputs = batch("qwen3_vl")
    with pytest.raises(AttentionNotCaptured, match="groups of the whole sequence"):
        with torch.no_grad(), AttentionCapture(model).reading(slice(-3, None), {"image": torch.ones(2, 5)}):
            model(**inputs)


def test_model_without_decoder_layers():
    with pytest.raises(ValueError, match="no transformers model"):
        AttentionCapture(nn.Linear(2, 2))


def test_renamed_layers():
    model = build("qwen3_vl")
    decoder = model.get_decoder()
    decoder.blocks = decoder._modules.pop("layers")
    with pytest.raises(ValueError, match="holds no layer with a `self_attn`"):
        AttentionCapture(model)


def test_kernel_that_bypasses_the_interface():
    model = build("qwen3_vl")
    inputs = batch("qwen3_vl")
    attention = model.get_decoder().layers[-1].self_attn
    attention.forward = lambda hidden_states, **_: (hidden_states, None)  # as kernel patches and remote code do
    with pytest.raises(AttentionNotCaptured, match=r"Layer 3 ran, but its kernel .* bypasses"):
        with torch.no_grad(), read(model, inputs):
            model(**inputs)
    with pytest.raises(AttentionNotCaptured, match=r"Layer 3 ran, but its kernel .* bypasses"):
        with torch.no_grad(), AttentionCapture(model):
            model(**inputs)


def test_another_model_ran():
    inputs = batch("qwen3_vl")
    with pytest.raises(AttentionNotCaptured, match="the model that the capture was made with"):
        with torch.no_grad(), read(build("qwen3_vl"), inputs):
            build("qwen3_vl")(**inputs)


def test_no_groups():
    with pytest.raises(ValueError, match="at least one key group"):
        with AttentionCapture(build("qwen3_vl")).reading(torch.tensor([0]), {}):
            pass


@pytest.mark.parametrize("spec", [4, -5, "nine", 1.5, [], "3-9", True])
def test_unknown_layers(spec):
    with pytest.raises(ValueError, match=r"layer|Layer"):
        AttentionCapture(build("qwen3_vl"), layers=spec)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("last", (3,)), ("all", (0, 1, 2, 3)), (-2, (2,)), ("1-2", (1, 2)), (0.5, (2,)), ([0, "last", 0.5], (0, 2, 3))],
)
def test_layer_specs(spec, expected):
    assert AttentionCapture(build("qwen3_vl"), layers=spec).layers == expected


def test_the_kernel_is_given_back():
    model = build("qwen3_vl")
    stock = ALL_ATTENTION_FUNCTIONS["sdpa"]
    inputs = batch("qwen3_vl")
    with torch.no_grad(), read(model, inputs):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not stock
        model(**inputs)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is stock
    assert model.config._attn_implementation == "sdpa"


def test_the_output_is_untouched():
    model = build("qwen3_vl")
    inputs = batch("qwen3_vl")
    with torch.no_grad():
        plain = model(**inputs).logits
        with read(model, inputs, layers="all"):
            captured = model(**inputs).logits
    assert torch.equal(plain, captured)


def test_truncated_image_tokens():
    ids = torch.tensor([[5, IMAGE, IMAGE, 6, 7]])
    with pytest.raises(AttentionNotCaptured, match="holds 2 visual tokens, but the data were prepared for 4"):
        key_groups(ids, 2, [{"id": "a", "num_visual_tokens": [4]}], IMAGE)


def test_region_outside_the_image():
    ids = torch.tensor([[5, IMAGE, IMAGE, 6, 7]])
    with pytest.raises(AttentionNotCaptured, match="region token 2 lies outside"):
        key_groups(ids, 2, [{"region_tokens": [2], "region_weights": [1.0]}], IMAGE)


def test_vision_ids_in_a_completion_are_no_image():
    groups, index = key_groups(torch.tensor([[5, IMAGE, 6, IMAGE]]), 2, [{}], IMAGE)
    assert groups["image"].tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert index.tolist() == [[1]]
