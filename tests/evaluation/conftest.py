"""A toy policy, its prepared rows, and a small data set of our own."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from sayo.processors import load_auto_processor
from sayo.recipes import DataSection
from sayo.training.setup import load_data


@pytest.fixture(scope="session")
def policy(toy):
    model = AutoModelForImageTextToText.from_pretrained(toy.policy, dtype=torch.float32)
    return model, load_auto_processor(toy.policy)


@pytest.fixture(scope="session")
def prepared(toy):
    return load_data(DataSection(path=str(toy.prepared)), "test")


@pytest.fixture
def ten():
    """Ten rows with no more than a row needs, and two types of question; every answer is "B"."""
    pixels = np.random.default_rng(0).integers(0, 255, (10, 48, 64, 3), dtype=np.uint8)
    rows = [
        {
            "id": str(number),
            "prompt": [{"role": "user", "content": f"Number {number}?"}],
            "images": [Image.fromarray(pixels[number])],
            "solution": "B",
            "question_type": "ab"[number % 2],
        }
        for number in range(10)
    ]
    return datasets.Dataset.from_list(rows)


@pytest.fixture(scope="session")
def lines():
    """The records in a folder."""
    return lambda folder: [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
