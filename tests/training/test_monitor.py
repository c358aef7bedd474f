"""Metrics of a batch of rollouts, by hand."""

import numpy as np
import pytest

from sayo.attention import AttentionTrace
from sayo.metrics.sinks import pooled_sinks
from sayo.training.monitor import attention_metrics, sink_free_metrics


def trace(target, image, size=2.0, num_visual=4.0, entropy=None):
    """One layer; `target` and `image` are the masses of the deciding rows (the last row decides nothing)."""
    masses = {"image": np.array([[*image, 9.0]], np.float32)}
    sizes = {"image": num_visual, "region": 0.0}
    if target is not None:
        masses["region"], sizes["region"] = np.array([[*target, 9.0]], np.float32), size
    entropy = np.array(entropy or [1.0] * len(image), np.float32)
    return AttentionTrace(masses=masses, sizes=sizes, entropy=entropy, layers=(0,))


def test_means_over_the_batch():
    batch = [trace([0.2], [0.2]), trace([0.1], [0.4]), trace(None, [0.3])]
    assert attention_metrics(batch) == pytest.approx(
        {
            "attention/coverage": 2 / 3,
            "attention/image_mass": 0.3,
            "attention/region_mass": 0.15,
            "attention/region_ratio": (2 + 0.5) / 2,
            "attention/tas": (0.8 + 0.2) / 2,
            "attention/weighted_entropy": 1.0,
        },
        abs=1e-6,
    )


def test_the_most_uncertain_tokens_count():
    one = trace([0.0, 0.2, 0.0], [0.1, 0.2, 0.3], entropy=[0.1, 2.0, 0.1])
    metrics = attention_metrics([one])
    assert metrics["attention/region_mass"] == pytest.approx(0.2)
    assert metrics["attention/weighted_entropy"] == pytest.approx((0.1 * 0.1 + 0.2 * 2.0 + 0.3 * 0.1) / 0.6)


def test_undefined_is_left_out():
    no_image = AttentionTrace(masses={}, sizes={"image": 0.0}, entropy=np.ones(2, np.float32), layers=(0,))
    assert attention_metrics([no_image]) == {"attention/coverage": 0.0}
    blind = trace([0.0], [0.0])
    assert attention_metrics([blind]) == {"attention/coverage": 1.0}


def mapped(maps, region=None):
    """A trace of one layer, with the attention of its deciding rows on every visual token, and its sample."""
    maps = np.array([[*maps, [9.0] * len(maps[0])]], np.float32)[:, : len(maps) + 1]
    masses = {"image": maps.sum(axis=-1)}
    sample = {"region_tokens": None, "region_weights": None}
    if region is not None:
        sample = {"region_tokens": list(region), "region_weights": list(region.values())}
        masses["region"] = maps[..., list(region)] @ np.array(list(region.values()), np.float32)
    sizes = {"image": float(maps.shape[-1]), "region": float(sum((region or {}).values()))}
    entropy = np.ones(maps.shape[1] - 1, np.float32)
    return AttentionTrace(masses, sizes, entropy, (0,), maps), sample


def test_attention_without_the_sink():
    """Four visual tokens; the first draws everybody. One looks at its region, one only at the sink."""
    looks, sample = mapped([[0.5, 0.2, 0.1, 0.0]], {1: 1.0, 2: 0.5})
    drawn, other = mapped([[0.6, 0.1, 0.1, 0.1]], {0: 1.0, 3: 1.0})
    metrics = sink_free_metrics([looks, drawn], [sample, other])
    assert metrics["attention/image_mass_sink_free"] == pytest.approx((0.3 + 0.3) / 2)
    assert metrics["attention/region_mass_sink_free"] == pytest.approx((0.25 + 0.1) / 2)
    # per token: .25 / 1.5 against .3 / 3, and .1 / 1 against .1
    ratio = (0.25 / 1.5) / 0.1
    assert metrics["attention/tas_sink_free"] == pytest.approx((ratio**2 / (1 + ratio**2) + 0.5) / 2, abs=1e-6)
    raw = attention_metrics([looks, drawn])
    assert raw["attention/region_mass"] == pytest.approx((0.25 + 0.7) / 2)  # the sink counted as looking


def test_sinks_are_pooled_by_the_size_of_the_image():
    """Each of two questions has its own object; what both are drawn to is the sink. A larger image has its own."""
    two = [mapped([[0.4, 0.5, 0.0, 0.0]])[0], mapped([[0.4, 0.0, 0.0, 0.5]])[0]]
    sinks = pooled_sinks([*two, mapped([[0.1, 0.1, 0.1, 0.1, 0.3, 0.1]])[0]])
    assert sinks[4].tolist() == [True, False, False, False] and sinks[6].tolist() == [False] * 4 + [True, False]


def test_without_maps_or_with_a_region_of_sinks_there_is_nothing_to_report():
    assert sink_free_metrics([trace([0.2], [0.2])], [{}]) == {}
    only, sample = mapped([[0.9, 0.0]], {0: 1.0})
    assert set(sink_free_metrics([only], [sample])) == {"attention/image_mass_sink_free"}
