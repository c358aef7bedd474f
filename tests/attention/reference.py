"""What the reading is compared with: the weights that the eager kernel itself returns."""

import torch
from tiny_models import IMAGE, build

from sayo.attention import AttentionCapture


def eager_weights(name, inputs, layers, dtype=torch.float32, **options):
    """`(B, L, H, S, S)` as the eager kernel returns them."""
    model = build(name, "eager", **options).to(dtype)
    with torch.no_grad():
        weights = model(**cast(inputs, dtype), output_attentions=True).attentions
    return torch.stack([weights[layer] for layer in layers], dim=1).float()


def masses_of(weights, groups):
    return {name: torch.einsum("blhqk,bk->blhq", weights, group.float()) for name, group in groups.items()}


def cast(inputs, dtype):
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def groups_of(input_ids, seed=3):
    soft = torch.rand(input_ids.shape, generator=torch.Generator().manual_seed(seed)) * (input_ids == IMAGE)
    everything = torch.ones_like(input_ids, dtype=torch.bool)
    return {"image": input_ids == IMAGE, "region": soft, "odd": input_ids % 2 == 1, "everything": everything}


def read(model, inputs, groups, rows=slice(-7, None), **options):
    capture = AttentionCapture(model, layers="all", per_head=True, **options)
    with torch.no_grad(), capture.reading(rows, groups) as reading:
        model(**inputs)
    return capture, reading


def largest_difference(reading, expected, inputs, rows=slice(-7, None)):
    """Over all groups, leaving out the rows of padding, which attend nowhere in particular."""
    real = inputs["attention_mask"][:, None, None, rows].bool()
    return max(
        (masses - expected[name][..., rows]).abs().where(real, 0).max().item()
        for name, masses in reading.masses.items()
    )
