"""AVAR's score scaling inside any kernel: the raw scores, before mask and softmax."""

import pytest
import torch
from steering.reference import generate, prompts, reference_logits
from tiny_models import IMAGE, build
from torch import nn

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
