"""Key groups: the turns of a conversation and the images and views of a prompt."""

import pytest
import torch
from PIL import Image
from tiny_models import image_processor_class
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlavaProcessor, PreTrainedTokenizerFast

from sayo.attention import spans
from sayo.attention.spans import turn_groups

WORDS = "You help . What is in the picture ? A cat sits here red blue default system user assistant model".split()
CONTENT = (
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
)
TEMPLATES = {
    "ChatML with a default system prompt": (
        "{% if messages[0].role != 'system' %}<|start|>system default<|end|>{% endif %}{% for m in messages %}"
        "<|start|>{{ m.role + ' ' }}" + CONTENT + "<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant {% endif %}"
    ),
    "system words inside the user's turn": (
        "{% for m in messages %}{% if m.role == 'system' %}<|start|>user " + CONTENT + " . "
        "{% elif m.role == 'user' %}" + CONTENT + "<|end|>{% else %}<|start|>model " + CONTENT + "<|end|>"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>model {% endif %}"
    ),
}


def processor_with(template):
    special = ["<pad>", "<image>", "<|start|>", "<|end|>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*special, *dict.fromkeys(WORDS)])}
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
        chat_template=TEMPLATES[template],
    )  # fmt: skip


def words_of(processor, ids, group):
    return processor.tokenizer.convert_ids_to_tokens(ids[group > 0].tolist())


@pytest.mark.parametrize("template", TEMPLATES)
def test_turns(template, monkeypatch):
    processor = processor_with(template)
    picture = {"type": "image", "image": Image.new("RGB", (20, 30))}
    question = {"type": "text", "text": "What is in the picture ?"}
    conversations = [
        [{"role": "system", "content": "You help ."}, {"role": "user", "content": [picture, question]}],
        [
            {"role": "system", "content": "."},
            {"role": "user", "content": [{"type": "text", "text": "A cat"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "here"}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "red"}, picture, {"type": "text", "text": "blue ?"}],
            },
        ],
    ]
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True},
    )  # fmt: skip
    ids = inputs["input_ids"]
    assert (ids == processor.image_token_id).sum(dim=1).tolist() == [16, 16]
    groups = turn_groups(processor, conversations, inputs)
    assert words_of(processor, ids[0], groups["question"][0]) == "What is in the picture ?".split()
    assert words_of(processor, ids[0], groups["system"][0]) == "You help .".split()
    assert words_of(processor, ids[1], groups["question"][1]) == ["red", "blue", "?"]
    assert words_of(processor, ids[1], groups["system"][1]) == ["."]
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


def test_a_missing_turn_is_empty():
    processor = processor_with("ChatML with a default system prompt")
    conversations = [[{"role": "user", "content": "A cat"}]]
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    groups = turn_groups(processor, conversations, inputs)
    assert groups["system"].sum() == 0  # the template's own default prompt is not the user's
    assert words_of(processor, inputs["input_ids"][0], groups["question"][0]) == ["A", "cat"]
