"""A policy that looks at red only, whatever it is asked: the trainer must see it look there, and nowhere else.

Its vision tower writes into every visual token whether its own pixels are red, and its last layer's keys and queries
are made of that alone. Nothing here asks sayo where the red is: pictures, boxes and weights are set by hand.
"""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoConfig

from data_prep.tokens import TokenMapper
from sayo.geometry import VisualLayout
from sayo.processors import load_auto_processor

CELL = 16  # pixels of a visual token of the toy policies


def plant(model):
    """Every row of the last layer attends to the red visual tokens, and one token in five ends its completion."""
    visual, text = model.model.visual, model.model.language_model
    stock = visual.forward

    def forward(hidden_states, *args, **kwargs):
        output = stock(hidden_states, *args, **kwargs)
        colors = hidden_states.view(len(output.pooler_output), -1, 3, hidden_states.shape[1] // 3)
        is_red = (colors[:, :, 0] - colors[:, :, 1:].amax(dim=2)).amin(dim=(1, 2)) > 1
        output.pooler_output = torch.zeros_like(output.pooler_output)
        output.pooler_output[:, 0] = is_red.float()
        return output

    visual.forward = forward
    with torch.no_grad():
        for layer in text.layers:  # the residual stream stays what was embedded
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        words = text.embed_tokens.weight
        words[:, 0], words[:, 1] = 0.0, 0.3
        words[model.generation_config.eos_token_id, 1] = 1.7
        last = text.layers[-1].self_attn
        slowest = last.head_dim // 2 - 1  # which the positions hardly turn
        for projection in (last.q_proj, last.k_proj):
            projection.weight.zero_()
            projection.bias.zero_()
        last.q_proj.bias.view(-1, last.head_dim)[:, slowest] = 10.0
        last.k_proj.weight.view(-1, last.head_dim, words.shape[1])[:, slowest, 0] = 10.0


def rows(layout):
    """Pictures of grey noise, one or two a row, with one red and one blue block: the target is one of the two."""
    random, mapper, made = np.random.default_rng(0), TokenMapper(layout), []
    for index in range(6):
        sizes = (CELL * random.integers(3, 7, (1 + index % 2, 2))).tolist()
        pictures = [random.integers(0, 256, (h, w, 1), dtype=np.uint8).repeat(3, axis=2) for w, h in sizes]
        regions = {}
        for color, image, x in (("red", len(sizes) - 1, 0), ("blue", 0, CELL)):
            y = CELL * int(random.integers(0, 3))
            pictures[image][y : y + CELL, x : x + CELL] = {"red": [255, 0, 0], "blue": [0, 0, 255]}[color]
            regions[color] = {"box": [x, y, x + CELL, y + CELL], "image": image}
        target, words = ("red", "blue")[index // 2 % 2], "Where is it?" + " Really where?" * (index % 3)
        images, tokens = [Image.fromarray(picture) for picture in pictures], mapper(sizes, [regions[target]])
        made.append({"prompt": [{"role": "user", "content": words}], "images": images, "target": target, **tokens})
    return Dataset.from_list(made)


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "per_device_train_batch_size": 2}],
    ids=["aligned", "accumulated"],
)
def test_the_trainer_sees_a_policy_look_at_red(make_trainer, toys, options):
    """In shuffled rows of one and two pictures, whose completions end early or not."""
    seen, path = [], toys.policy["qwen2_5_vl"]
    layout = VisualLayout.from_processor(load_auto_processor(path), AutoConfig.from_pretrained(path))

    def target_mass(attention, target, completion_ids, **kwargs):
        for trace, color, ids in zip(attention, target, completion_ids, strict=True):
            assert len(trace) == len(ids)
            seen.append((color, len(ids), trace.sizes["image"]))
            for which in ("deciding", "of_token"):
                np.testing.assert_allclose(trace.mass("region", which), float(color == "red"), atol=1e-4)
                np.testing.assert_allclose(trace.mass("image", which), 1.0, atol=1e-4)
        return [float(len(ids)) for ids in completion_ids]

    fields = {"max_steps": 3, "learning_rate": 0.0, "max_completion_length": 12, **options}
    trainer = make_trainer(target_mass, family="qwen2_5_vl", edit=lambda _: rows(layout), **fields)
    plant(trainer.model)
    trainer.train()
    colors, lengths, sizes = (set(column) for column in zip(*seen, strict=True))
    assert colors == {"red", "blue"} and len(sizes) > 2 and min(lengths) < 12
