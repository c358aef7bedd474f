"""Attention that was not captured is an error with the way out, never a zero."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny_models import CONFIGS, FAMILIES, IMAGE, VISION_MODELS, batch, build, image_processor_class
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sayo.attention import AttentionCapture, AttentionNotCaptured
from sayo.attention.groups import key_groups
from sayo.attention.kernel import _eager_function
from sayo.attention.layers import LayerError, attention_layers
from sayo.errors import SayoError
from sayo.geometry import VisualLayout

UNKNOWN_LAYERS = (4, -5, "nine", 1.5, [], "3-9", True)


def capturing(model, groups=None, **options):
    groups = {"image": batch("qwen3_vl")["input_ids"] == IMAGE} if groups is None else groups
    return AttentionCapture(model, **options).reading(slice(-3, None), groups)


def bypassed(model):
    model.get_decoder().layers[-1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    return model  # as kernel patches and remote code do


@pytest.mark.parametrize(
    ("context", "runs", "message"),
    [
        (capturing, False, "read for 0 of 2 samples"),
        (capturing, build, "the model that the capture was made with"),  # another one ran
        (lambda model: capturing(model, {"image": torch.ones(2, 5)}), True, "groups of the whole sequence"),
        (lambda model: capturing(bypassed(model)), True, r"Layer 3 ran, but its kernel .* bypasses"),
        (lambda model: AttentionCapture(bypassed(model)), True, r"Layer 3 ran, but its kernel .* bypasses"),
    ],
    ids=["nothing ran", "another model", "another length", "bypassed kernel", "bypassed kernel, traces"],
)
def test_what_was_not_captured(context, runs, message):
    model = build("qwen3_vl")
    with pytest.raises(AttentionNotCaptured, match=message), torch.no_grad(), context(model):
        if runs:
            (build("qwen3_vl") if runs is build else model)(**batch("qwen3_vl"))


def blocks_for_layers(model):
    decoder = model.get_decoder()
    decoder.blocks = decoder._modules.pop("layers")
    return AttentionCapture(model)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: AttentionCapture(nn.Linear(2, 2)), "no transformers model"),
        (blocks_for_layers, "holds no layer with a `self_attn`"),
        (lambda model: capturing(model, {}).__enter__(), "at least one key group"),
        (lambda model: _eager_function(nn.Identity()), "attn_implementation='sdpa'"),
        *((lambda model, spec=spec: AttentionCapture(model, spec), "layer") for spec in UNKNOWN_LAYERS),
    ],
)
def test_what_has_no_attention_to_read(call, message):
    with pytest.raises(SayoError if "sdpa" in message else ValueError, match=f"(?i){message}"):
        call(build("qwen3_vl"))


def on_meta(model_type, **options):
    """A model of which only the parts are looked at."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **options))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llama4", VISION_MODELS["llama4"].text),
        ("blip-2", {"hidden_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16, "num_attention_heads": 2}),
    ],
)
def test_layers_behind_a_causal_model_inside(name, text):
    """`get_decoder` of these ends at a `*ForCausalLM`, which holds the decoder."""
    model = on_meta(name, text_config={**text, "num_hidden_layers": 3})
    assert sorted(attention_layers(model)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("last", (3,)), ("all", (0, 1, 2, 3)), (-2, (2,)), ("1-2", (1, 2)), (0.5, (2,)), ([0, "last", 0.5], (0, 2, 3))],
)
def test_layer_specs(spec, expected):
    assert AttentionCapture(build("qwen3_vl"), layers=spec).layers == expected


def test_the_kernel_is_given_back_and_the_output_untouched():
    model, inputs = build("qwen3_vl"), batch("qwen3_vl")
    stock = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with torch.no_grad():
        plain = model(**inputs).logits
        with capturing(model, layers="all"):
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not stock
            captured = model(**inputs).logits
    assert torch.equal(plain, captured)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is stock and model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"id": "a", "num_visual_tokens": [4]}, "holds 2 visual tokens, but the data were prepared for 4"),
        ({"region_tokens": [2], "region_weights": [1.0]}, "region token 2 lies outside"),
        (
            {"images": [Image.new("RGB", (4, 2))], "image_sizes": [[2, 4]]},
            r"\[\[4, 2\]\] .* prepared for \[\[2, 4\]\]",
        ),
        (
            {"images": [Image.new("RGB", (2, 4)), Image.new("RGB", (4, 2))], "image_sizes": [[4, 2], [2, 4]]},
            "in this order",
        ),
    ],
)
def test_prompts_that_are_not_the_prepared_ones(sample, message):
    with pytest.raises(AttentionNotCaptured, match=message):
        key_groups(torch.tensor([[5, IMAGE, IMAGE, 6, 7]]), 2, [sample], SimpleNamespace(image_token_id=IMAGE))


@pytest.mark.parametrize("swapped", [False, True])
def test_images_given_in_another_order_than_prepared(swapped):
    """As many tokens, but other shapes: seen in the grids where the rows themselves are unchanged."""
    model, inputs = build("qwen3_vl"), batch("qwen3_vl", sizes=((32, 16), (16, 32)))
    *_, processor, settings = FAMILIES["qwen3_vl"]
    fingerprint = VisualLayout.from_processor(image_processor_class(processor)(**settings), model.config).fingerprint
    samples = [{"processor_fingerprint": fingerprint, "image_sizes": [size]} for size in ([32, 16], [16, 32])]
    expected = pytest.raises(AttentionNotCaptured, match="8 x 4 patches") if swapped else nullcontext()
    with torch.no_grad(), expected, AttentionCapture(model, samples=samples[::-1] if swapped else samples):
        model(**inputs)


def test_vision_ids_in_a_completion_are_no_image():
    groups, index = key_groups(torch.tensor([[5, IMAGE, 6, IMAGE]]), 2, [{}], SimpleNamespace(image_token_id=IMAGE))
    assert groups["image"].tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert index.tolist() == [[1]]


SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("mllama", {"text_config": {**SMALL, "cross_attention_layers": [1]}}),  # one marker a picture
        ("idefics", {**SMALL, "vision_config": SMALL}),
        ("t5gemma2", {}),
        ("florence2", {}),
    ],
)
def test_pictures_outside_of_the_prompt(model_type, options):
    with pytest.raises(LayerError, match="looks at images in cross-attention"):
        AttentionCapture(on_meta(model_type, **options))


def test_linear_layers_named_self_attn():
    layers = [SimpleNamespace(self_attn=nn.Identity()) for _ in range(3)]
    model = build("mistral")
    model.get_decoder = lambda: SimpleNamespace(layers=layers)
    model.config.layer_types = ["linear_attention", "full_attention", "linear_attention"]  # MiniMax, GLM 5
    assert list(attention_layers(model)) == [1]


def run(model, inputs, **options):
    with torch.no_grad():
        model(**inputs, **options)


@pytest.mark.parametrize("context", [capturing, lambda model, _: AttentionCapture(model)], ids=["reading", "traces"])
def test_attention_that_is_a_difference(context):
    inputs = batch("mistral")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("diffllama", **CONFIGS["parts"]["text"]))
    with pytest.raises(AttentionNotCaptured, match=r"calls its kernel .*DiffLlama"):
        with context(model, {"even": inputs["input_ids"] % 2}):
            run(model, inputs)


def generate(model, inputs, **options):
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return model.generate(**words, max_new_tokens=3, do_sample=False, **options)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (lambda capture, model, inputs: run(model, inputs, return_dict=False), "leave return_dict=True"),
        (lambda capture, model, inputs: generate(model, inputs, guidance_scale=2.0), "classifier-free guidance"),
        (lambda capture, model, inputs: capture.trace({"request": generate(model, inputs)}), "`generate_batch` packs"),
        (lambda capture, model, inputs: run(model, inputs, attention_bonus=torch.ones(1)), "'attention_bonus', which"),
        (lambda capture, model, inputs: run(model, inputs) or capture.trace(inputs["input_ids"]), "start is unknown"),
        (lambda capture, model, inputs: run(model, inputs), "load it with its head"),
    ],
    ids=["tuples", "guidance", "generate_batch", "unknown argument", "sequences of another maker", "no head"],
)
def test_calls_that_cannot_be_traced(calls, message):
    model, inputs = build("mistral"), batch("mistral")
    model = model.model if "head" in message else model
    with pytest.raises(AttentionNotCaptured, match=message), AttentionCapture(model) as capture:
        calls(capture, model, inputs)


def test_captures_end_in_any_order():
    """As in two threads: what was opened second reads on when the first is closed."""
    inputs, stock = batch("mistral"), ALL_ATTENTION_FUNCTIONS["sdpa"]
    models = build("mistral"), build("mistral", seed=1)
    models = *models, models[0]
    captures = [AttentionCapture(model) for model in models]
    for capture in captures:
        capture.__enter__()
    for model, capture in zip(models, captures, strict=True):
        capture.trace(generate(model, inputs))
        capture.__exit__(None)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is stock
    assert not any("generate" in vars(model) for model in models)
