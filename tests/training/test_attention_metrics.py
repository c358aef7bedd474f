"""Metrics of a batch of rollouts, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sayo.attention import AttentionTrace
from sayo.training.metrics import attention_metrics


def trace(target, image, size=2.0, num_visual=4.0, entropy=None):
    """One layer; `target` and `image` are the masses of the deciding rows (the last row decides nothing)."""
    masses = {"image": np.array([[*image, 9.0]], np.float32)}
    sizes = {"image": num_visual, "target": 0.0}
    if target is not None:
        masses["target"], sizes["target"] = np.array([[*target, 9.0]], np.float32), size
    entropy = np.array(entropy or [1.0] * len(image), np.float32)
    return AttentionTrace(masses=masses, sizes=sizes, entropy=entropy, layers=(0,))


def test_means_over_the_batch():
    batch = [trace([0.2], [0.2]), trace([0.1], [0.4]), trace(None, [0.3])]
    assert attention_metrics(batch) == pytest.approx(
        {
            "attention/coverage": 2 / 3,
            "attention/image_mass": 0.3,
            "attention/target_mass": 0.15,
            "attention/target_ratio": (2 + 0.5) / 2,
            "attention/tas": (0.8 + 0.2) / 2,
            "attention/weighted_entropy": 1.0,
        },
        abs=1e-6,
    )


def test_the_most_uncertain_tokens_count():
    one = trace([0.0, 0.2, 0.0], [0.1, 0.2, 0.3], entropy=[0.1, 2.0, 0.1])
    metrics = attention_metrics([one])
    assert metrics["attention/target_mass"] == pytest.approx(0.2)
    assert metrics["attention/weighted_entropy"] == pytest.approx((0.1 * 0.1 + 0.2 * 2.0 + 0.3 * 0.1) / 0.6)


def test_undefined_is_left_out():
    no_image = AttentionTrace(masses={}, sizes={"image": 0.0}, entropy=np.ones(2, np.float32), layers=(0,))
    assert attention_metrics([no_image]) == {"attention/coverage": 0.0}
    blind = trace([0.0], [0.0])
    assert attention_metrics([blind]) == {"attention/coverage": 1.0}
