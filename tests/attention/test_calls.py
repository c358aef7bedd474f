"""The notebook API: `with AttentionCapture(model) as capture`, then `capture.trace(...)`."""

import itertools

import numpy as np
import pytest
import torch
from attention.reference import eager_weights
from peft import LoraConfig, get_peft_model
from tiny_models import EOS, FAMILIES, IMAGE, PAD, VIDEO, VISION_END, batch, build, prompts, teacher_forced

from sayo.attention import AttentionCapture, AttentionNotCaptured

NEW = 8


def sample(model, inputs, seed=0, **options):
    torch.manual_seed(seed)
    options = {"do_sample": True, "suppress_tokens": [IMAGE], "max_new_tokens": NEW, **options}
    return model.generate(**inputs, **options)


OPTIONS = ({"use_cache": False}, {"cache_implementation": "static"}, {"do_sample": False}, {"max_new_tokens": 1})
CASES = [(family, {}) for family in FAMILIES] + list(itertools.product(("llava", "gemma3"), OPTIONS))


@pytest.mark.parametrize(("family", "options"), CASES, ids=str)
def test_generate_equals_eager(family, options):
    """Prefill and decode steps with a cache (or without) against one eager forward over what was sampled."""
    model, inputs = build(family), prompts(family)
    prompt_length = inputs["input_ids"].shape[1]
    with AttentionCapture(model, layers="all", maps=True) as capture:
        sequences = sample(model, inputs, eos_token_id=None, pad_token_id=PAD, disable_compile=True, **options)
    traces = capture.trace(sequences, eos_token_id=EOS)
    full = teacher_forced(family, inputs, sequences)
    weights = eager_weights(family, full, capture.layers).mean(2)[:, :, prompt_length - 1 : -1]
    image = inputs["input_ids"] == IMAGE
    for row, trace in enumerate(traces):
        length = len(trace)
        own = weights[row, :, :length]
        expected = own[..., :prompt_length][..., image[row]].numpy()
        assert np.abs(trace.mass("image", "deciding") - expected.sum(-1)).max() <= 1e-5
        assert np.abs(trace.map("deciding") - expected).max() <= 1e-5
        assert np.abs(trace.mass("response", "deciding") - own[..., prompt_length:].sum(-1).numpy()).max() <= 1e-5
        parts = trace.mass("image", "deciding") + trace.mass("text", "deciding")
        assert np.abs(parts - 1).max() <= 1e-5  # every key is one or the other
        assert trace.sizes["image"] == image[row].sum()


@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "gemma3"])
def test_forward_holds_both_readings(family):
    model, inputs = build(family), batch(family, completion=NEW)
    prompt_length = inputs["input_ids"].shape[1] - NEW
    with torch.no_grad(), AttentionCapture(model, layers="all", maps=True) as capture:
        logits = model(**inputs).logits
    with torch.no_grad(), AttentionCapture(model, layers="all") as kept:
        model(**inputs, logits_to_keep=NEW + 1)
    log_probs = logits[:, prompt_length - 1 : -1].log_softmax(-1)
    entropies = -(log_probs.exp() * log_probs).sum(-1).numpy()
    weights = eager_weights(family, inputs, capture.layers).mean(2)
    image = inputs["input_ids"] == IMAGE
    traces = capture.trace(prompt_length=prompt_length)
    for row, (trace, again) in enumerate(zip(traces, kept.trace(prompt_length=prompt_length), strict=True)):
        expected = weights[row, :, prompt_length - 1 :, image[row]].numpy()
        assert np.abs(trace.map("of_token") - expected[:, 1:]).max() <= 1e-5
        assert np.abs(trace.mass("image", "deciding") - expected[:, :-1].sum(-1)).max() <= 1e-5
        assert np.abs(trace.entropy - entropies[row]).max() <= 1e-4
        assert np.allclose(trace.masses["text"], again.masses["text"], atol=1e-6)


def test_generate_and_forward_agree_on_entropy():
    model, inputs = build("qwen3_vl"), prompts("qwen3_vl")
    with AttentionCapture(model, temperature=0.7) as capture:
        output = sample(model, inputs, return_dict_in_generate=True)
    full = teacher_forced("qwen3_vl", inputs, output.sequences)
    with torch.no_grad(), AttentionCapture(model, temperature=0.7) as forward:
        model(**full)
    forward = forward.trace(prompt_length=inputs["input_ids"].shape[1])
    for generated, trace in zip(capture.trace(output), forward, strict=True):
        assert np.abs(generated.entropy - trace.entropy[: len(generated)]).max() <= 1e-4


def test_end_of_sequence_ends_a_trace():
    model, inputs = get_peft_model(build("llava"), LoraConfig(r=4, target_modules=["q_proj"])), prompts("llava")
    with AttentionCapture(model) as capture:
        sequences = sample(model, inputs, eos_token_id=None, pad_token_id=PAD)
        end = int(sequences[0, -4])  # some token of the first completion is declared its end
        first, second = capture.trace(sequences, eos_token_id=end)
    completion = sequences[0, -NEW:].tolist()
    assert len(first) == completion.index(end) + 1
    assert first.masses["image"].shape == (1, len(first))
    assert first.sizes["response"] == len(first)
    assert len(second) <= NEW


@pytest.mark.parametrize("n", [1, 3])
def test_samples_belong_to_prompts(n):
    """Regions are given per prompt, also where several sequences are sampled of each."""
    model, inputs = build("qwen3_vl"), prompts("qwen3_vl")
    samples = [
        {"region_tokens": [0, 2], "region_weights": [1.0, 0.5], "num_visual_tokens": [8]},
        {"region_tokens": None, "region_weights": None},
    ]
    own = {"start": torch.zeros(inputs["input_ids"].shape)}
    own["start"][:, -1] = 1
    with AttentionCapture(model, samples=samples, groups=own, maps=True) as capture:
        sequences = sample(model, inputs, num_return_sequences=n)
    traces = capture.trace(sequences)
    assert len(traces) == 2 * n
    assert [trace.has_region for trace in traces] == [True] * n + [False] * n
    for trace in traces[:n]:
        expected = trace.maps[..., 0] + 0.5 * trace.maps[..., 2]
        assert np.allclose(trace.mass("region", "deciding"), expected, atol=1e-6)
        assert trace.mass("start", "deciding").min() > 0


def test_own_row_of_the_last_token():
    model, inputs = build("llava"), prompts("llava")
    with AttentionCapture(model, maps=True) as capture:
        sequences = sample(model, inputs)
    trace = capture.trace(sequences)[0]
    for read in (lambda: trace.mass("image", "of_token"), lambda: trace.map("of_token")):
        with pytest.raises(ValueError, match="generate never runs"):
            read()


def test_beams():
    model, inputs = build("llava"), prompts("llava")
    with AttentionCapture(model) as capture:
        output = model.generate(**inputs, num_beams=3, num_return_sequences=3, max_new_tokens=NEW, do_sample=False)
    with pytest.raises(AttentionNotCaptured, match="num_beams=1"):
        capture.trace(output)


def test_an_earlier_call_and_the_output_of_a_forward_are_named():
    model, inputs = build("llava"), prompts("llava")
    with AttentionCapture(model) as capture:
        first = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        sample(model, inputs, max_new_tokens=5, suppress_tokens=first[:, -3:].flatten().tolist())
    with pytest.raises(AttentionNotCaptured, match="`generate` ran again"):
        capture.trace(first)
    with torch.no_grad(), AttentionCapture(model) as capture:
        output = model(**inputs)
    with pytest.raises(AttentionNotCaptured, match="output of a plain forward"):
        capture.trace(output)
    shown = repr(capture.trace(prompt_length=inputs["input_ids"].shape[1] - 2)[0])
    assert shown.startswith("AttentionTrace(2 tokens, layers [") and "image (" in shown and "array" not in shown


def test_prompt_length_is_asked_for():
    model, inputs = build("llava"), batch("llava")
    with torch.no_grad(), AttentionCapture(model) as capture:
        model(**inputs, logits_to_keep=3)
    with pytest.raises(ValueError, match="where the completions start"):
        capture.trace()
    with pytest.raises(AttentionNotCaptured, match="were not read: with logits_to_keep"):
        capture.trace(prompt_length=inputs["input_ids"].shape[1] - 5)
    assert len(capture.trace(prompt_length=inputs["input_ids"].shape[1] - 2)[0]) == 2


def test_captures_that_cannot_work():
    model, inputs = build("llava"), prompts("llava")
    with pytest.raises(AttentionNotCaptured, match="Open the capture first"):
        AttentionCapture(model).trace()
    with pytest.raises(AttentionNotCaptured, match="No model call was seen"), AttentionCapture(model):
        pass
    with pytest.raises(ValueError, match="averaged over heads"), AttentionCapture(model, per_head=True):
        pass
    with pytest.raises(ValueError, match="3 samples"), AttentionCapture(model, samples=[{}] * 3):
        sample(model, inputs)
    with torch.no_grad():
        cache = model(**inputs).past_key_values
        with pytest.raises(AttentionNotCaptured, match="open it before the prompt is run"), AttentionCapture(model):
            model(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache)


def restarted(model, capture, inputs):
    """A forward over the prompts, then one over prompts and completions."""
    full, prompt = batch("llava", completion=NEW), inputs["input_ids"].shape[1]
    with torch.no_grad():
        model(**{name: x[:, :prompt] if x.dim() == 2 else x for name, x in full.items()})
        model(**full)
    return capture.trace(prompt_length=prompt), full, prompt


def generated(model, capture, inputs, **options):
    sequences = sample(model, inputs, eos_token_id=None, pad_token_id=PAD, **options)
    return capture.trace(sequences), teacher_forced("llava", inputs, sequences), inputs["input_ids"].shape[1]


def continued(model, capture, inputs, **options):
    return generated(model, capture, generated(model, capture, inputs, **options)[1], **options)


def continued_without_cache(*args):
    return continued(*args, use_cache=False)


def second_turn(model, capture, inputs):
    """A conversation that goes on with a second picture."""
    both = prompts("llava", images=2, text_lengths=(4, 4))
    cut = int((both["input_ids"][0] == VISION_END).nonzero()[0]) + 1
    first = {name: x[:, :cut] if x.dim() == 2 else x[::2] for name, x in both.items()}
    _, full, _ = generated(model, capture, first)
    words = {name: torch.cat([full[name], both[name][:, cut:]], 1) for name in ("input_ids", "attention_mask")}
    return generated(model, capture, both | words)


def prefix_cache(model, capture, inputs):
    """The cache holds all but the last token of the prompts."""
    inputs = prompts("llava", text_lengths=(4, 4))
    picture = {"pixel_values": inputs["pixel_values"]}
    with torch.no_grad():
        cache = model(**{name: x[:, :-1] if x.dim() == 2 else x for name, x in inputs.items()}).past_key_values
    del inputs["pixel_values"]
    traces, full, prompt = generated(model, capture, inputs, past_key_values=cache)
    return traces, full | picture, prompt


@pytest.mark.parametrize("calls", [restarted, continued, continued_without_cache, second_turn, prefix_cache])
def test_several_calls(calls):
    """The last one counts, whole, whatever ran before it."""
    model = build("llava")
    with AttentionCapture(model, layers="all", maps=True) as capture:
        traces, full, prompt = calls(model, capture, prompts("llava"))
    weights = eager_weights("llava", full, capture.layers).mean(2)[:, :, prompt - 1 :]
    for row, trace in enumerate(traces):
        image, own = full["input_ids"][row] == IMAGE, weights[row, :, : trace.maps.shape[1]]
        assert trace.sizes["image"] == image.sum() and len(trace) == NEW
        assert np.abs(trace.maps - own[..., image].numpy()).max() <= 1e-5
        if calls is not restarted:
            assert np.abs(trace.masses["response"] - own[..., prompt:].sum(-1).numpy()).max() <= 1e-5


def test_prompt_in_pieces():
    """A chunked prefill, here of text alone: transformers splits no raw pictures."""
    model = build("mistral", sliding_window=None)
    inputs = prompts("mistral", text_lengths=(9, 6))
    traces = []
    for options in ({}, {"prefill_chunk_size": 5}):
        with AttentionCapture(model, layers="all", groups={"late": inputs["input_ids"] % 2}) as capture:
            sequences = sample(model, inputs, suppress_tokens=None, do_sample=False, eos_token_id=None, **options)
        traces.append(capture.trace(sequences))
    for whole, pieces in zip(*traces, strict=True):
        assert whole.sizes == pieces.sizes and sorted(whole.masses) == ["late", "response", "text"]
        assert np.allclose(whole.mass("text", "deciding"), 1, atol=1e-5)
        for name, masses in whole.masses.items():
            assert np.allclose(masses, pieces.masses[name], atol=1e-5), name


def test_layers_cut_to_the_kept_rows():
    """Gemma 4 runs the layers that share keys for the rows of `logits_to_keep` alone."""
    model, inputs = build("gemma4_text"), prompts("gemma4_text")
    with AttentionCapture(model, layers="all") as capture:
        sequences = sample(model, inputs, suppress_tokens=None, eos_token_id=None, pad_token_id=PAD)
    full = teacher_forced("gemma4_text", inputs, sequences)
    prompt = inputs["input_ids"].shape[1]
    late = (full["input_ids"] % 2).float()
    weights = eager_weights("gemma4_text", full, capture.layers).mean(2)
    for row, trace in enumerate(capture.trace(sequences)):
        expected = weights[row, :, prompt - 1 : -1, prompt:].sum(-1).numpy()
        assert np.abs(trace.mass("response", "deciding") - expected).max() <= 1e-5
    with torch.no_grad(), capture.reading(slice(prompt - 1, None), {"late": late}) as reading:
        model(**full, logits_to_keep=NEW + 1)
    expected = torch.einsum("blqk,bk->blq", weights, late)[:, :, prompt - 1 :]
    assert (reading.masses["late"] - expected).abs().max() <= 1e-5
    with pytest.raises(AttentionNotCaptured, match=r"computes only the last 3 rows .* logits_to_keep"):
        with torch.no_grad(), capture.reading(slice(prompt - 1, None), {"late": late}):
            model(**full, logits_to_keep=3)


def test_video_tokens_are_visual():
    model, inputs = build("qwen3_vl"), batch("qwen3_vl", images=0)
    inputs["input_ids"][:, 3:5] = VIDEO
    with torch.no_grad(), AttentionCapture(model) as capture:
        model.model.language_model.embed_tokens.weight.data[VIDEO] = 1.0
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    assert [trace.sizes["image"] for trace in capture.trace(prompt_length=6)] == [2, 2]
