"""Attention metrics of a batch of rollouts, under the names that go to the tracker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sayo.attention import AttentionTrace
from sayo.metrics.region import pooled_attention, target_ratio, tas


def attention_metrics(traces: Sequence[AttentionTrace]) -> dict[str, float]:
    """Means over the batch's completions, read at the rows that decide the 30% most uncertain tokens.

    One reading for every run, whatever its rewards, so that runs can be compared:

    - `attention/coverage`: share of samples with a region.
    - `attention/image_mass`, `attention/target_mass`: attention on all visual tokens, on the region's.
    - `attention/target_ratio`: attention per target token over attention per visual token (1 = no preference).
    - `attention/tas`: SAYO's target attention score of that ratio, in (0, 1); 0.5 = no preference.
    - `attention/weighted_entropy`: next-token entropy in nats, weighted by the attention on the image.

    A metric that no sample of the batch defines is left out, never zero.
    """
    metrics = {"attention/coverage": [float(trace.has_region) for trace in traces]}
    # A sliding-window layer may see no image at all: then its ratios are undefined, not zero.
    seeing = [trace for trace in traces if len(trace) and _image_mass(trace).sum() > 0]
    aimed = [pooled_attention(trace, "deciding") for trace in seeing if trace.has_region]
    metrics["attention/image_mass"] = [_image_mass(trace).mean() for trace in seeing]
    metrics["attention/target_mass"] = [one.target_mass for one in aimed]
    metrics["attention/target_ratio"] = [target_ratio(one.target, one.image) for one in aimed]
    metrics["attention/tas"] = [tas(one.target, one.image) for one in aimed]
    metrics["attention/weighted_entropy"] = [np.average(trace.entropy, weights=_image_mass(trace)) for trace in seeing]
    return {name: float(np.mean(values)) for name, values in metrics.items() if values}


def _image_mass(trace: AttentionTrace) -> np.ndarray:
    """`(T,)`: attention on the image, mean over layers; zeros for a prompt without an image."""
    if "image" not in trace.masses:
        return np.zeros(len(trace))
    return trace.mass("image", "deciding").mean(axis=0)
