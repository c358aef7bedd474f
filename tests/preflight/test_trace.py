"""The counter of live bytes against torch's allocator, and traced layers against arithmetic."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from sayo.preflight.bench import make_config
from sayo.preflight.policy import meta_policy
from sayo.preflight.trace import LayerTracer, LiveBytes
from sayo.recipes import ModelSection


def test_live_bytes_are_the_allocators():
    """Every allocation and release that torch's profiler records on the CPU, against the storages we count."""
    model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
    rows = torch.randn(512, 256)

    def step():
        model(rows).square().sum().backward()
        model.zero_grad()

    step()  # what is set up once is not part of a step
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)

    live = LiveBytes()
    with live:
        before = live.watch(rows, *model.parameters())
        step()
    assert live.peak - before == pytest.approx(peak, rel=0.01)
    assert live.now == before


def test_a_norm_keeps_what_autograd_needs():
    """Root-mean-square norm in float32: its input, its normalised input, one scale per row."""
    policy = meta_policy(ModelSection("random", dtype="float32"), make_config("qwen3_vl", "12M"))
    traced = LayerTracer(policy, bf16=False).norm(2, 50)
    hidden = 2 * 50 * 256 * 4
    assert (traced.input, traced.output) == (hidden, hidden)
    assert traced.saved == 2 * hidden + 2 * 50 * 4


def test_layers_grow_with_the_batch():
    policy = meta_policy(ModelSection("random"), make_config("qwen2_5_vl", "12M"))
    tracer = LayerTracer(policy, bf16=True)
    small, large = tracer.decoder_layer(1, 64), tracer.decoder_layer(4, 64)
    assert large.saved == pytest.approx(4 * small.saved, rel=0.02)
    assert tracer.decoder_layer(1, 64) is small  # asked again, not traced again
