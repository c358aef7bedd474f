"""Looks of any shape, without a model."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sayo.geometry import VisualCells
from sayo.geometry.cells import uniform_grid
from sayo.look import Look

QUESTION = "What color is the disc in the red frame?"


def synthetic_look(
    tokens: int = 300,
    grid: tuple[int, int] = (50, 30),
    layers: int = 28,
    heads: int = 16,
    views: int = 1,
    seed: int = 0,
) -> Look:
    """A look of any shape: maps are noise around a few bright cells, harder to deflate than real ones."""
    generator = np.random.default_rng(seed)
    columns, rows = grid
    count = columns * rows * views
    maps = generator.exponential(1e-4, (layers, tokens + 1, count)).astype(np.float32)
    maps[..., generator.integers(0, count, 8)] += 0.02
    image = Image.fromarray(generator.integers(0, 255, (rows * 20, columns * 20, 3), dtype=np.uint8))
    footprints = uniform_grid(columns, rows, (0, 0, *image.size))
    cells = VisualCells(np.concatenate([footprints] * views), np.repeat(np.arange(views), columns * rows), image.size)
    none = np.zeros((0, heads, tokens + 1), dtype=np.float32)
    share = maps.sum(axis=-1)
    return Look(
        model="synthetic",
        question=QUESTION,
        images=[image],
        cells=[cells],
        regions=[{"image": 0, "box": [100.0, 100.0, 200.0, 200.0]}],
        tokens=[f" word{index}" for index in range(tokens)],
        special=[False] * tokens,
        entropy=generator.random(tokens, dtype=np.float32),
        layers=tuple(range(layers)),
        shares={"region": share * 0.2, "image": share, "question": share, "response": share, "prefix": share},
        maps=maps,
        head_layers=(),
        head_shares=dict.fromkeys(("region", "image", "question", "response", "prefix"), none),
        head_maps=np.zeros((0, heads, tokens + 1, count), dtype=np.float32),
        region_size=25.0,
        image_size=count,
        settings={"response": "given", "layers": "all"},
    )
