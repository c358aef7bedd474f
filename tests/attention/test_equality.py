"""What is captured equals the eager kernel's own weights: every family, situation and kernel that runs here."""

import pytest
import torch
from attention.reference import cast, eager_weights, groups_of, largest_difference, masses_of, read
from tiny_models import FAMILIES, IMAGE, KERNELS, TEXT_MODELS, batch, build

from sayo.attention import AttentionCapture

COMPLETION = 6
ROWS = slice(-COMPLETION - 1, None)
SITUATIONS = {
    "left padding, two image sizes": {},
    "right padding": {"padding_side": "right"},
    "no padding": {"sizes": ((32, 16), (32, 16)), "text_lengths": (4, 4)},
    "two images a sample": {"images": 2},
    "no image": {"images": 0},
    "one sample": {"sizes": ((24, 32),), "text_lengths": (7,)},
}
ALL = [*FAMILIES, *TEXT_MODELS]
CASES = [
    (family, situation)
    for family in ALL
    for situation, options in SITUATIONS.items()
    if "images" not in options or family in FAMILIES
]


@pytest.mark.parametrize(("family", "situation"), CASES)
def test_equals_eager(family, situation):
    inputs = batch(family, completion=COMPLETION, **SITUATIONS[situation])
    groups = groups_of(inputs["input_ids"])
    for kernel in KERNELS[family]:
        for rows in (ROWS, slice(None)):  # the completion's, and all: an image's own rows may look ahead
            capture, reading = read(build(family, kernel), inputs, groups, rows, byte_budget=2000)
            expected = masses_of(eager_weights(family, inputs, capture.layers), groups)
            assert largest_difference(reading, expected, inputs, rows) <= 1e-5, kernel
        if family not in ("gpt_oss", "inkling2_text"):  # their sinks take a share of their own
            everything = reading.masses["everything"].where(inputs["attention_mask"][:, None, None].bool(), 1)
            assert torch.allclose(everything, torch.ones_like(everything), atol=1e-5)


@pytest.mark.parametrize("family", [name for name in ALL if name != "inkling2_text"])  # its router stays in float32
def test_bfloat16(family):
    # Eager rounds every score and weight to bfloat16 and the capture does not: the difference is eager's own error,
    # so attention is less sharp here and heads are averaged, as in every trace.
    inputs = batch(family)
    groups = groups_of(inputs["input_ids"])
    for kernel in KERNELS[family]:
        model = build(family, kernel, sharpness=5.0).bfloat16()
        capture = AttentionCapture(model, layers=0)
        with torch.no_grad(), capture.reading(ROWS, groups) as reading:
            model(**cast(inputs, torch.bfloat16))
        weights = eager_weights(family, inputs, capture.layers, torch.bfloat16, sharpness=5.0).mean(2)
        for name, masses in reading.masses.items():  # left padding: the completion's rows are all real
            expected = torch.einsum("blqk,bk->blq", weights, groups[name].float())[..., ROWS]
            assert (masses - expected).abs().max() <= 2e-3, (kernel, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_rows_and_maps(family):
    inputs = batch(family)
    model, length = build(family), inputs["input_ids"].shape[1]
    groups = groups_of(inputs["input_ids"])
    rows = torch.tensor([[length - 1, length - 4], [length - 3, length - 2]])
    index = torch.stack([(ids == IMAGE).nonzero()[:4, 0] for ids in inputs["input_ids"]])
    capture = AttentionCapture(model, layers=[1, -1])
    with torch.no_grad(), capture.reading(rows, groups, index) as reading:
        model(**inputs)
    weights = eager_weights(family, inputs, capture.layers).mean(2)
    for sample in range(2):
        read_rows = weights[sample][:, rows[sample]]
        for name, masses in reading.masses.items():
            assert torch.allclose(masses[sample], read_rows @ groups[name][sample].float(), atol=1e-5)
        assert torch.allclose(reading.maps[sample], read_rows[..., index[sample]], atol=1e-5)
