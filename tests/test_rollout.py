"""Rollouts: what is read is the model's own attention, with or without the cache; token texts are the response."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from sayo import rollout
from sayo.attention import AttentionCapture
from sayo.attention.spans import WordsNotFound
from sayo.rollout import (
    Completions,
    completion_mask,
    generate,
    given_response,
    processor_inputs,
    read_traces,
    rollout_groups,
    teacher_force,
    token_offsets,
    token_texts,
)
from sayo.toyworld.vocabulary import make_tokenizer

BYTE_LEVEL = make_tokenizer()


@pytest.fixture(scope="module")
def rows(toy_rows):
    return [toy_rows[index] for index in range(6)]


def test_a_batch_is_read_as_the_eager_kernel_attends(toy_policy, rows, toy):
    model, processor = toy_policy
    inputs = processor_inputs(processor, rows, "cpu")
    completions = generate(model, processor, inputs, max_new_tokens=5)
    captures = [AttentionCapture(model, maps=True), AttentionCapture(model, layers=0)]
    last, first = read_traces(model, processor, inputs, completions, rows, captures)
    eager = AutoModelForImageTextToText.from_pretrained(toy.policy, dtype=torch.float32, attn_implementation="eager")
    arguments = {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], completions.ids], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], completions.mask], dim=1),
        "mm_token_type_ids": torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, completions.ids.shape[1])),
    }
    with torch.no_grad():
        output = eager(**arguments, output_attentions=True)
    prompt = inputs["input_ids"].shape[1]
    entropy = torch.distributions.Categorical(logits=output.logits[:, prompt - 1 : -1]).entropy()
    for index, (trace, row) in enumerate(zip(last, rows, strict=True)):
        length = int(completions.mask[index].sum())
        weights = [layer[index].mean(dim=0)[prompt - 1 : prompt + length] for layer in output.attentions]
        cells = (arguments["input_ids"][index] == model.config.image_token_id).nonzero()[:, 0]
        expected = weights[-1][:, cells]
        assert np.allclose(trace.maps[0], expected, atol=1e-5)
        assert np.allclose(trace.masses["image"][0], expected.sum(-1), atol=1e-5)
        assert np.allclose(trace.masses["response"][0], weights[-1][:, prompt:].sum(-1), atol=1e-5)
        start = int(inputs["attention_mask"][index].argmax())
        assert np.allclose(trace.masses["prefix"][0], weights[-1][:, start : cells[0]].sum(-1), atol=1e-5)
        assert np.allclose(trace.entropy, entropy[index, :length], atol=1e-4)
        assert np.allclose(first[index].masses["image"][0], weights[0][:, cells].sum(-1), atol=1e-5)
        assert first[index].maps is None and first[index].layers == (0,)
        if row["has_region"]:
            tokens, shares = row["region_tokens"], torch.tensor(row["region_weights"])
            assert np.allclose(trace.masses["region"][0], expected[:, tokens] @ shares, atol=1e-5)


def test_the_question_is_a_group_of_its_words(toy_policy, rows, monkeypatch):
    model, processor = toy_policy
    inputs = processor_inputs(processor, rows, "cpu")
    completions = generate(model, processor, inputs, max_new_tokens=3)

    def words(index: int) -> str:
        groups, _ = rollout_groups(model, processor, inputs, completions, rows)
        return processor.tokenizer.decode(inputs["input_ids"][index][groups["question"][index, :-3] > 0])

    assert [words(index) for index in range(2)] == [row["prompt"][-1]["content"] for row in rows[:2]]

    def unfound(*_):
        raise WordsNotFound

    monkeypatch.setattr(rollout, "turn_groups", unfound)  # a template that writes the time of day, say
    assert all(rows[index]["prompt"][-1]["content"] in words(index) for index in range(2))
    assert "<|image_pad|>" not in words(0)


def test_reading_on_top_of_the_cache_equals_reading_everything(toy_policy, rows):
    model, processor = toy_policy
    inputs = processor_inputs(processor, rows[:1], "cpu")
    torch.manual_seed(0)
    completions = generate(model, processor, inputs, max_new_tokens=12, temperature=1.0, keep_cache=True)
    captures = [AttentionCapture(model, layers=[0, 1]), AttentionCapture(model, layers=[2], per_head=True, maps=True)]
    groups, image_index = rollout_groups(model, processor, inputs, completions, rows[:1])
    seen = []
    handle = model.register_forward_pre_hook(
        lambda *call: seen.append(call[2]["input_ids"].shape[1]), with_kwargs=True
    )
    (whole, entropy), *on_cache = [
        teacher_force(model, inputs, given, captures, groups, image_index)
        for given in (Completions(completions.ids, completions.mask), completions, completions)
    ]
    handle.remove()
    assert seen == [inputs["input_ids"].shape[1] + 12, 13, 13] and (entropy > 0).all()
    for cached, cached_entropy in on_cache:  # which can be read on twice
        assert torch.allclose(cached_entropy, entropy, atol=2e-5)
        for first, second in zip(cached, whole, strict=True):
            assert all(torch.allclose(first.masses[name], second.masses[name], atol=2e-5) for name in groups)
        assert cached[0].maps is None and torch.allclose(cached[1].maps, whole[1].maps, atol=2e-5)
        assert cached[1].maps.shape[2] == model.config.text_config.num_attention_heads


def test_no_distribution_of_all_tokens_at_once(toy_policy, rows, monkeypatch):
    """Entropies are computed in blocks of rows; how long the blocks are changes nothing."""
    model, processor = toy_policy
    inputs = processor_inputs(processor, rows[:3], "cpu")
    completions = generate(model, processor, inputs, max_new_tokens=7, temperature=1.0)
    read = partial(read_traces, model, processor, inputs, completions, rows[:3], [AttentionCapture(model)], 0.5)
    (expected,) = read()
    monkeypatch.setattr(rollout, "LOGIT_ROWS", 2)
    sizes, log_softmax = [], torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda x, dim: sizes.append(x.shape[:2].numel()) or log_softmax(x, dim))
    for trace, other in zip(*read(), expected, strict=True):
        assert np.allclose(trace.entropy, other.entropy)
    assert max(sizes) == 3


def test_a_given_response_stays_text(toy_policy):
    given_text = "<|image_pad|> and <|im_end|>"
    response = given_response(toy_policy[1].tokenizer, given_text, "cpu")
    assert "".join(token_texts(toy_policy[1].tokenizer, response.ids[0].tolist())) == given_text
    assert toy_policy[0].config.image_token_id not in response.ids and response.mask.all()
    with pytest.raises(ValueError, match="no tokens"):
        given_response(toy_policy[1].tokenizer, "", "cpu")


@pytest.mark.parametrize(
    ("ids", "ends", "expected"),
    [
        ([5, 2, 0, 0], [2, 3], [1, 1, 0, 0]),
        ([5, 6, 7, 8], 2, [1, 1, 1, 1]),
        ([2, 2, 5, 2], [2, 3], [1, 0, 0, 0]),
        ([5, 2], None, [1, 1]),
    ],
)
def test_completion_ends_at_the_first_eos(ids, ends, expected):
    assert completion_mask(torch.tensor([ids]), ends)[0].tolist() == expected


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Pieces with U+2581 for the space, and bytes for what has no piece, as Llama's and Gemma's tokenizers have."""
    vocabulary = ["<unk>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "▁cat", "s", "▁"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocabulary)}, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_joined_texts_are_the_text(text: str) -> None:
    ids = BYTE_LEVEL(text, split_special_tokens=True)["input_ids"]
    assert "".join(token_texts(BYTE_LEVEL, ids)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("é 🙂", ["", "é", " ", "", "", "", "🙂"]),  # a character of several tokens belongs to the last
        ("The red disc<|im_end|>", ["The", " red", " disc", "<|im_end|>"]),
    ],
)
def test_text_of_each_token(text, expected) -> None:
    assert token_texts(BYTE_LEVEL, BYTE_LEVEL(text)["input_ids"]) == expected


@pytest.mark.parametrize(("lost", "pieces"), [([0xFF], "ÿ"), ([0xE2, 0x82], "âĤ"), ([0xC3], "Ã")])
def test_bytes_that_are_no_character_become_replacement_characters(lost, pieces) -> None:
    ids = BYTE_LEVEL.convert_tokens_to_ids(list(pieces))
    texts = token_texts(BYTE_LEVEL, [*ids, BYTE_LEVEL.convert_tokens_to_ids(".")])
    assert "�" in "".join(texts) and texts[-1].endswith(".")
    assert "".join(token_texts(BYTE_LEVEL, ids)) == bytes(lost).decode(errors="replace")


def test_sentencepiece_pieces_and_bytes() -> None:
    tokenizer = sentencepiece_tokenizer()
    pieces = ["▁the", "▁cat", "s", "▁", "<0xE2>", "<0x82>", "<0xAC>", "<end>"]
    texts = token_texts(tokenizer, tokenizer.convert_tokens_to_ids(pieces))
    assert texts == [" the", " cat", "s", " ", "", "", "€", "<end>"]
    assert "".join(texts[:-1]) == tokenizer.decode(tokenizer.convert_tokens_to_ids(pieces[:-1]))


def test_offsets_come_from_the_ids() -> None:
    """The tags are cut as no tokenizer would cut them; special tokens may be left out."""
    ids = [BYTE_LEVEL.convert_tokens_to_ids(character) for character in "a<back>d</back>"]
    text, offsets = token_offsets(BYTE_LEVEL, ids)
    assert text == "a<back>d</back>" and offsets == [(i, i + 1) for i in range(len(text))]
    ids = BYTE_LEVEL("é<|im_end|>")["input_ids"]
    assert token_offsets(BYTE_LEVEL, ids) == ("é<|im_end|>", [(0, 0), (0, 1), (1, 11)])
    assert token_offsets(BYTE_LEVEL, ids, skip_special_tokens=True) == ("é", [(0, 0), (0, 1), (1, 1)])
    vocabulary = {token: number for number, token in enumerate(["[end]", "a", "<", "ck", ">"])}
    fused = Tokenizer(models.WordLevel(vocabulary, unk_token="[end]"))
    fused.pre_tokenizer, fused.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    unknown_decoder = PreTrainedTokenizerFast(tokenizer_object=fused, eos_token="[end]")
    expected = ("a<ck>", [(0, 1), (1, 2), (2, 4), (4, 5), (5, 5)])
    assert token_offsets(unknown_decoder, [1, 2, 3, 4, 0], skip_special_tokens=True) == expected
