"""What is captured equals the eager kernel's weights: every family, situation and kernel, and in training."""

import pytest
import torch
from attention.reference import cast, eager_weights, groups_of, largest_difference, masses_of, read
from peft import LoraConfig, get_peft_model
from tiny_models import FAMILIES, IMAGE, KERNELS, TEXT_MODELS, batch, build
from torch import nn

from sayo.attention import AttentionCapture, AttentionNotCaptured
from sayo.attention.captured import read_layer
from sayo.attention.masks import RowMask, packed_documents

ROWS = slice(-7, None)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "internvl", "mistral", "paligemma", "smolvlm"])
def test_flex_attention(family):
    """Windows, bidirectional images and soft-capping (which sdpa does not do), where transformers allows it.

    The kernel runs uncompiled: its inputs and numbers are the same, and torch compiles it for minutes on a CPU.
    """
    inputs = batch(family)
    groups = groups_of(inputs["input_ids"])
    with torch.compiler.set_stance("force_eager"):
        capture, reading = read(build(family, "flex_attention"), inputs, groups)
    expected = masses_of(eager_weights(family, inputs, capture.layers), groups)
    assert largest_difference(reading, expected, inputs) <= 1e-5


@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("decode", [False, True])
def test_flash_mask_format(window, padding_side, decode):
    """Flash kernels get a 2-D mask and apply causality and the window themselves; so does the reading."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, heads, 12, 8, generator=generator) for heads in (4, 2))
    query = query[:, :, -1:] if decode else query
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, : 4 if padding_side == "left" else 0] = False
    real[1, 12 - (3 if padding_side == "right" else 0) :] = False
    position, keys = torch.arange(12)[-query.shape[2] :, None], torch.arange(12)
    seen = (keys <= position) & (keys > position - (window or 12)) & real[:, None, None]
    scores = query @ key.repeat_interleave(2, dim=1).transpose(2, 3) / 8**0.5
    expected = scores.masked_fill(~seen, -torch.inf).softmax(-1)  # a row of padding is NaN and not compared
    weights = torch.eye(12).expand(2, -1, -1)
    masses, _ = read_layer(
        nn.Identity(), query, key, real, "flash_attention_2", torch.arange(query.shape[2]), weights,
        options={"per_head": True}, sliding_window=window, is_causal=True,
    )  # fmt: skip
    sample = slice(None) if not decode or padding_side == "left" else slice(0, 1)
    compare = real[sample, None, -query.shape[2] :, None]
    assert (masses - expected)[sample].abs().where(compare, 0).max() <= 1e-6


def test_flash_mask_of_a_packed_row():
    """Without a mask, position ids that start over mean several sequences in one row to flash kernels."""
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    ends = torch.tensor([0, 3, 7], dtype=torch.int32)
    for kwargs in ({"position_ids": positions}, {"cu_seq_lens_k": ends}):
        documents = packed_documents("flash_attention_2", 7, kwargs)
        mask = RowMask(None, 7, 7, kernel="flash_attention_2", documents=documents)
        _, partial, stop, seen = mask.block(0, torch.tensor([4]), torch.device("cpu"))
        assert (partial + seen[0, 0].nonzero()[:, 0]).tolist() == [3, 4]
        assert stop == 5
    assert packed_documents("sdpa", 7, {"position_ids": positions}) is None
    with pytest.raises(AttentionNotCaptured, match="does not know the attention mask format"):
        RowMask(torch.ones(2, 3, 4), 4, 4)


def test_hidden_rows_leave_the_gradients_of_others_alone():
    """A row that a mask of -inf hides fully, with and without sinks."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, heads, 4, 8, generator=generator, requires_grad=True) for heads in (4, 2))
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1, :] = -torch.inf
    sinks = torch.zeros(4, requires_grad=True)
    for options in ({}, {"s_aux": sinks}):
        masses, _ = read_layer(
            nn.Identity(), query, key, mask, "eager", torch.arange(4), torch.eye(4)[None], options={}, **options
        )  # fmt: skip
        assert torch.isfinite(masses).all()
        wanted = [query, key, *options.values()]
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(masses.square().sum(), wanted))


@pytest.mark.parametrize("checkpoints", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "gemma3", "gpt_oss"])
def test_gradient_of_a_mass(family, checkpoints):
    """The gradient with respect to every q_proj weight is that through the eager weights."""
    inputs = batch(family)
    group = groups_of(inputs["input_ids"])["region"] if family in FAMILIES else inputs["input_ids"] % 3
    gradients = []
    for kernel in ("eager", None):
        model = build(family, kernel).requires_grad_(True).train(checkpoints)
        if kernel is not None:
            weights = model(**inputs, output_attentions=True).attentions[-1].mean(1)
            torch.einsum("bqk,bk->bq", weights, group.float())[:, ROWS].square().sum().backward()
        else:
            if checkpoints:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            capture = AttentionCapture(model, byte_budget=2000)
            with capture.reading(ROWS, {"some": group.float()}, gradients=True) as captured:
                model(**inputs)
                captured.masses["some"].square().sum().backward()
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if "q_proj" in name and "visual" not in name}
        )
    expected, actual = gradients
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    for name, gradient in expected.items():
        assert torch.allclose(actual[name], gradient, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("backward_inside", [True, False])
def test_gradient_checkpointing(use_reentrant, backward_inside):
    """The model's gradients stay what they were, and the reading too."""
    inputs = batch("qwen3_vl")
    groups = groups_of(inputs["input_ids"])
    gradients, masses = [], []
    for reads in (False, True):
        model = build("qwen3_vl").train()
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
        if not reads:
            model(**inputs, labels=inputs["input_ids"]).loss.backward()
        else:
            with AttentionCapture(model, "all").reading(ROWS, groups) as reading:
                loss = model(**inputs, labels=inputs["input_ids"]).loss
                if backward_inside:
                    loss.backward()
            if not backward_inside:
                loss.backward()
            masses.append(reading.masses["image"])
        gradients.append(model.get_input_embeddings().weight.grad)
    assert torch.equal(*gradients)
    if use_reentrant:
        with pytest.raises(AttentionNotCaptured, match="use_reentrant"):
            with AttentionCapture(model).reading(ROWS, groups, gradients=True):
                model(**inputs)
    _, plain = read(build("qwen3_vl").train(), inputs, groups)
    assert torch.allclose(masses[0], plain.masses["image"].mean(2), atol=1e-6)


def test_autocast_does_not_round_the_reading():
    inputs = batch("qwen2_5_vl")
    groups = groups_of(inputs["input_ids"])
    model = build("qwen2_5_vl", sharpness=5.0)
    with torch.no_grad(), AttentionCapture(model, 0).reading(ROWS, groups) as reading:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(**inputs)
    assert torch.allclose(reading.masses["everything"], torch.ones(()), atol=1e-6)


@pytest.mark.parametrize("captured", ["before", "after"])
def test_lora(captured):
    """The adapter is part of what is read, whether the capture was made before it or after."""
    inputs, captures = batch("qwen3_vl"), []
    groups = groups_of(inputs["input_ids"])

    def adapted(kernel):
        model = build("qwen3_vl", kernel)
        captures.append(AttentionCapture(model, layers="all", per_head=True))
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        return get_peft_model(model, config).eval()

    model = adapted("sdpa")
    capture = captures[0] if captured == "before" else AttentionCapture(model, layers="all", per_head=True)
    with torch.no_grad(), capture.reading(ROWS, groups) as reading:
        model(**inputs)
    with torch.no_grad():
        weights = torch.stack(adapted("eager")(**inputs, output_attentions=True).attentions, dim=1)
    assert largest_difference(reading, masses_of(weights, groups), inputs) <= 1e-5
    _, base = read(build("qwen3_vl"), inputs, groups)
    assert (reading.masses["image"] - base.masses["image"]).abs().max() > 0.01


def test_hybrid_decoder():
    model, inputs = build("qwen3_5"), batch("qwen3_5")
    with pytest.raises(ValueError, match=r"Layer 0 has no attention weights .* Readable: \[3\]"):
        AttentionCapture(model, layers=0)
    groups = groups_of(inputs["input_ids"])
    capture, reading = read(model, inputs, groups)
    assert capture.layers == (3,)
    with torch.no_grad():
        weights = build("qwen3_5", "eager")(**inputs, output_attentions=True).attentions[0][:, None]
    assert largest_difference(reading, masses_of(weights, groups), inputs) <= 1e-5


def test_chunks_of_a_batch_are_one_reading():
    """TRL's scoring pass runs the batch in pieces; here each with its own backward pass in between."""
    inputs = batch("llava", sizes=((16, 16),) * 3, text_lengths=(4,) * 3)
    groups = groups_of(inputs["input_ids"])
    for trains in (False, True):
        model = build("llava").train(trains)
        if trains:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        capture = AttentionCapture(model)
        with torch.set_grad_enabled(trains):
            with capture.reading(ROWS, groups) as whole:
                model(**inputs)
            with capture.reading(ROWS, groups) as pieces:
                for start, stop in ((0, 2), (2, 3)):
                    logits = model(**{name: value[start:stop] for name, value in inputs.items()}).logits
                    if trains:
                        logits.sum().backward()
        for name in groups:
            assert torch.allclose(whole.masses[name], pieces.masses[name], atol=1e-6)


SITUATIONS = {
    "left padding, two image sizes": {},
    "right padding": {"padding_side": "right"},
    "no padding": {"sizes": ((32, 16), (32, 16)), "text_lengths": (4, 4)},
    "two images a sample": {"images": 2},
    "no image": {"images": 0},
    "one sample": {"sizes": ((24, 32),), "text_lengths": (7,)},
}
ALL = [*FAMILIES, *TEXT_MODELS]
CASES = [
    (family, situation)
    for family in ALL
    for situation, options in SITUATIONS.items()
    if "images" not in options or family in FAMILIES
]


@pytest.mark.parametrize(("family", "situation"), CASES)
def test_equals_eager(family, situation):
    inputs = batch(family, **SITUATIONS[situation])
    groups, expected = groups_of(inputs["input_ids"]), None
    for kernel in KERNELS[family]:
        model = build(family, kernel)
        for rows in (ROWS, slice(None)):  # the completion's, and all: an image's own rows may look ahead
            capture, reading = read(model, inputs, groups, rows, byte_budget=2000)
            expected = expected or masses_of(eager_weights(family, inputs, capture.layers), groups)
            assert largest_difference(reading, expected, inputs, rows) <= 1e-5, kernel
        if family not in ("gpt_oss", "inkling2_text"):  # their sinks take a share of their own
            everything = reading.masses["everything"].where(inputs["attention_mask"][:, None, None].bool(), 1)
            assert torch.allclose(everything, torch.ones_like(everything), atol=1e-5)


@pytest.mark.parametrize("family", [name for name in ALL if name != "inkling2_text"])  # its router stays in float32
def test_bfloat16(family):
    # Eager rounds every score and weight to bfloat16 and the capture does not: the difference is eager's own error,
    # so attention is less sharp here and heads are averaged, as in every trace.
    inputs = batch(family)
    groups = groups_of(inputs["input_ids"])
    for kernel in KERNELS[family]:
        model = build(family, kernel, sharpness=5.0).bfloat16()
        capture = AttentionCapture(model, layers=0)
        with torch.no_grad(), capture.reading(ROWS, groups) as reading:
            model(**cast(inputs, torch.bfloat16))
        weights = eager_weights(family, inputs, capture.layers, torch.bfloat16, sharpness=5.0).mean(2)
        for name, masses in reading.masses.items():  # left padding: the completion's rows are all real
            expected = torch.einsum("blqk,bk->blq", weights, groups[name].float())[..., ROWS]
            assert (masses - expected).abs().max() <= 2e-3, (kernel, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_rows_and_maps(family):
    inputs = batch(family)
    model, length = build(family), inputs["input_ids"].shape[1]
    groups = groups_of(inputs["input_ids"])
    rows = torch.tensor([[length - 1, length - 4], [length - 3, length - 2]])
    index = torch.stack([(ids == IMAGE).nonzero()[:4, 0] for ids in inputs["input_ids"]])
    capture = AttentionCapture(model, layers=[1, -1])
    with torch.no_grad(), capture.reading(rows, groups, index) as reading:
        model(**inputs)
    weights = eager_weights(family, inputs, capture.layers).mean(2)
    for sample in range(2):
        read_rows = weights[sample][:, rows[sample]]
        for name, masses in reading.masses.items():
            assert torch.allclose(masses[sample], read_rows @ groups[name][sample].float(), atol=1e-5)
        assert torch.allclose(reading.maps[sample], read_rows[..., index[sample]], atol=1e-5)
