"""Attention metrics of a batch of rollouts, under the names that go to the tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sayo.attention import AttentionTrace
from sayo.metrics.region import pooled_attention, region_ratio, tas
from sayo.metrics.sinks import pooled_sinks, sink_free_attention, sink_free_mass


def attention_metrics(traces: Sequence[AttentionTrace]) -> dict[str, float]:
    """Means over the batch's completions, read at the rows that decide the 30% most uncertain tokens.

    One reading for every run, whatever its rewards, so that runs can be compared:

    - `attention/coverage`: share of samples with a region.
    - `attention/image_mass`, `attention/region_mass`: attention on all visual tokens, on the region's.
    - `attention/region_ratio`: attention per region token over attention per visual token (1 = no preference).
    - `attention/tas`: SAYO's target attention score of that ratio, in (0, 1); 0.5 = no preference.
    - `attention/weighted_entropy`: next-token entropy in nats, weighted by the attention on the image.

    A metric that no sample of the batch defines is left out, never zero.
    """
    metrics = {"attention/coverage": [float(trace.has_region) for trace in traces]}
    # A sliding-window layer may see no image at all: then its ratios are undefined, not zero.
    seeing = [trace for trace in traces if len(trace) and _image_mass(trace).sum() > 0]
    aimed = [pooled_attention(trace, "deciding") for trace in seeing if trace.has_region]
    metrics["attention/image_mass"] = [_image_mass(trace).mean() for trace in seeing]
    metrics["attention/region_mass"] = [one.region_mass for one in aimed]
    metrics["attention/region_ratio"] = [region_ratio(one.region, one.image) for one in aimed]
    metrics["attention/tas"] = [tas(one.region, one.image) for one in aimed]
    metrics["attention/weighted_entropy"] = [np.average(trace.entropy, weights=_image_mass(trace)) for trace in seeing]
    return {name: float(np.mean(values)) for name, values in metrics.items() if values}


def sink_free_metrics(traces: Sequence[AttentionTrace], samples: Sequence[Mapping]) -> dict[str, float]:
    """`attention/{image_mass,region_mass,tas}_sink_free`: the same readings without the image's attention sinks.

    Moving attention to a cell that every row attends to anyway raises the raw masses, but not these. The sinks are 2%
    of the visual tokens, see `metrics.sinks.pooled_sinks`.

    Args:
        traces: those without maps are left out.
        samples: one per trace with `region_tokens` and `region_weights`.
    """
    sinks = pooled_sinks(traces)
    images, aimed = [], []
    for trace, sample in zip(traces, samples, strict=True):
        if trace.maps is None or not len(trace) or not _image_mass(trace).sum() > 0:
            continue
        own = sinks[trace.maps.shape[-1]]
        images.append(sink_free_mass(trace.map("deciding").mean(axis=0), own).mean())
        if trace.has_region:
            region = np.zeros(len(own))
            region[sample["region_tokens"]] = sample["region_weights"]
            aimed.append(sink_free_attention(trace, own, region, "deciding"))
    aimed = [one for one in aimed if one is not None]
    values = {
        "attention/image_mass_sink_free": images,
        "attention/region_mass_sink_free": [one.region_mass for one in aimed],
        "attention/tas_sink_free": [tas(one.region, one.image) for one in aimed],
    }
    return {name: float(np.mean(value)) for name, value in values.items() if value}


def _image_mass(trace: AttentionTrace) -> np.ndarray:
    """`(T,)`: attention on the image, mean over layers; zeros for a prompt without an image."""
    if "image" not in trace.masses:
        return np.zeros(len(trace))
    return trace.mass("image", "deciding").mean(axis=0)
