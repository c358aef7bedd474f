"""Tiny policies: ordinary checkpoints of the real model classes, loaded by the Auto classes."""

import numpy as np
import pytest
import torch
from PIL import Image
from toy_runs import FAMILIES
from transformers import AutoModelForImageTextToText

from sayo.processors import load_auto_processor
from sayo.rollout import processor_inputs
from sayo.toyworld.policy import make_policy, make_processor, write_policy
from sayo.toyworld.scenes import draw, make_scene
from sayo.toyworld.vocabulary import WORDS, make_tokenizer

ANSWER = "I look at the yellow one. It holds blue. <answer> blue </answer>"


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory):
    """A family, and what the Auto classes load of its checkpoint."""
    out = tmp_path_factory.mktemp(request.param)
    assert 0.5e6 < write_policy(out, request.param) < 2e6
    return request.param, load_auto_processor(out), AutoModelForImageTextToText.from_pretrained(out).eval()


def make_inputs(processor, sizes=((64, 64),)):
    prompt = [{"role": "system", "content": "Look closely, please!"}, {"role": "user", "content": "Is there one?"}]
    pictures = [Image.fromarray(draw(make_scene(0, i))).resize(size) for i, size in enumerate(sizes)]
    return processor_inputs(processor, [{"prompt": prompt, "images": [picture]} for picture in pictures], "cpu")


def test_auto_classes_load_the_checkpoint_and_logits_are_the_same(loaded):
    family, processor, model = loaded
    assert type(processor) is type(make_processor(family)) and model.config.model_type == family
    inputs = make_inputs(processor)
    fresh = make_inputs(make_processor(family))
    assert inputs.keys() == fresh.keys()
    for key in inputs:  # torchvision, where it is installed, rounds pixels in another way
        torch.testing.assert_close(inputs[key], fresh[key])
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, make_policy(family).eval()(**inputs).logits)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (48, 80)])
def test_a_token_is_16_by_16_pixels(loaded, size):
    _, processor, _ = loaded
    inputs = make_inputs(processor, [size])
    count = (inputs["input_ids"] == processor.image_token_id).sum().item()
    assert count == size[0] * size[1] // 256 == inputs["mm_token_type_ids"].sum().item()
    assert processor._get_num_multimodal_tokens(image_sizes=[size[::-1]]).num_image_tokens == [count]


def test_a_word_of_the_world_is_one_token():
    tokenizer = make_tokenizer()
    assert len(tokenizer(ANSWER)["input_ids"]) == 14
    assert all(len(tokenizer(word)["input_ids"]) == 1 for word in WORDS)


def test_template_marks_what_the_assistant_says(loaded):
    _, processor, _ = loaded
    picture = Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8))
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "Is there?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
    ]
    encoded = processor.apply_chat_template(
        [messages], tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    said = encoded["input_ids"][0][torch.as_tensor(encoded["assistant_masks"][0]).bool()]
    assert processor.tokenizer.decode(said) == ANSWER + "<|im_end|>"
