"""Measures of visual attention: pure functions of arrays or of an `AttentionTrace`, one family per file."""

from sayo.metrics.avar import vas
from sayo.metrics.lookback import attention_trend, back_spans, lift, look_back_lift, tag_spans, token_span
from sayo.metrics.perception import anchor_weights, dependency_filter, token_dependency, trajectory_scale
from sayo.metrics.reflection import half_means, late_attention
from sayo.metrics.region import (
    pooled_attention,
    pooled_mass,
    region_ratio,
    region_score,
    tas,
    token_weights,
    top_count,
)
from sayo.metrics.sinks import relative_map, sink_free_mass, sink_tokens

__all__ = [
    "anchor_weights",
    "attention_trend",
    "back_spans",
    "dependency_filter",
    "half_means",
    "late_attention",
    "lift",
    "look_back_lift",
    "pooled_attention",
    "pooled_mass",
    "region_ratio",
    "region_score",
    "relative_map",
    "sink_free_mass",
    "sink_tokens",
    "tag_spans",
    "tas",
    "token_dependency",
    "token_span",
    "token_weights",
    "top_count",
    "trajectory_scale",
    "vas",
]
