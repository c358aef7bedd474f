"""What steering is compared with: an eager kernel that multiplies the weights themselves, in one plain forward."""

import inspect

import numpy as np
import tiny_models
import torch
from tiny_models import FAMILIES, IMAGE, PAD, build, teacher_forced
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from sayo.attention.layers import attention_layers
from sayo.geometry import VisualLayout
from sayo.metrics import vrga

NEW = 6
SIZES = ((40, 32), (24, 32))


def prompts(family, **options):
    return tiny_models.prompts(family, **{"sizes": SIZES, **options})


def cells_of(family, sizes=SIZES, images=1):
    *_, name, settings = FAMILIES[family]
    layout = VisualLayout.from_processor(get_image_processor_class_from_name(name)(**settings), build(family).config)
    return [[layout.cells(*size, num_images=images)] * images for size in sizes]


def generate(model, inputs, **options):
    """Greedy tokens that never end, and the logits that chose each: `(B, NEW, V)`."""
    options = {"do_sample": False, "suppress_tokens": [IMAGE], "max_new_tokens": NEW, "eos_token_id": None, **options}
    output = model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True, pad_token_id=PAD)
    return output.sequences, torch.stack(output.logits, dim=1)


def reference_logits(monkeypatch, family, inputs, sequences, change):
    """Logits of the completion's tokens under an eager kernel whose scores and weights `change` may replace.

    `change(layer, scores, weigh)` gets `(B, H, Q, K)` unmasked scores and a function from scores to weights, and
    returns weights.
    """
    model = build(family, "eager")
    layers = {id(module): index for index, module in attention_layers(model).items()}
    names = inspect.unwrap(type(next(iter(attention_layers(model).values()))).forward).__globals__
    stock = names["eager_attention_forward"]

    def explicit(module, query, key, value, attention_mask, *args, **kwargs):
        if id(module) not in layers:
            return stock(module, query, key, value, attention_mask, *args, **kwargs)
        shared = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(shared, dim=1) for states in (key, value))
        scores = query @ key.transpose(2, 3) * kwargs["scaling"]
        weights = change(layers[id(module)], scores, lambda z: (z + attention_mask).softmax(-1))
        return (weights @ value).transpose(1, 2).contiguous(), weights

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setitem(names, "eager_attention_forward", explicit)
        logits = model(**teacher_forced(family, inputs, sequences)).logits
    return logits[:, inputs["input_ids"].shape[1] - 1 : -1]


def expected_choice(family, inputs, radius=0, share=0.0):
    """T_q `(B, P)` and H_v `(B, L, H)` from the eager model's own weights; single-grid families, one image."""
    with torch.no_grad():
        weights = torch.stack(build(family, "eager")(**inputs, output_attentions=True).attentions, dim=1)
    tokens, heads = torch.zeros_like(inputs["input_ids"], dtype=torch.bool), []
    for row, images in enumerate(cells_of(family)):
        last = weights[row, :, :, -1].double().numpy()
        places = (inputs["input_ids"][row] == IMAGE).nonzero()[:, 0].numpy()
        maps, num_keys = last[..., places], (last > 0).sum(-1)
        focus = maps.sum(-1) / len(places) * num_keys
        picked = vrga.visual_heads(focus, vrga.entropy_focus_ratio(vrga.image_entropy(maps), focus))
        background = vrga.background_heads(focus)
        behind = maps[background].mean(0) if background.any() else np.zeros(len(places))
        reference = vrga.subtract_background(maps[picked].mean(0), behind)
        columns, rows = images[0].grid
        focus_at = vrga.focus_tokens(reference, vrga.border_tokens(columns, rows, share))
        tokens[row, places[vrga.neighbourhood(focus_at, columns, rows, radius)]] = True
        heads.append(torch.from_numpy(picked))
    return tokens, torch.stack(heads)
