"""The reading equals the eager kernel's own weights, in every kernel and situation."""

from __future__ import annotations

import pytest
import torch
from tiny_models import IMAGE, MODELS, batch

from sayo.attention import AttentionCapture

COMPLETION = 6
SITUATIONS = {
    "left padding, two image sizes": {},
    "right padding": {"padding_side": "right"},
    "no padding": {"grids": ((4, 4), (4, 4)), "text_lengths": (4, 4)},
    "two images a sample": {"images": 2},
    "no image": {"images": 0},
    "one sample": {"grids": ((6, 8),), "text_lengths": (7,)},
}


def eager_masses(build, inputs, groups, layers, dtype=torch.float32):
    """`sum_k A * w` from the weights that the eager kernel returns: `(B, L, H, S)` per group."""
    model = build("eager").to(dtype)
    with torch.no_grad():
        weights = model(**_cast(inputs, dtype), output_attentions=True).attentions
    weights = torch.stack([weights[layer] for layer in layers], dim=1).float()
    return {name: torch.einsum("blhqk,bk->blhq", weights, group.float()) for name, group in groups.items()}


def _cast(inputs, dtype):
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def groups_of(input_ids, seed=3):
    soft = torch.rand(input_ids.shape, generator=torch.Generator().manual_seed(seed)) * (input_ids == IMAGE)
    return {"image": input_ids == IMAGE, "target": soft, "everything": torch.ones_like(input_ids, dtype=torch.bool)}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_equals_eager(family, kernel, situation):
    build = MODELS[family]
    model = build(kernel)
    inputs = batch(model, completion=COMPLETION, **SITUATIONS[situation])
    groups = groups_of(inputs["input_ids"])
    capture = AttentionCapture(model, layers="all", per_head=True, byte_budget=2000)  # a few rows in each chunk
    with torch.no_grad(), capture.reading(slice(-COMPLETION - 1, None), groups) as reading:
        model(**inputs)
    expected = eager_masses(build, inputs, groups, capture.layers)
    # Queries that are padding themselves attend nowhere in particular; no completion row is one.
    real = inputs["attention_mask"][:, None, None, -COMPLETION - 1 :].bool()
    for name, masses in reading.masses.items():
        difference = (masses - expected[name][..., -COMPLETION - 1 :]).abs()
        assert difference.where(real, 0).max() <= 1e-5, name
    everything = reading.masses["everything"]
    assert torch.allclose(everything.where(real, 1), torch.ones_like(everything), atol=1e-5)


@pytest.mark.parametrize("family", MODELS)
def test_bfloat16(family):
    def build(kernel):
        # eager rounds every score and weight to bfloat16, which sharp attention would blow up; the reading does not
        return MODELS[family](kernel, sharpness=5.0)

    model = build("sdpa").bfloat16()
    inputs = batch(model)
    groups = groups_of(inputs["input_ids"])
    capture = AttentionCapture(model, layers=0, per_head=True)
    with torch.no_grad(), capture.reading(slice(-7, None), groups) as reading:
        model(**_cast(inputs, torch.bfloat16))
    expected = eager_masses(build, inputs, groups, capture.layers, torch.bfloat16)
    for name, masses in reading.masses.items():
        assert (masses - expected[name][..., -7:]).abs().max() <= 2e-3, name


@pytest.mark.parametrize("family", MODELS)
def test_chosen_rows_and_maps(family):
    build = MODELS[family]
    model = build()
    inputs = batch(model)
    groups = groups_of(inputs["input_ids"])
    rows = torch.tensor([[40, 33], [38, 31]]).clamp(max=inputs["input_ids"].shape[1] - 1)
    index = torch.stack([(ids == IMAGE).nonzero()[:4, 0] for ids in inputs["input_ids"]])
    capture = AttentionCapture(model, layers=[1, -1])
    with torch.no_grad(), capture.reading(rows, groups, index) as reading:
        model(**inputs)
    expected = eager_masses(build, inputs, groups, capture.layers)
    maps = eager_maps(build, inputs, index, capture.layers)
    for sample in range(2):
        for name, masses in reading.masses.items():
            assert torch.allclose(masses[sample], expected[name][sample].mean(1)[:, rows[sample]], atol=1e-5)
        assert torch.allclose(reading.maps[sample], maps[sample][:, rows[sample]], atol=1e-5)


def eager_maps(build, inputs, index, layers):
    one_hot = [{"cell": torch.zeros(inputs["input_ids"].shape).scatter_(1, index[:, [k]], 1.0)} for k in range(4)]
    columns = [eager_masses(build, inputs, group, layers)["cell"].mean(2) for group in one_hot]
    return torch.stack(columns, dim=-1)


def test_chunks_of_a_batch_are_one_reading():
    """TRL's scoring pass runs the batch in pieces."""
    model = MODELS["qwen3_vl"]()
    inputs = batch(model, grids=((4, 4),) * 3, text_lengths=(4,) * 3)
    groups = groups_of(inputs["input_ids"])
    capture = AttentionCapture(model)
    with torch.no_grad():
        with capture.reading(slice(-7, None), groups) as whole:
            model(**inputs)
        with capture.reading(slice(-7, None), groups) as pieces:
            for start, stop in ((0, 2), (2, 3)):
                piece = {name: value[start:stop] for name, value in inputs.items() if name != "pixel_values"}
                model(**piece, pixel_values=inputs["pixel_values"][start * 16 : stop * 16])
    for name in groups:
        assert torch.allclose(whole.masses[name], pieces.masses[name], atol=1e-6)


def test_left_padding_changes_nothing():
    model = MODELS["qwen2_5_vl"]()
    inputs = batch(model, grids=((4, 6),), text_lengths=(5,))
    padded = {name: torch.nn.functional.pad(inputs[name], (3, 0)) for name in ("input_ids", "attention_mask")}
    padded = {**inputs, **padded, "mm_token_type_ids": torch.nn.functional.pad(inputs["mm_token_type_ids"], (3, 0))}
    capture = AttentionCapture(model, layers="all")
    masses = []
    for case in (inputs, padded):
        with torch.no_grad(), capture.reading(slice(-7, None), {"image": case["input_ids"] == IMAGE}) as reading:
            model(**case)
        masses.append(reading.masses["image"])
    assert torch.allclose(*masses, atol=1e-6)
