"""Attention metrics of a batch of rollouts, under the names that go to the tracker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sayo.attention import AttentionTrace


def attention_metrics(traces: Sequence[AttentionTrace]) -> dict[str, float]:
    """Means over the batch's completions, read at the rows that decide the tokens (all tokens, mean over layers).

    - `attention/coverage`: share of samples with a region.
    - `attention/image_mass`, `attention/target_mass`: attention on all visual tokens, on the region's.
    - `attention/target_ratio`: mean weight per target token over mean weight per visual token (1 = no preference).
    - `attention/weighted_entropy`: mean next-token entropy in nats, weighted by the attention on the image.

    A metric that no sample of the batch defines is left out, never zero.
    """
    spoken = [trace for trace in traces if len(trace)]
    metrics = {"attention/coverage": _mean([float(trace.has_region) for trace in traces])}
    # A sliding-window layer may see no image at all: then its ratios are undefined, not zero.
    seeing = [trace for trace in spoken if "image" in trace.masses and trace.mass("image", "deciding").sum() > 0]
    aimed = [trace for trace in seeing if trace.has_region]
    image = [trace.mass("image", "deciding").mean() for trace in seeing]
    metrics["attention/image_mass"] = _mean(image)
    metrics["attention/target_mass"] = _mean([trace.mass("target", "deciding").mean() for trace in aimed])
    metrics["attention/target_ratio"] = _mean(
        [trace.mean("target", "deciding").mean() / trace.mean("image", "deciding").mean() for trace in aimed]
    )
    metrics["attention/weighted_entropy"] = _mean(
        [float(np.average(trace.entropy, weights=trace.mass("image", "deciding").mean(axis=0))) for trace in seeing]
    )
    return {name: value for name, value in metrics.items() if value is not None}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
