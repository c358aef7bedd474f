"""A small data set, and the records of an evaluation."""

import datasets
import numpy as np
import pytest
from PIL import Image

from sayo.evaluation.journal import read_records


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
    return lambda folder: read_records(folder / "samples.jsonl")
