"""AVAR's score scaling inside any kernel: the raw scores, before mask and softmax."""

import numpy as np
import pytest
import torch
from steering.reference import generate, prompts, reference_logits
from tiny_models import IMAGE, build
from torch import nn

from sayo.attention.captured import read_layer
from sayo.attention.following import Prompt
from sayo.steering import ScoreScaling


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl", "llava", "gemma3", "internvl"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_equals_explicit_scores(monkeypatch, family, kernel):
    model, inputs = build(family, kernel), prompts(family)
    image = (inputs["input_ids"] == IMAGE).float()
    system = inputs["attention_mask"] * (image.cumsum(1) == 0)
    with ScoreScaling(model, image=0.15, system=0.4):
        sequences, logits = generate(model, inputs, max_new_tokens=14)  # gemma3's window is 16: the cache drops keys

    def change(layer, scores, weigh):
        factor = 1 + 0.15 * image - 0.4 * system
        factor = nn.functional.pad(factor, (0, scores.shape[3] - factor.shape[1]), value=1)
        return weigh(scores * factor[:, None, None])

    assert (logits - reference_logits(monkeypatch, family, inputs, sequences, change)).abs().max() <= 1e-5
    plain = reference_logits(monkeypatch, family, inputs, sequences, lambda layer, scores, weigh: weigh(scores))
    assert (logits - plain).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_a_kernel_without_an_additive_mask():
    inputs = prompts("internvl")
    logits = []
    for kernel in ("flex_attention", "sdpa"):
        model = build("internvl", kernel)
        with torch.compiler.set_stance("force_eager"), torch.no_grad(), ScoreScaling(model, image=0.5, system=0.4):
            logits.append(model(**inputs).logits[inputs["attention_mask"].bool()])
    assert torch.allclose(*logits, atol=1e-5)


def scaled_weights(scores, image, system):
    """What a kernel makes of a row of scores: system | image, image | text."""
    ids = torch.tensor([[5, IMAGE, IMAGE, 6]])
    steering = ScoreScaling(build("qwen3_vl"), image=image, system=system)
    steering._prompt = Prompt.of(ids, {}, build("qwen3_vl").config)
    steering._positions = torch.arange(4)
    steering._start(steering._prompt)
    query, key = torch.ones(1, 1, 4, 1), torch.tensor(scores)[None, None, :, None]
    query, key, mask = steering.adjust(0, nn.Identity(), query, key, None, "sdpa", scaling=1.0)
    options = {"options": {}, "scaling": 1.0, "is_causal": True}
    weights, _ = read_layer(nn.Identity(), query, key, mask, "sdpa", torch.tensor([3]), torch.eye(4)[None], **options)
    return weights[0, 0].numpy()


@pytest.mark.parametrize(
    ("shift", "image", "system", "expected"),
    [
        (0, 0.0, 0.0, [0.609460, 0.224208, 0.030343, 0.135989]),
        (0, 0.15, 0.0, [0.590529, 0.252401, 0.025305, 0.131765]),  # the negative image score is pushed down
        (0, 0.15, 0.4, [0.393208, 0.374031, 0.037500, 0.195261]),
        (2, 0.15, 0.4, [0.190501, 0.544384, 0.054579, 0.210536]),  # not shift-invariant: the raw scores count
        (-3, 0.15, 0.4, [0.740429, 0.135264, 0.013561, 0.110745]),
    ],
)
def test_worked_row(shift, image, system, expected):
    weights = scaled_weights([2.0 + shift, 1.0 + shift, -1.0 + shift, 0.5 + shift], image, system)
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_the_cache_keeps_the_unscaled_keys():
    model, inputs = build("qwen3_vl"), prompts("qwen3_vl")
    with torch.no_grad():
        with ScoreScaling(model, 0.0, 0.9):
            scaled = model(**inputs, use_cache=True)
        plain = model(**inputs, use_cache=True)
    first, second = scaled.past_key_values.layers[0].keys, plain.past_key_values.layers[0].keys
    assert torch.equal(first, second) and not torch.equal(scaled.logits, plain.logits)


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma2"])
def test_nothing_scaled_is_bit_equal(family):
    model, inputs = build(family), prompts(family)
    plain = generate(model, inputs)
    with ScoreScaling(model, image=0.0, system=0.0):
        assert all(torch.equal(*pair) for pair in zip(generate(model, inputs), plain, strict=True))
    with ScoreScaling(model, image=0.5, system=0.5):
        generate(model, inputs)
    assert all(torch.equal(*pair) for pair in zip(generate(model, inputs), plain, strict=True))


def test_left_padding_changes_nothing():
    inputs = prompts("qwen2_5_vl", sizes=((16, 24),), text_lengths=(5,))
    padded = dict(inputs)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        padded[name] = nn.functional.pad(inputs[name], (3, 0))
    model = build("qwen2_5_vl")
    with ScoreScaling(model, image=0.5, system=0.4):
        results = [generate(model, case)[1] for case in (inputs, padded)]
    assert torch.allclose(*results, atol=1e-5)
