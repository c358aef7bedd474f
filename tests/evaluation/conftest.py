"""A small data set, answers that are given, and the records of an evaluation."""

import datasets
import numpy as np
import pytest
from PIL import Image

from sayo.evaluation.journal import read_records
from sayo.evaluation.records import Reply


class Parrot:
    """Answers question i with `texts[i]` in a form (None: it fails) and remembers what it was asked."""

    def __init__(self, texts, form="<answer>{}</answer>"):
        self.texts, self.form, self.asked = texts, form, []

    def answer(self, rows, attention=False):
        for row in rows:
            self.asked.append(row["index"])
            text = self.texts[row["index"]]
            yield row, [Reply(error="timeout") if text is None else Reply(self.form.format(text), length=1)]


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
