"""A policy that looks at red only, whatever it is asked: the trainer must see it look there, and nowhere else.

Its vision tower writes into every visual token whether its own pixels are red, and its last layer's keys and queries
are made of that alone. Nothing here asks sayo where the red is: pictures, boxes and weights are set by hand.
"""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from data_prep.tokens import TokenMapper
from sayo.geometry import VisualLayout

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


def rows(layout, count=6):
    """Pictures of grey noise with one red and one blue block, one or two a row; the target is one of the blocks."""
    random, mapper, made = np.random.default_rng(0), TokenMapper(layout), []
    for index in range(count):
        num_images = 1 + index % 2
        pictures, boxes = [], {}
        for _ in range(num_images):
            width, height = CELL * random.integers(3, 7, 2)
            pictures.append(random.integers(0, 256, (height, width, 1), dtype=np.uint8).repeat(3, axis=2))
        for color, image in (("red", num_images - 1), ("blue", 0)):
            height, width = (side // CELL for side in pictures[image].shape[:2])
            left = 0 if color == "red" else width // 2
            top = int(random.integers(0, height))
            box = [CELL * left, CELL * top, CELL * (left + 1), CELL * (top + 1)]
            pictures[image][box[1] : box[3], box[0] : box[2]] = [255, 0, 0] if color == "red" else [0, 0, 255]
            boxes[color] = {"box": box, "image": image}
        target = ("red", "blue")[index // 2 % 2]
        sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
        question = "Where is it?" + " Really where?" * int(random.integers(0, 4))
        made.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "images": [Image.fromarray(picture) for picture in pictures],
                "target": target,
                **mapper(sizes, [boxes[target]]),
            }
        )
    return Dataset.from_list(made)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "per_device_train_batch_size": 2},
        {"num_iterations": 2, "gradient_accumulation_steps": 2},
    ],
    ids=["aligned", "accumulated", "iterated"],
)
def test_the_trainer_sees_a_policy_look_at_red(make_trainer, toys, options):
    seen = []

    def target_mass(attention, target, completion_ids, **kwargs):
        for trace, color, ids in zip(attention, target, completion_ids, strict=True):
            assert len(trace) == len(ids)
            seen.append((color, len(ids), trace.sizes["image"]))
            for which in ("deciding", "of_token"):
                np.testing.assert_allclose(trace.mass("region", which), float(color == "red"), atol=1e-4)
                np.testing.assert_allclose(trace.mass("image", which), 1.0, atol=1e-4)
        return [float(len(ids)) for ids in completion_ids]

    def planted_rows(_):
        from transformers import AutoConfig

        from sayo.processors import load_auto_processor

        path = toys.policy["qwen2_5_vl"]
        return rows(VisualLayout.from_processor(load_auto_processor(path), AutoConfig.from_pretrained(path)))

    fields = {"max_steps": 3, "learning_rate": 0.0, "max_completion_length": 12, **options}
    trainer = make_trainer(target_mass, family="qwen2_5_vl", edit=planted_rows, **fields)
    plant(trainer.model)
    trainer.train()
    colors, lengths, sizes = (set(column) for column in zip(*seen, strict=True))
    assert colors == {"red", "blue"} and len(sizes) > 2, "both targets, in shuffled rows of one and two pictures"
    assert min(lengths) < 12, "some completions end early"
