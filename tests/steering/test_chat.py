"""Steering of chats: the chat template says which token is the question's last, and where a new turn begins."""

import pytest
import torch
from steering.reference import generate
from tiny_models import teacher_forced
from transformers import AutoModelForImageTextToText

from sayo.processors import load_auto_processor
from sayo.prompts import with_suffix
from sayo.rollout import processor_inputs
from sayo.steering import AttentionSteering
from sayo.steering.calls import template_tail


@pytest.fixture(scope="module")
def chat(toy, toy_rows):
    model = AutoModelForImageTextToText.from_pretrained(toy.policy).eval()
    with torch.no_grad():  # as initialised, attention is nearly uniform
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(3)
    return model, load_auto_processor(toy.policy), toy_rows.select(range(6))


@pytest.mark.parametrize("suffix", ["", "Answer in one word."])
def test_the_row_of_the_last_question_token(chat, suffix):
    """A line under the question is no part of it."""
    model, processor, rows = chat
    tail = processor.tokenizer.decode(template_tail(processor, suffix))
    assert tail == f"{suffix and chr(10)}{suffix}<|im_end|>\n<|im_start|>assistant\n"
    if suffix:
        rows = rows.map(lambda row: {"prompt": with_suffix(row["prompt"], suffix)})
    inputs = processor_inputs(processor, rows, "cpu")
    steering = AttentionSteering(model, processor, suffix=suffix)
    with steering:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        last = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][:, steering._question_row].tolist())
    assert set(last) == {"?"}


def test_generation_and_the_pass_behind_it_are_one_call(chat):
    """A teacher-forced pass over the sampled tokens gives the logits that chose them."""
    model, processor, rows = chat
    inputs = processor_inputs(processor, rows, "cpu")
    length = inputs["input_ids"].shape[1]
    with AttentionSteering(model, processor, gamma=3.0, radius=0), torch.no_grad():
        sequences, chosen = generate(model, inputs, suppress_tokens=None)
        full = teacher_forced("qwen3_vl", inputs, sequences)
        logits = model(**full, use_cache=False).logits[:, length - 1 : -1]
    with torch.no_grad():
        plain = model(**full, use_cache=False).logits[:, length - 1 : -1]
    assert torch.allclose(logits, chosen, atol=1e-4) and (plain - chosen).abs().max() > 1e-3


def test_a_prompt_of_another_form(chat):
    model, processor, rows = chat
    inputs = processor_inputs(processor, rows, "cpu")
    inputs = {**inputs, "input_ids": inputs["input_ids"].clone()}
    inputs["input_ids"][0, -1] = 7
    with pytest.raises(ValueError, match="does not end like the processor's chat template"):
        with AttentionSteering(model, processor):
            model(**inputs)


def test_the_next_turn_of_a_chat_is_aimed_anew(chat):
    model, processor, rows = chat
    inputs = processor_inputs(processor, rows.select(range(1)), "cpu")
    length = inputs["input_ids"].shape[1]
    turn = processor.tokenizer("<|im_end|>\n<|im_start|>user\nIs it red?", add_special_tokens=False)["input_ids"]
    more = torch.tensor([[*turn, *template_tail(processor)]])
    longer = teacher_forced("qwen3_vl", inputs, torch.cat([inputs["input_ids"], more], dim=1))
    steering = AttentionSteering(model, processor)
    with steering:
        for case in (inputs, longer):
            model.generate(**case, max_new_tokens=2, do_sample=False)
            assert steering._prompt.ids.shape == case["input_ids"].shape
    assert longer["input_ids"].shape[1] > length
