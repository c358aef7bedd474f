"""Memory: the static items by hand, the peak against real steps, and the direction of every knob."""

from contextlib import nullcontext

import pytest
import torch
import transformers

from sayo.attention import AttentionCapture
from sayo.preflight.bench import LiveBytes, make_config, make_setting, measure_case
from sayo.preflight.head import head_bytes
from sayo.preflight.memory import memory_of
from sayo.preflight.policy import meta_policy
from sayo.preflight.setting import SHARDINGS
from sayo.preflight.sharding import shard
from sayo.preflight.tokens import Tokens
from sayo.recipes import ModelSection

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def grpo_setting(**changes):
    base = {"engine": "transformers", "generation_batch": 8, "num_generations": 4, "reading_layers": 1}
    return make_setting({}).change(byte_budget=2**20, **{**base, **changes})


@pytest.fixture(scope="module")
def policy():
    return meta_policy(ModelSection("random", dtype="bfloat16"), make_config("qwen3_vl", "12M"))


def test_static_items_by_hand(policy):
    parameters = policy.total().parameters
    setting = make_setting({"bf16": True}).change(gpus=4)
    expected = {  # kind: bytes per parameter of weights, gradients, optimizer, masters, gradients of the step
        "ddp": (2, 2, 4, 0, 0),
        "zero1": (2, 2, 8 / 4, 4 / 4, 4 / 4),
        "zero2": (2, 2 / 4, 8 / 4, 4 / 4, 4 / 4),
        "zero3": (2 / 4, 2 / 4, 8 / 4, 4 / 4, 4 / 4),
        "fsdp2": (4 / 4, 4 / 4, 8 / 4, 0, 0),
    }
    for kind, factors in expected.items():
        items = shard(policy, setting.change(sharding=kind))
        found = (items.weights, items.gradients, items.optimizer, items.masters, items.step)
        assert found == pytest.approx([factor * parameters for factor in factors], abs=1), kind
    assert shard(policy, setting.change(sharding="ddp")).buffers == 2 * parameters
    assert shard(policy, setting.change(sharding="ddp", gpus=1)).buffers == 0


def test_head_by_hand(policy):
    text = policy.config.get_text_config()  # 256 wide, 4096 words
    setting = make_setting({}).change(device="cuda", micro_batch=2, completion_tokens=10)
    head = head_bytes(text, setting, 100, learns_head=True, itemsize=4)
    assert head.hidden == 2 * 10 * 256 * 4
    assert head.forward == 20 * 32768 * 4
    assert head.backward == 20 * 32768 * 4 + 20 * 256 * 4 + 4096 * 256 * 4
    on_cpu = head_bytes(text, setting.change(device="cpu"), 100, learns_head=False, itemsize=4)
    assert on_cpu.hidden == 2 * 99 * 256 * 4  # no Triton: every row is scored


def test_kv_cache_by_hand(policy):
    # 6 layers, 4 key/value heads of 32, bfloat16, 8 sequences; many completion tokens, so that decoding is the peak
    setting = grpo_setting(bf16=True, completion_tokens=4000)
    cache = memory_of(policy, setting).phases["generation"]["KV cache"]
    assert cache == 8 * (setting.longest.total + 4000) * 2 * 6 * 4 * 32 * 2


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen3_vl", {}),
        ("qwen2_5_vl", {"checkpointing": True, "bf16": True}),
        ("qwen3_vl", {"lora": True, "bf16": True, "dtype": "bfloat16"}),
    ],
)
def test_prediction_is_within_15_percent_of_a_real_step(family, options):
    result = measure_case(family, "12M", options)
    for item in ("weights", "optimizer", "gradients"):
        assert result["predicted"][item] == pytest.approx(result["measured"][item], rel=0.01), item
    for phase in ("backward", "update"):
        assert result["predicted"][phase] == pytest.approx(result["measured"][phase], rel=0.15), phase


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch": 8},
        {"completion_tokens": 400},
        {"longest": Tokens(20, 600)},
        {"longest": Tokens(500, 96)},
        {"generation_batch": 512},
        {"reference": "copy"},
        {"checkpointing": False},
    ],
)
def test_more_work_takes_more_memory(policy, changes):
    base = grpo_setting(checkpointing=True, bf16=True)
    assert memory_of(policy, base.change(**changes)).peak > memory_of(policy, base).peak


def test_more_sharding_takes_less(policy):
    setting = make_setting({"bf16": True}).change(gpus=8)
    peaks = [memory_of(policy, setting.change(sharding=kind)).phase_peak("update") for kind in SHARDINGS[:4]]
    assert peaks == sorted(peaks, reverse=True)
    many = memory_of(policy, setting.change(sharding="zero3", gpus=64)).phase_peak("update")
    assert many < peaks[-1]


def test_zero3_gathers_the_weights_to_generate(policy):
    setting = grpo_setting(bf16=True, gpus=8, sharding="zero3", gather_to_generate=True)
    items = memory_of(policy, setting).phases["generation"]
    assert items["weights gathered to generate"] == pytest.approx(2 * policy.total().parameters * 7 / 8, abs=8)
    kept = memory_of(policy, setting.change(gather_to_generate=False)).phases["generation"]
    assert kept["weights gathered to generate"] == 0


def test_lora_needs_no_gradients_of_the_weights():
    config = make_config("qwen3_vl", "12M")
    lora = memory_of(meta_policy(ModelSection("random", lora=LORA), config), make_setting({"bf16": True}))
    full = memory_of(meta_policy(ModelSection("random"), config), make_setting({"bf16": True}))
    assert lora.phases["update"]["gradients"] < 0.2 * full.phases["update"]["gradients"]
    assert lora.peak < full.peak


def test_vllm_takes_its_share_and_gives_it_back_when_it_sleeps(policy):
    setting = grpo_setting(engine="vllm colocate", vllm_share=0.3)
    awake = memory_of(policy, setting, gpu_bytes=10**9)
    asleep = memory_of(policy, setting.change(vllm_sleeps=True), gpu_bytes=10**9)
    assert awake.always["vLLM share"] == 3 * 10**8
    assert asleep.phase_peak("backward") == awake.phase_peak("backward") - 3 * 10**8


def test_objective_is_within_15_percent_of_a_real_reading():
    """What a forward pass keeps more when two layers are read with a graph."""
    config, (batch, prompt, completion) = make_config("qwen3_vl", "12M"), (4, 200, 56)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).train()
    capture = AttentionCapture(model, layers=[2, 4])
    ids = torch.randint(100, 2000, (batch, prompt + completion))
    groups = {"region": torch.ones(ids.shape), "image": torch.ones(ids.shape)}
    rows = torch.arange(prompt - 1, prompt + completion - 1).expand(batch, -1)
    kept = []
    for reading in (nullcontext(), capture.reading(rows, groups, gradients=True)):
        live = LiveBytes()
        with live, reading:
            logits = model(input_ids=ids, use_cache=False).logits
            kept.append(live.now)
        del logits
    sizes = {"micro_batch": batch, "longest": Tokens(prompt, 0, 0), "completion_tokens": completion}
    setting = grpo_setting(reading_layers=2, **sizes)
    policy = meta_policy(ModelSection("random"), config)
    memories = [memory_of(policy, setting.change(objective=wanted)).phases["backward"] for wanted in (False, True)]
    assert memories[0]["attention objective"] == 0
    assert memories[1]["attention objective"] == pytest.approx(kept[1] - kept[0], rel=0.15)
