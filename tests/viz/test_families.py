"""Families whose pictures come as tiles, or attend in both directions: what the page shows is their own attention."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import FAMILIES, IMAGE, build, pixels, visual_ids
from transformers import BatchFeature
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name
from viz.conftest import show, texts

from sayo.rollout import _forward_arguments, generate, processor_inputs
from sayo.toyworld.vocabulary import IMAGE_PAD, make_tokenizer
from sayo.viz.figures import save_looks
from sayo.viz.look import look_at
from sayo.viz.look_page import write_look

QUESTION, SIZE = "What color is the disc?", (32, 16)  # wide: two tiles beside each other
VIEWS = {"llava_next": 2, "internvl": 2, "gemma3": 1, "idefics3": 2, "mistral3": 1, "glm4v": 1}


class TinyProcessor:
    """The family's own image processor and the toy tokenizer; as many image tokens as the model makes."""

    def __init__(self, name: str):
        *_, processor, settings = FAMILIES[name]
        self.name, self.tokenizer = name, make_tokenizer()
        self.image_processor = get_image_processor_class_from_name(processor)(**settings)

    def apply_chat_template(self, conversations: list, tokenize: bool = True, **_: Any) -> BatchFeature | list[str]:
        (messages,) = conversations
        pictures = [np.asarray(block["image"]) for block in messages[-1]["content"] if block["type"] == "image"]
        question = "".join(block["text"] for block in messages[-1]["content"] if block["type"] == "text")
        if not tokenize:
            return [f"user\n{IMAGE_PAD * len(pictures)}{question}"]
        image = self.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        visual = [image if token == IMAGE else 1 for token in visual_ids(self.name, pictures)]
        ids = [*self.tokenizer("user\n")["input_ids"], *visual, *self.tokenizer(question)["input_ids"]]
        input_ids = torch.tensor([ids])
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)} | pixels(self.name, [pictures])
        for name, is_read in (("token_", self.name == "gemma3"), ("mm_token_", "depth" in FAMILIES[self.name][2])):
            inputs |= {f"{name}type_ids": (input_ids == image).long()} if is_read else {}
        return BatchFeature(inputs)


def tiny_policy(name: str, kernel: str | None = None) -> tuple[torch.nn.Module, TinyProcessor]:
    processor = TinyProcessor(name)
    model = build(name, kernel, vocab_size=len(processor.tokenizer))
    model.config.image_token_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return model, processor


@pytest.fixture(scope="module", params=VIEWS)
def seen(request) -> SimpleNamespace:
    """A sampled response of a family over one wide picture, with a box on its right half."""
    torch.manual_seed(0)
    model, processor = tiny_policy(request.param)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
    options = {"regions": [{"box": [16, 0, 32, 16]}], "max_new_tokens": 6, "temperature": 1.0}
    row = {"prompt": [{"role": "user", "content": QUESTION}], "images": [picture]}
    look = look_at(model, processor, [picture], QUESTION, **options)
    return SimpleNamespace(name=request.param, picture=picture, row=row, look=look)


def test_maps_are_the_attention_of_the_eager_kernel(seen) -> None:
    """On the cache of the generation where it can be cut; sliding windows and prompts that attend both ways rerun."""
    model, processor = tiny_policy(seen.name)
    look = look_at(model, processor, [seen.picture], QUESTION, max_new_tokens=6)
    inputs = processor_inputs(processor, [seen.row], "cpu")
    completions = generate(model, processor, inputs, max_new_tokens=6)
    eager, _ = tiny_policy(seen.name, "eager")
    arguments, rows = _forward_arguments(inputs, completions)
    with torch.no_grad():
        output = eager(**arguments, output_attentions=True)
    image = arguments["input_ids"][0] == eager.config.image_token_id
    expected = torch.stack(output.attentions)[:, 0].mean(dim=1)[:, rows][..., image]
    np.testing.assert_allclose(look.trace.maps, expected, atol=2e-5)
    entropy = torch.distributions.Categorical(logits=output.logits[0, rows[:-1]]).entropy()
    np.testing.assert_allclose(look.trace.entropy, entropy, atol=2e-5)


def test_regions_lie_in_every_view(seen) -> None:
    """The box is the right half of the picture: half of the visual tokens, in the whole picture and in the tiles."""
    cells = seen.look.cells[0]
    real = ~np.isnan(cells.footprints).any(axis=1)
    assert set(cells.views[real]) == set(range(VIEWS[seen.name]))
    assert seen.look.trace.sizes["region"] == pytest.approx(real.sum() / 2, rel=0.15)
    inside = real & (cells.footprints[:, 0] >= 15.9)
    assert (seen.look.trace.masses["region"] >= seen.look.trace.maps[..., inside].sum(axis=-1) * 0.99 - 1e-6).all()


def test_panels_in_the_browser(seen, page, tmp_path) -> None:
    assert save_looks({"": seen.look}, tmp_path / "look.png").stat().st_size > 1000
    show(page, write_look(seen.look, tmp_path / "look.html"))
    captions = [text.split(":")[0] for text in texts(page, "figcaption")]
    assert captions == (["whole picture", "tiles"] if VIEWS[seen.name] == 2 else [])
    assert page.locator(".stack .answer").count() == VIEWS[seen.name]
