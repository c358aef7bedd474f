"""No tensor is made on the wrong device: what reads, steers and trains runs on a pretended GPU, equal to the CPU."""

import pytest
import torch
from attention.reference import groups_of
from pretend_cuda import DeviceMistake, on_cuda, pretend_cuda
from tiny_models import IMAGE, KERNELS, batch, build

from sayo.attention import AttentionCapture

FAMILIES = ["qwen3_vl", "qwen2_5_vl", "glm4v", "gemma3", "internvl", "llava", "idefics3", "paligemma"]
CASES = [(family, kernel) for family in FAMILIES for kernel in KERNELS[family]]


def moved(inputs, device):
    return {name: value.to(device) for name, value in inputs.items()}


@pytest.mark.parametrize(("family", "kernel"), CASES)
def test_reading(family, kernel):
    inputs = batch(family)
    groups = groups_of(inputs["input_ids"])
    index = torch.stack([(ids == IMAGE).nonzero()[:4, 0] for ids in inputs["input_ids"]])
    chosen = inputs["input_ids"].shape[1] - 1 - torch.tensor([[0, 3], [2, 1]])

    def read(device, rows):
        model = build(family, kernel).to(device)
        capture = AttentionCapture(model, layers=[1, -1], per_head=True, byte_budget=2000)
        with torch.no_grad(), capture.reading(rows, moved(groups, device), index.to(device)) as reading:
            model(**moved(inputs, device))
        return *reading.masses.values(), reading.maps

    for rows in (slice(-7, None), chosen):
        expected = read("cpu", rows)
        with pretend_cuda():
            found = read("cuda", rows)
            assert all(map(on_cuda, found))
        assert all(map(torch.allclose, found, expected))
