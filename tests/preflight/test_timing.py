"""Time: operations, steps and communication by hand."""

import pytest

from sayo.preflight.bench import make_config, make_setting
from sayo.preflight.policy import meta_policy
from sayo.preflight.timing import Hardware, communicate, matrix_parameters, step_time
from sayo.preflight.tokens import Tokens
from sayo.recipes import ModelSection


@pytest.fixture(scope="module")
def policy():
    return meta_policy(ModelSection("random"), make_config("qwen3_vl", "12M"))


def text_only(**changes):
    return make_setting({"bf16": True}).change(typical=Tokens(100, 0, 0), completion_tokens=50, **changes)


def test_training_time_is_three_forwards(policy):
    # 6 layers, 8 heads of 32, 256 wide, 4096 words; 150 tokens of which 50 are scored
    forward = 2 * 150 * matrix_parameters(policy.decoder.layers) + 2 * 150**2 * 256 * 6 + 2 * 50 * 256 * 4096
    setting = text_only(micro_batch=4, accumulation=2)
    found = step_time(policy, setting, Hardware(peak_tflops=1.0, mfu=0.5)).parts["forward and backward"]
    assert found == pytest.approx(4 * 2 * 3 * forward / 0.5e12)
    again = step_time(policy, setting.change(checkpointing=True), Hardware(peak_tflops=1.0, mfu=0.5))
    assert again.parts["forward and backward"] == pytest.approx(found * 4 / 3)


def test_matrices_are_all_the_decoders_linear_weights(policy):
    # q, o: 256x256; k, v: 256x128; gate, up, down: 256x1024
    assert matrix_parameters(policy.decoder.layers) == 6 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 1024)


def test_extra_forwards_are_priced_each(policy):
    setting = text_only(engine="transformers", generation_batch=8, num_generations=4, accumulation=2)
    alone = step_time(policy, setting, Hardware()).parts
    both = step_time(policy, setting.change(reference="adapter off"), Hardware()).parts
    assert "reference" not in alone
    assert both["reference"] == both["scoring"] == alone["scoring"] > 0


def test_an_epoch_is_every_completion_once(policy):
    setting = text_only(engine="transformers", generation_batch=8, num_generations=4, samples=1000, gpus=5)
    time = step_time(policy, setting.change(micro_batch=4, accumulation=2, epochs=3), Hardware())
    assert time.steps_per_epoch == 1000 * 4 / (4 * 2 * 5)
    assert time.steps == 3 * time.steps_per_epoch


def test_all_reduce_is_twice_the_gradients_over_the_ring(policy):
    hardware = Hardware(nvlink_gbs=100.0, network_efficiency=1.0, hop_us=0.0)
    found = communicate(policy, text_only(gpus=8), hardware)
    assert found.sent == pytest.approx(2 * 2 * policy.total().parameters * 7 / 8)
    assert found.overlapped == pytest.approx(found.sent / 100e9)
    assert communicate(policy, text_only(gpus=1), hardware).sent == 0


def test_between_nodes_the_network_is_the_limit(policy):
    hardware = Hardware(nvlink_gbs=450.0, network_gbs=10.0, network_efficiency=1.0, hop_us=0.0)
    inside, across = (communicate(policy, text_only(gpus=gpus), hardware) for gpus in (8, 16))
    assert across.overlapped / across.sent == pytest.approx(450 / 80 * inside.overlapped / inside.sent)


def test_sharded_weights_travel_in_every_forward(policy):
    setting = text_only(gpus=8, accumulation=4)
    sent = {kind: communicate(policy, setting.change(sharding=kind), Hardware()).sent for kind in ("zero1", "zero3")}
    weights = 2 * policy.total().parameters * 7 / 8
    assert sent["zero1"] == pytest.approx(2 * weights)  # reduce-scatter and all-gather
    assert sent["zero3"] == pytest.approx(4 * 3 * weights)  # two gathers and a reduce-scatter per micro-batch
