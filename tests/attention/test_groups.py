"""Key groups: the turns of a conversation and the images and views of a prompt."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny_models import image_processor_class
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlavaProcessor, PreTrainedTokenizerFast

from sayo.attention import spans
from sayo.attention.spans import turn_groups

CASES = yaml.safe_load(Path(__file__).with_name("groups.yaml").read_text())


def processor_with(template):
    special = ["<pad>", "<image>", "<|start|>", "<|end|>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*special, *dict.fromkeys(CASES["words"].split())])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", padding_side="left",
        extra_special_tokens=["<image>", "<|start|>", "<|end|>"],
    )  # fmt: skip
    images = image_processor_class("CLIPImageProcessor")(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    return LlavaProcessor(
        images, tokenizer, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CASES["templates"][template].replace("CONTENT", CASES["content"]),
    )  # fmt: skip


def words_of(processor, ids, group):
    return processor.tokenizer.convert_ids_to_tokens(ids[group > 0].tolist())


@pytest.mark.parametrize("template", CASES["templates"])
def test_turns(template, monkeypatch):
    processor = processor_with(template)
    conversations = copy.deepcopy(CASES["conversations"])
    for part in (part for turns in conversations for turn in turns for part in turn["content"]):
        if part == {"type": "image"}:
            part["image"] = Image.new("RGB", (20, 30))
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True},
    )  # fmt: skip
    ids = inputs["input_ids"]
    assert (ids == processor.image_token_id).sum(dim=1).tolist() == [16] * 3
    groups = turn_groups(processor, conversations, inputs)
    for row, name in itertools.product(range(3), ("question", "system")):
        assert " ".join(words_of(processor, ids[row], groups[name][row])) == CASES[name][row]
    # These families' tokens differ from the text's in repeated image tokens alone: no picture is prepared again.
    monkeypatch.setattr(type(processor), "__call__", None)
    again = turn_groups(processor, conversations, inputs)
    assert all(torch.equal(groups[name], again[name]) for name in groups)
    monkeypatch.undo()
    monkeypatch.setattr(spans, "_spans_of_text", lambda *_: None)  # as where the processor writes more than that
    exact = turn_groups(processor, conversations, inputs)
    assert all(torch.equal(groups[name], exact[name]) for name in groups)
    with pytest.raises(ValueError, match="other tokens than its input_ids"):
        turn_groups(processor, conversations[::-1], inputs)
