"""Token texts: joined they are the response, whatever characters it is made of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from sayo.look.tokens import token_texts
from sayo.toyworld.vocabulary import make_tokenizer

BYTE_LEVEL = make_tokenizer()


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


def test_a_character_of_several_tokens_belongs_to_the_last() -> None:
    ids = BYTE_LEVEL("é 🙂")["input_ids"]
    assert token_texts(BYTE_LEVEL, ids) == ["", "é", " ", "", "", "", "🙂"]


def test_words_keep_the_space_before_them_and_special_tokens_their_name() -> None:
    ids = BYTE_LEVEL("The red disc<|im_end|>")["input_ids"]
    assert token_texts(BYTE_LEVEL, ids) == ["The", " red", " disc", "<|im_end|>"]


@pytest.mark.parametrize("lost", [[0xFF], [0xE2, 0x82], [0xC3]])
def test_bytes_that_are_no_character_become_replacement_characters(lost: list[int]) -> None:
    byte_ids = [BYTE_LEVEL.convert_tokens_to_ids(decoders_alphabet()[byte]) for byte in lost]
    texts = token_texts(BYTE_LEVEL, [*byte_ids, BYTE_LEVEL.convert_tokens_to_ids(".")])
    assert "�" in "".join(texts) and texts[-1].endswith(".")
    assert "".join(token_texts(BYTE_LEVEL, byte_ids)) == bytes(lost).decode(errors="replace")


def test_sentencepiece_pieces_and_bytes() -> None:
    tokenizer = sentencepiece_tokenizer()
    pieces = ["▁the", "▁cat", "s", "▁", "<0xE2>", "<0x82>", "<0xAC>", "<end>"]
    texts = token_texts(tokenizer, tokenizer.convert_tokens_to_ids(pieces))
    assert texts == [" the", " cat", "s", " ", "", "", "€", "<end>"]
    assert "".join(texts[:-1]) == tokenizer.decode(tokenizer.convert_tokens_to_ids(pieces[:-1]))


def decoders_alphabet() -> dict[int, str]:
    """Byte -> its stand-in, as the tokenizers library itself maps it."""
    from tokenizers import pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    table = {}
    for code in range(0x80, 0x800):  # two-byte characters reach every byte but ASCII and those no text has
        pieces = byte_level.pre_tokenize_str(chr(code))[0][0]
        table |= dict(zip(chr(code).encode(), pieces, strict=True))
    return table | {0xE2: "â", 0xFF: "ÿ"}
