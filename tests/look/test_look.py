"""A look holds the model's own attention, with or without the cache of generation, for one image or several."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from look.shapes import QUESTION

from sayo.attention.groups import key_groups
from sayo.evaluation.rollouts import processor_inputs
from sayo.look import look_at
from sayo.look.scoring import Generated, generate, read_response


def test_shares_are_parts_of_all_attention(look) -> None:
    rows = len(look.tokens) + 1
    assert look.maps.shape == (4, rows, 24) and look.head_maps.shape == (4, 4, rows, 24)
    np.testing.assert_allclose(look.maps.sum(axis=-1), look.shares["image"], rtol=1e-5)
    total = sum(look.shares[name] for name in ("image", "question", "response", "prefix"))
    assert (total > 0).all() and (total < 1).all()
    assert (look.shares["response"][:, 0] == 0).all()  # the row that decides the first token sees no response yet
    assert (look.shares["response"][:, 1:] > 0).all()
    assert (look.entropy > 0).all() and len(look.entropy) == len(look.tokens)


def test_heads_average_to_the_layer(look) -> None:
    np.testing.assert_allclose(look.head_maps.mean(axis=1), look.maps, rtol=1e-5)
    np.testing.assert_allclose(look.head_shares["region"].mean(axis=1), look.shares["region"], rtol=1e-5)


def test_target_is_the_covered_part_of_the_map(look) -> None:
    # 16,16,48,40 on cells of 16 x 16: tokens 7 and 8 fully, 13 and 14 by half.
    expected = look.maps[..., [7, 8]].sum(axis=-1) + 0.5 * look.maps[..., [13, 14]].sum(axis=-1)
    np.testing.assert_allclose(look.shares["region"], expected, rtol=1e-5)
    assert look.region_size == pytest.approx(3)


@pytest.mark.parametrize("head_values", [0, 3_000, 10**9], ids=["no heads", "heads of some layers", "all heads"])
def test_reading_on_top_of_the_cache_equals_reading_everything(policy, picture, monkeypatch, head_values) -> None:
    monkeypatch.setattr("sayo.look.scoring.HEAD_VALUES", head_values)
    model, processor = policy
    inputs = processor_inputs(
        processor, [{"prompt": [{"role": "user", "content": QUESTION}], "images": [picture]}], "cpu"
    )
    made = generate(model, processor, inputs, 12, 0.0)
    ids = torch.cat([inputs["input_ids"], made.ids], dim=1)
    groups, image_index = key_groups(ids, made.ids.shape[1], [{}], model.config.image_token_id)
    with_cache = read_response(model, inputs, copy.deepcopy(made), groups, image_index, "all", 1.0)
    everything = read_response(model, inputs, Generated(made.ids, None), groups, image_index, "all", 1.0)
    assert with_cache["head_layers"] == everything["head_layers"]
    assert len(with_cache["head_layers"]) == {0: 0, 3_000: 2, 10**9: 4}[head_values]  # 4 heads x 13 rows x 24
    for name in ("entropy", "maps", "head_maps"):
        np.testing.assert_allclose(with_cache[name], everything[name], atol=2e-5)
    np.testing.assert_allclose(with_cache["shares"]["image"], everything["shares"]["image"], atol=2e-5)


def test_maps_are_the_attention_of_the_eager_kernel(policy, picture) -> None:
    model, processor = policy
    look = look_at(model, processor, [picture], QUESTION, response="The disc is red.")
    row = {"prompt": [{"role": "user", "content": QUESTION}], "images": [picture]}
    inputs = processor_inputs(processor, [row], "cpu")
    response = processor.tokenizer("The disc is red.", return_tensors="pt")["input_ids"]
    length = response.shape[1]
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    ids = torch.cat([inputs["input_ids"], response], dim=1)
    types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, length))
    arguments = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
    with torch.no_grad():
        attentions = torch.stack(eager(**arguments, output_attentions=True).attentions)[:, 0]
    image = (ids[0] == model.config.image_token_id).nonzero()[:, 0]
    expected = attentions[:, :, -length - 1 :][..., image]
    np.testing.assert_allclose(look.head_maps, expected.numpy(), atol=2e-5)
    words = processor.tokenizer(QUESTION)["input_ids"]
    start = next(i for i in range(ids.shape[1]) if ids[0, i : i + len(words)].tolist() == words)
    question = attentions[:, :, -length - 1 :, start : start + len(words)].sum(dim=-1).mean(dim=1)
    np.testing.assert_allclose(look.shares["question"], question.numpy(), atol=2e-5)
    assert look.tokens == ["The", " disc", " is", " red", "."]


def test_a_region_of_the_second_image(policy, picture) -> None:
    model, processor = policy
    other = picture.resize((64, 64))
    options = {"regions": [{"image": 1, "box": [0, 0, 16, 16]}], "response": "I see two"}
    look = look_at(model, processor, [picture, other], QUESTION, **options)
    assert look.image_size == 24 + 16 == look.maps.shape[-1]
    np.testing.assert_allclose(look.shares["region"], look.maps[..., 24], rtol=1e-5)


def test_without_a_box_there_is_no_target(policy, picture) -> None:
    look = look_at(*policy, [picture], QUESTION, response="red")
    assert "region" not in look.shares and not look.trace.has_region


def test_text_that_looks_like_an_image_stays_text(policy, picture) -> None:
    look = look_at(*policy, [picture], QUESTION, response="<|image_pad|> and <|im_end|>")
    assert "".join(look.tokens) == "<|image_pad|> and <|im_end|>"
    assert look.image_size == 24 and not any(look.special)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": [{"box": [40, 0, 10, 10]}]}, "reversed"),
        ({"regions": [{"box": [400, 400, 500, 500]}]}, "outside"),
        ({"regions": [{"image": 3, "box": [0, 0, 9, 9]}]}, "image 3"),
        ({"response": ""}, "no tokens"),
        ({"layers": 99}, "out of range"),
    ],
)
def test_mistakes_are_named(policy, picture, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        look_at(*policy, [picture], QUESTION, **{"response": "red", **options})


def test_no_image_is_an_error(policy) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        look_at(*policy, [], QUESTION)


@pytest.mark.parametrize("given", [False, True], ids=["sampled", "given"])
def test_no_array_has_the_square_of_the_sequence(policy, picture, given: bool) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            for tensor in output if isinstance(output, (tuple, list)) else [output]:
                self.numel = max(self.numel, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return output

    model, processor = policy
    question = QUESTION * 140  # 1,540 tokens: more than one block of scores (3 MiB) would hold squared
    row = {"prompt": [{"role": "user", "content": question}], "images": [picture]}
    inputs = processor_inputs(processor, [row], "cpu")
    made = generate(model, processor, inputs, 8, 0.0)
    ids = torch.cat([inputs["input_ids"], made.ids], dim=1)
    groups, image_index = key_groups(ids, made.ids.shape[1], [{}], model.config.image_token_id)
    with Largest() as largest:
        made = Generated(made.ids, None) if given else made
        read_response(model, inputs, made, groups, image_index, "all", 1.0)
    assert 0 < largest.numel < ids.shape[1] ** 2
