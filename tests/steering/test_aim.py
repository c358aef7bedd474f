"""VRGA's steering inside generate: exact, per sample, and gone afterwards."""

import pytest
import torch
from steering.reference import NEW, cells_of, expected_choice, generate, prompts, reference_logits
from tiny_models import IMAGE, build
from torch import nn
from transformers.modeling_utils import AttentionInterface

from sayo.attention import AttentionCapture, AttentionNotCaptured
from sayo.steering import AttentionSteering

TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids")
SINGLE_GRIDS = ["qwen3_vl", "qwen2_5_vl", "glm4v", "llava", "gemma3", "mistral3"]


def boosted(tokens, heads, prompt_length, gamma, hides=None):
    """A `change` for `reference_logits`: the weights of the heads on the tokens times `1 + gamma`, scaled back."""

    def change(layer, scores, weigh):
        weights = weigh(scores)
        keys = nn.functional.pad(tokens, (0, weights.shape[3] - tokens.shape[1])).float()
        factor = 1 + gamma * keys[:, None, None] * heads[:, layer, :, None, None]
        if hides is not None:
            hidden = nn.functional.pad(hides, (0, weights.shape[3] - hides.shape[1])).float()
            factor = factor * (1 - hidden[:, None, None] * heads[:, layer, :, None, None].float())
        factor = factor.expand_as(weights).clone()
        factor[:, :, :prompt_length] = 1
        return weights * factor / (weights * factor).sum(-1, keepdim=True)

    return change


@pytest.mark.parametrize("family", SINGLE_GRIDS)
@pytest.mark.parametrize("radius", [0, 1])
def test_equals_explicit_weights(monkeypatch, family, radius):
    model, inputs = build(family), prompts(family)
    with AttentionSteering(model, gamma=2.0, radius=radius, border_share=0.2, cells=cells_of(family)):
        sequences, logits = generate(model, inputs, max_new_tokens=14)  # gemma3's window is 16: the cache drops keys
    tokens, heads = expected_choice(family, inputs, radius, share=0.2)
    change = boosted(tokens, heads, inputs["input_ids"].shape[1], 2.0)
    assert (logits - reference_logits(monkeypatch, family, inputs, sequences, change)).abs().max() <= 1e-5
    plain = boosted(tokens, heads, inputs["input_ids"].shape[1], 0.0)
    assert (logits - reference_logits(monkeypatch, family, inputs, sequences, plain)).abs().max() > 1e-3


@pytest.mark.parametrize(("family", "seed"), [("qwen3_vl", 1), ("llava", 4)])
def test_hard_variant_hides_all_else(monkeypatch, family, seed):
    """The steered heads see of the image only what they are aimed at; a head that is not steered keeps all of it."""
    model, inputs = build(family), prompts(family, seed=seed)
    steering = AttentionSteering(model, variant="hard", radius=0, cells=cells_of(family))
    with steering:
        sequences, logits = generate(model, inputs)
        tokens, heads = steering._choice()
    assert tokens.any() and heads.any() and not heads.all()
    hides = (inputs["input_ids"] == IMAGE) & ~tokens & tokens.any(1, keepdim=True)
    change = boosted(tokens, heads, inputs["input_ids"].shape[1], 0.0, hides)
    assert (logits - reference_logits(monkeypatch, family, inputs, sequences, change)).abs().max() <= 1e-5


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_gated_heads_of_every_row(monkeypatch, family):
    model, inputs = build(family), prompts(family)
    prompt_length = inputs["input_ids"].shape[1]
    with AttentionSteering(model, heads="gated", radius=0, border_share=0.0, cells=cells_of(family)):
        sequences, logits = generate(model, inputs)
    tokens, _ = expected_choice(family, inputs)
    image = (inputs["input_ids"] == IMAGE).float()
    gates = []

    def change(layer, scores, weigh):
        weights = weigh(scores)
        visual = weights[..., :prompt_length] * image[:, None, None]
        focus = visual.sum(-1) / image.sum(-1)[:, None, None] * (weights > 0).sum(-1)
        entropy = -(visual * torch.log(visual + 1e-8)).sum(-1)
        gate = (focus > 0.6) & (focus > 0.2 * entropy)
        gate[:, :, :prompt_length] = False
        gates.append(gate[:, :, prompt_length:].float().mean())
        keys = nn.functional.pad(tokens, (0, weights.shape[3] - prompt_length)).float()
        factor = 1 + 0.5 * gate[..., None] * keys[:, None, None]
        return weights * factor / (weights * factor).sum(-1, keepdim=True)

    expected = reference_logits(monkeypatch, family, inputs, sequences, change)
    assert 0 < torch.stack(gates).mean() < 1
    assert (logits - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("family", "kernel", "images", "gamma"),
    [
        *(("qwen3_vl", kernel, 1, 0.0) for kernel in ("sdpa", "eager")),
        *(("gemma3", kernel, 1, 0.0) for kernel in ("sdpa", "eager")),
        ("llava", "sdpa", 1, 0.0),
        ("paligemma2", "eager", 1, 0.0),  # transformers has no sdpa for soft-capped scores
        ("qwen3_vl", "sdpa", 0, 1.0),
    ],
)
def test_without_gamma_or_without_images_it_is_bit_equal(family, kernel, images, gamma):
    model, inputs = build(family, kernel), prompts(family, images=images)
    with AttentionSteering(model, gamma=gamma, cells=cells_of(family) if images else None):
        steered = generate(model, inputs)
    assert all(torch.equal(*pair) for pair in zip(steered, generate(model, inputs), strict=True))


@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "internvl"])
def test_padding_and_the_rest_of_the_batch_change_nothing(family):
    model, inputs = build(family), prompts(family)
    with AttentionSteering(model, gamma=1.0, cells=cells_of(family)):
        sequences, together = generate(model, inputs)
    for row, cells in enumerate(cells_of(family)):
        with AttentionSteering(model, gamma=1.0, cells=[cells]):
            alone, logits = generate(model, sample_of(inputs, row))
        assert torch.equal(alone[0, -NEW:], sequences[row, -NEW:])
        assert (logits[0] - together[row]).abs().max() <= 1e-5


def sample_of(inputs, row):
    """One of two samples, without padding."""
    real = slice(int(inputs["attention_mask"][row].argmax()), None)
    tokens = {name: inputs[name][row : row + 1, real] for name in inputs if name in TOKENS}
    if "image_grid_thw" not in inputs:
        return {**tokens, "pixel_values": inputs["pixel_values"].chunk(2)[row]}
    grid = inputs["image_grid_thw"]
    pixels = inputs["pixel_values"].split(grid.prod(-1).tolist())[row]
    return {**tokens, "pixel_values": pixels, "image_grid_thw": grid[row : row + 1]}


def test_several_images():
    """Every image has its own grid: the border and the neighbourhoods of one never reach into the next."""
    model, inputs = build("qwen3_vl"), prompts("qwen3_vl", images=2)
    for cells in (None, cells_of("qwen3_vl", images=2)):
        steering = AttentionSteering(model, gamma=1.0, radius=1, cells=cells)
        with steering:
            _, logits = generate(model, inputs)
            assert [len(grids) for grids in steering._grids] == [2, 2]
            choice = steering._choice()[0]
        if cells is None:
            first, first_logits = choice, logits
    assert torch.equal(choice, first) and torch.equal(logits, first_logits)


def test_state_ends_with_the_call():
    model, inputs = build("qwen3_vl"), prompts("qwen3_vl")
    other = prompts("qwen3_vl", sizes=((32, 40), (48, 16)), text_lengths=(4, 6), seed=5)
    plain = generate(model, inputs)[1]
    stock = AttentionInterface._global_mapping["sdpa"]
    steering = AttentionSteering(model, gamma=2.0)
    with steering:
        first = generate(model, inputs)[1]
    with steering:
        generate(model, other)
        again = generate(model, inputs)[1]
    assert torch.equal(first, again) and not torch.equal(first, plain)
    with pytest.raises(RuntimeError, match="mine"), steering:
        generate(model, inputs)
        raise RuntimeError("mine")
    assert steering._prompt is None and not steering._maps and AttentionInterface._global_mapping["sdpa"] is stock
    assert not model._forward_hooks and not model._forward_pre_hooks
    assert torch.equal(generate(model, inputs)[1], plain)


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static", "disable_compile": True},
        {"prompt_lookup_num_tokens": 2},
        {"num_beams": 3},
        {"num_beams": 3, "use_cache": False},
    ],
)
def test_every_way_of_generating(options):
    """Without a cache, into a static one, several tokens at once, beams: the same tokens as row by row."""
    single = {"sizes": ((40, 32),), "text_lengths": (5,)} if "prompt_lookup_num_tokens" in options else {}
    model, inputs = build("qwen3_vl"), prompts("qwen3_vl", **single)
    tokens = []
    for arguments in (options, {"num_beams": options.get("num_beams", 1)}):
        with AttentionSteering(model, gamma=3.0):
            tokens.append(generate(model, inputs, **arguments)[0])
    assert torch.equal(*tokens)


def test_a_capture_reads_the_steered_attention():
    """Rows of the prompt stay as they are, later ones look at the chosen tokens more."""
    model, inputs = build("qwen3_vl"), prompts("qwen3_vl")
    steering = AttentionSteering(model, gamma=1.0, radius=0)
    with AttentionCapture(model, "all", maps=True) as capture:
        plain = capture.trace(generate(model, inputs, max_new_tokens=2)[0])[0].map("deciding")
    with AttentionCapture(model, "all", maps=True) as capture, steering:
        steered = capture.trace(generate(model, inputs, max_new_tokens=2)[0])[0].map("deciding")
        tokens, heads = steering._choice()
    assert (plain[:, 0] == steered[:, 0]).all()  # the row that chose the first token is the prompt's
    layer = int(heads[0].any(-1).nonzero()[0, 0])
    focus = tokens[0][inputs["input_ids"][0] == IMAGE].numpy()
    assert steered[layer, 1, focus].sum() > plain[layer, 1, focus].sum()


def test_wrong_use():
    model, inputs = build("qwen3_vl"), prompts("qwen3_vl")
    with pytest.raises(ValueError, match="variant"):
        AttentionSteering(model, variant="soft")
    with pytest.raises(ValueError, match="gamma"):
        AttentionSteering(model, gamma=-1.0)
    with pytest.raises(ValueError, match="attn_implementation='sdpa'"):
        with AttentionSteering(build("internvl", "flex_attention")):
            pass
    with pytest.raises(ValueError, match="cells="), AttentionSteering(build("llava")) as steering:
        generate(steering._model, prompts("llava"))
    with pytest.raises(ValueError, match="visual tokens"):
        with AttentionSteering(model, cells=cells_of("qwen3_vl", sizes=((40, 32), (64, 64)))):
            generate(model, inputs)
    cache = generate(model, inputs, max_new_tokens=2)[0]
    with torch.no_grad():
        past = model(**inputs, use_cache=True).past_key_values
    with pytest.raises(AttentionNotCaptured, match="before the prompt"), AttentionSteering(model):
        model(input_ids=cache[:, -1:], past_key_values=past)
    with pytest.raises(RuntimeError, match="already open"), AttentionSteering(model) as steering, steering:
        pass
