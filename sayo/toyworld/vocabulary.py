"""The toy policy's tokenizer: one token for every word of the toy world, bytes for all other text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sayo.toyworld.scenes import COLORS

PAD, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (PAD, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)

# Every word keeps the space before it, as in byte-level BPE, so decoding is plain concatenation.
WORDS = (
    *(f" {color}" for color in COLORS),
    *(f" {number}" for number in range(10)),
    *"system\n|user\n|assistant\n|\n|.|,|?".split("|"),
    *"What| color| is| the| disc| in| frame|Is| same| as| to| left| right| of| above| below".split("|"),
    *" there| a| an|How| many| frames| are|Describe| picture".split("|"),
    *"I| look| at| and| one|The| The| It| holds| nothing| yes| no| <answer>| </answer>".split("|"),
)

CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
"""In Qwen's style. The generation block marks what SFT trains on in data sets of whole conversations."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The toy policy's tokenizer: special tokens, bytes, and the toy world's words.

    Text is split into words with their leading space; a known word is one token, any other word its bytes, so every
    string survives encoding and decoding.
    """
    pattern = Regex(r"(?:system|user|assistant)\n| ?</?answer>| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s")
    tokens = {"pad_token": PAD, "eos_token": IM_END}
    tokens["additional_special_tokens"] = [IM_START, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD]
    template = {"chat_template": CHAT_TEMPLATE, "model_max_length": 1024}
    return byte_tokenizer(SPECIAL_TOKENS, WORDS, [pre_tokenizers.Split(pattern, "isolated")], **tokens, **template)


def byte_tokenizer(
    special: Sequence[str], words: Sequence[str] = (), splits: Sequence[Any] = (), **kwargs: Any
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of special tokens, the 256 bytes and words, in this order.

    Args:
        splits: pre-tokenizers that cut a text into words.
        kwargs: of `PreTrainedTokenizerFast`.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelt = ["".join(piece for piece, _ in byte_level.pre_tokenize_str(word)) for word in words]
    entries = dict.fromkeys([*special, *sorted(byte_level.alphabet()), *spelt])
    tokenizer = Tokenizer(models.BPE({entry: i for i, entry in enumerate(entries)}, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    fixed = {"clean_up_tokenization_spaces": False, "padding_side": "left"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **fixed, **kwargs)
