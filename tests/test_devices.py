"""No tensor is made on the wrong device: what reads and steers runs on a pretended GPU and gives what the CPU gives.

Training steps are in `training/test_devices.py`.
"""

import numpy as np
import pytest
import torch
from attention.reference import groups_of
from pretend_cuda import DeviceMistake, on_cuda, pretend_cuda
from steering.reference import cells_of, generate, prompts
from tiny_models import IMAGE, KERNELS, batch, build
from torch.utils.checkpoint import checkpoint

from sayo.attention import AttentionCapture
from sayo.evaluation.local import LocalModel
from sayo.steering import AttentionSteering, ScoreScaling

FAMILIES = ["qwen3_vl", "qwen2_5_vl", "gemma3", "internvl", "llava", "idefics3"]
CASES = [(family, kernel) for family in FAMILIES for kernel in KERNELS[family]]
MISTAKES = {
    "positions without a device": lambda x: x + torch.arange(4),
    "numbers without a device": lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "a mask from the CPU": lambda x: x.masked_fill(torch.ones(3, 4) > 0, 0),
    "a CPU tensor indexed from the GPU": lambda x: torch.ones(3)[x[:, 0] > 0],
    "weights written in place": lambda x: torch.zeros(3, 4).add_(x),
    "rows set to CPU values": lambda x: x.index_put((torch.tensor([0]),), torch.ones(1, 4)),
    "scalars stacked": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    "layers run again": lambda x: checkpoint(_once, x.requires_grad_(), use_reentrant=False).sum().backward(),
    "numpy": lambda x: x.numpy(),
    "an array": lambda x: np.asarray(x),
}


def _once(x, calls=[]):  # noqa: B006
    calls.append(x)
    return (x * torch.arange(4.0, device=x.device if len(calls) == 1 else "cpu")).exp()


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_what_torch_refuses_is_refused(mistake):
    with pretend_cuda(), pytest.raises(DeviceMistake):
        mistake(torch.ones(3, 4, device="cuda"))


def test_what_torch_allows_is_allowed():
    with pretend_cuda():
        x = torch.ones(3, 4).to("cuda").requires_grad_()
        assert str(x.device) == "cuda:0" and not on_cuda(x.cpu())
        (x * torch.tensor(2.0) / 3)[torch.tensor([0, 2])].sum().backward()
        made = [x.grad, x.new_zeros(2), torch.zeros_like(x).bool(), torch.nn.Linear(4, 4).to(x.device)(x)]
        with torch.device("cuda"):
            made.append(torch.arange(3))
        assert all(map(on_cuda, made)) and not on_cuda(torch.zeros_like(x, device="cpu"))
        torch.zeros(3, 4).copy_(x.detach()).numpy()
        assert x.sum().item() == 12 and x.tolist()[0] == [1, 1, 1, 1]


def on(device, inputs):
    return {name: value.to(device) for name, value in inputs.items()}


def same_on_both(run, *args):
    """The outcome of `run(device, ...)`, tensors and arrays, is the same on the GPU, and its tensors stay there."""
    expected = run("cpu", *args)
    with pretend_cuda():
        found = run("cuda", *args)
        assert all(on_cuda(value) for value in found if isinstance(value, torch.Tensor))
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(np.asarray(one), np.asarray(other), atol=1e-5)


@pytest.mark.parametrize("chosen", [False, True], ids=["the completion", "chosen rows"])
@pytest.mark.parametrize(("family", "kernel"), CASES)
def test_reading(family, kernel, chosen):
    inputs = batch(family)
    length, groups = inputs["input_ids"].shape[1], groups_of(inputs["input_ids"])
    index = torch.stack([(ids == IMAGE).nonzero()[:4, 0] for ids in inputs["input_ids"]])
    rows = length - 1 - torch.tensor([[0, 3], [2, 1]]) if chosen else slice(-7, None)

    def read(device):
        model = build(family, kernel).to(device)
        capture = AttentionCapture(model, layers=[1, -1], per_head=True, byte_budget=2000)
        with torch.no_grad(), capture.reading(rows, on(device, groups), index.to(device)) as reading:
            model(**on(device, inputs))
        return *reading.masses.values(), reading.maps

    same_on_both(read)


@pytest.mark.parametrize("family", FAMILIES)
def test_traces_of_generate(family):
    inputs = prompts(family)

    def traced(device):
        model = build(family).to(device)
        with AttentionCapture(model, layers="all", maps=True, groups={"own": inputs["attention_mask"]}) as capture:
            sequences, logits = generate(model, on(device, inputs))
        traces = capture.trace(sequences)
        return sequences, logits, *(array for trace in traces for array in (*trace.masses.values(), trace.maps))

    same_on_both(traced)


@pytest.mark.parametrize("options", [{}, {"heads": "gated"}, {"variant": "hard"}, None], ids=str)
@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3", "llava"])
def test_steering(family, options):
    inputs, cells = prompts(family), cells_of(family)

    def steered(device):
        model = build(family).to(device)
        scaling = ScoreScaling(model, image=0.5, system=0.4) if options is None else None
        with scaling or AttentionSteering(model, cells=cells, **options):
            return generate(model, on(device, inputs))

    same_on_both(steered)


def test_evaluating(toy_policy, toy_rows):
    """Answers and their attention, as `sayo evaluate` and `sayo look` read them."""
    rows = list(toy_rows.select(range(3)))

    def answered(device):
        model, processor = toy_policy
        model = torch.nn.Module.to(model, device)
        answers = LocalModel(model, processor, max_new_tokens=4, layers="all").answer(rows, attention=True)
        replies = [reply for _, replies in answers for reply in replies]
        return [array for reply in replies for array in (*reply.trace.masses.values(), reply.trace.maps)]

    same_on_both(answered)
