"""Memory and time: static items, operations and traffic by hand, the peak against real steps, direction of knobs."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from preflight.settings import make_setting
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.memory import measure_case
from benchmarks.models import SHAPES, make_config, make_model
from sayo.attention import AttentionCapture
from sayo.preflight.memory import head_stage, memory_of, static_bytes
from sayo.preflight.policy import MetaPolicy
from sayo.preflight.setting import SHARDINGS, TokenCount
from sayo.preflight.timing import Hardware, communication, matrix_parameters, step_time
from sayo.preflight.trace import LiveBytes
from sayo.recipes import ModelSection

GRPO = {"engine": "transformers", "generation_batch": 8, "num_generations": 4}
TEXT = {"bf16": True, "tokens": TokenCount(0, 100, 0, 100), "completion_tokens": 50}


def meta(**section) -> MetaPolicy:
    return MetaPolicy(ModelSection(name_or_path="random", **section), make_config("qwen3_vl", SHAPES["12M"]))


@pytest.fixture(scope="module")
def policy():
    return meta()


def peak(policy, setting, phase=None) -> int:
    phases = memory_of(policy, setting)
    return max(sum(items.values()) for name, items in phases.items() if phase in (None, name))


def test_static_items_by_hand(policy):
    items = ("weights", "gradients", "optimizer", "master weights", "float32 gradients of the step")
    expected = {  # bytes per parameter of each
        "ddp": (2, 2, 4, 0, 0),
        "zero1": (2, 2, 8 / 4, 4 / 4, 4 / 4),
        "zero2": (2, 2 / 4, 8 / 4, 4 / 4, 4 / 4),
        "zero3": (2 / 4, 2 / 4, 8 / 4, 4 / 4, 4 / 4),
        "fsdp2": (4 / 4, 4 / 4, 8 / 4, 0, 0),
    }
    for kind, factors in expected.items():
        static = static_bytes(policy, make_setting(bf16=True, gpus=4, sharding=kind))
        sizes = [static.get(name, 0) for name in items]
        assert sizes == pytest.approx([factor * policy.parameters for factor in factors], abs=1), kind
    buffers = [static_bytes(policy, make_setting(gpus=gpus))["communication buffers"] for gpus in (1, 4)]
    assert buffers == [0, 2 * policy.parameters]


def test_head_by_hand(policy):  # 256 wide, 4096 words
    setting = make_setting(device="cuda", micro_batch=2, completion_tokens=10, tokens=TokenCount(0, 90, 0, 90))
    head, norm = head_stage(policy, setting), 2 * 100 * 256 * (4 + 2)
    assert head.kept == norm + 2 * 10 * 256 * 2
    assert head.working == 20 * 32768 * 2 + (20 + 4096) * 256 * (4 + 2)
    on_cpu = head_stage(policy, dataclasses.replace(setting, device="cpu"))
    assert on_cpu.kept == norm + 2 * 99 * 256 * 2  # no Triton: every row is scored


def test_kv_cache_by_hand(policy):
    # 6 layers, 4 key/value heads of 32, bfloat16, 8 sequences; many completion tokens, so that decoding is the peak
    setting = make_setting(**GRPO, bf16=True, completion_tokens=4000)
    assert memory_of(policy, setting)["generation"]["KV cache"] == 8 * setting.length * 2 * 6 * 4 * 32 * 2


@pytest.mark.parametrize(
    "case", ["qwen3_vl 12M", pytest.param("qwen2_5_vl 12M checkpointing", marks=pytest.mark.slow)]
)
def test_prediction_is_close_to_a_real_step(case):
    result = measure_case(case)
    for item, tolerance in {"weights": 0.01, "optimizer": 0.01, "gradients": 0.01, "backward": 0.05}.items():
        assert result["predicted"][item] == pytest.approx(result["measured"][item], rel=tolerance), item


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch": 8},
        {"completion_tokens": 400},
        {"tokens": TokenCount(600, 20, 600, 20)},
        {"tokens": TokenCount(96, 500, 96, 500)},
        {"generation_batch": 512},
        {"reference": "copy"},
        {"checkpointing": False},
    ],
)
def test_more_work_takes_more_memory(policy, changes):
    base = {**GRPO, "checkpointing": True, "bf16": True}
    assert peak(policy, make_setting(**{**base, **changes})) > peak(policy, make_setting(**base))


def test_sharding_and_lora_take_less(policy):
    base = {"bf16": True, "gpus": 8}
    peaks = [peak(policy, make_setting(**base, sharding=kind), "update") for kind in SHARDINGS[:4]]
    assert peaks == sorted(peaks, reverse=True)
    assert peak(policy, make_setting(bf16=True, gpus=64, sharding="zero3"), "update") < peaks[-1]
    lora = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    assert peak(meta(lora=lora), make_setting(bf16=True)) < peak(policy, make_setting(bf16=True))
    zero3 = make_setting(**GRPO, **base, sharding="zero3", gather_to_generate=True)
    gathered = memory_of(policy, zero3)["generation"]["weights gathered to generate"]
    assert gathered == pytest.approx(2 * policy.parameters * 7 / 8, abs=8)


def test_vllm_takes_its_share_and_gives_it_back_when_it_sleeps(policy):
    setting = make_setting(**{**GRPO, "engine": "vllm colocate"}, vllm_share=0.3)
    awake = memory_of(policy, setting, 10**9)
    asleep = memory_of(policy, dataclasses.replace(setting, vllm_sleeps=True), 10**9)
    assert sum(awake["backward"].values()) - sum(asleep["backward"].values()) == 3 * 10**8
    assert awake["generation"]["vLLM share"] == asleep["generation"]["vLLM share"] == 3 * 10**8


def test_objective_is_close_to_a_real_reading(policy):
    """What a forward pass keeps more when two layers are read with a graph."""
    batch, prompt, completion = 4, 200, 56
    model = make_model("qwen3_vl", SHAPES["12M"], dtype=torch.float32).train()
    capture = AttentionCapture(model, layers=[2, 4])
    ids = torch.randint(200, 2000, (batch, prompt + completion))
    groups = {"region": torch.ones(ids.shape), "image": torch.ones(ids.shape)}
    rows = torch.arange(prompt - 1, prompt + completion - 1).expand(batch, -1)
    kept = []
    for reading in (nullcontext(), capture.reading(rows, groups, gradients=True)):
        live = LiveBytes()
        with live, reading:
            logits = model(input_ids=ids, use_cache=False).logits
            kept.append(live.now)
        del logits
    sizes = {"tokens": TokenCount(0, prompt, 0, prompt, 0), "completion_tokens": completion, "objective_layers": 2}
    predicted = memory_of(policy, make_setting(**GRPO, **sizes))["backward"]["attention objective"]
    assert predicted == pytest.approx(kept[1] - kept[0], rel=0.15)


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
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    live = LiveBytes()
    with live:
        live.watch(rows, *model.parameters())
        before = live.now
        step()
    assert live.peak - before == pytest.approx(most, rel=0.01) and live.now == before


def test_training_time_is_three_forwards(policy):
    # 6 layers, 8 heads of 32, 256 wide, 4096 words; 150 tokens of which 50 are scored
    matrices = 6 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 1024)
    assert matrix_parameters(policy.decoder.layers) == matrices
    forward = 2 * 150 * matrices + 2 * 150**2 * 256 * 6 + 2 * 50 * 256 * 4096
    name, hardware = "forward and backward", Hardware(peak_tflops=1.0, mfu=0.5)
    found = step_time(policy, make_setting(**TEXT), hardware)[name]
    assert found == pytest.approx(4 * 2 * 3 * forward / 0.5e12)
    again = step_time(policy, make_setting(**TEXT, checkpointing=True), hardware)[name]
    assert again == pytest.approx(found * 4 / 3)


def test_extra_forwards_are_priced_each(policy):
    alone = step_time(policy, make_setting(**TEXT, **GRPO), Hardware())
    both = step_time(policy, make_setting(**TEXT, **GRPO, reference="adapter off"), Hardware())
    assert "reference" not in alone and both["reference"] == both["scoring"] == alone["scoring"] > 0
    during = step_time(policy, make_setting(**TEXT, **GRPO, reads_generation=True), Hardware())
    assert "scoring" not in during and during["generation: decode"] == alone["generation: decode"]
    setting = make_setting(**GRPO, gpus=5, tokens=TokenCount(1, 1, 1, 1, samples=1000))
    assert setting.steps_per_epoch == 1000 * 4 / (4 * 2 * 5)


def test_traffic_by_hand(policy):
    weights = 2 * policy.parameters
    sent = {
        kind: communication(policy, make_setting(**{**TEXT, "accumulation": 4}, sharding=kind)) for kind in SHARDINGS
    }
    assert sent["ddp"][0][0] == 2 * weights  # all-reduce
    assert [sent["zero1"][side][0] for side in (0, 1)] == [weights, weights]  # reduce-scatter and all-gather
    assert sent["zero3"][0][0] == 4 * 3 * weights  # two gathers and a reduce-scatter per micro-batch

    def wait(gpus: int) -> float:
        hardware = Hardware(peak_tflops=1e9, nvlink_gbs=450.0, network_gbs=10.0, network_efficiency=1.0, hop_us=0.0)
        return step_time(policy, make_setting(**TEXT, gpus=gpus), hardware)["waiting for communication"]

    assert wait(1) == 0 and wait(8) == pytest.approx(2 * weights * 7 / 8 / 450e9, rel=0.01)
    assert wait(16) == pytest.approx(2 * weights * 15 / 16 / 80e9, rel=0.01)  # the node's eight network cards
