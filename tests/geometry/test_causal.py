"""Paint a rectangle: only the visual tokens whose cells it touches may change at the projector's output.

The vision tower's attention is silenced (its output is zero), so a token can depend on nothing but its own pixels.
Then a family's layout is right or wrong, and two wrong maps (reversed, shifted by one token) must be caught.
"""

import numpy as np
import pytest
import torch
from geometry.conftest import Family
from PIL import Image
from tiny_models import VISION_MODELS, for_model, visual_features
from transformers import AttentionInterface, AutoModel

from sayo.geometry import VisualCells, coverage_of_box


def silent(module, query, key, value, attention_mask, **kwargs):
    """An attention function that hands nothing on: output `(B, L, H, D)` of zeros."""
    return torch.zeros_like(query).transpose(1, 2), None


AttentionInterface.register("silent", silent)


def silenced_model(family):
    """The family's tiny random model in which no attention layer moves information between positions."""
    torch.manual_seed(0)
    model = AutoModel.from_config(family.make_config(), dtype=torch.float32).eval()
    model.set_attn_implementation("silent")
    if hasattr(model.config, "adapter_config"):  # Molmo2 pools the patches of a token by attention
        model.config.adapter_config._attn_implementation = "sdpa"
    for name, module in model.named_modules():
        if type(module).__module__.startswith("timm") and name.endswith(".attn"):
            module.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    for parameter in model.parameters():  # tiny initial weights would hide a change behind rounding
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def features_of(family, model, images):
    """Projector output for a list of images, `(N, D)`, in the order in which it replaces the image ids."""
    settings = {**getattr(family.layout().builder, "processor_settings", {}), **family.changed}
    inputs = family.make_image_processor()(images=images, return_tensors="pt", **settings)
    with torch.no_grad():
        features = visual_features(model.get_image_features(**for_model(inputs), return_dict=True))
    features = torch.cat(list(features)) if isinstance(features, (list, tuple)) else features
    return features.reshape(-1, features.shape[-1]).numpy()


def boxes_in(width, height, random):
    """Rectangles of all sizes, in whole pixels, some of them at the border."""
    boxes = [[0, 0, width // 3, height // 4], [width - width // 5, height - height // 3, width, height]]
    for _ in range(4):
        w, h = random.integers(3, 1 + width // 2), random.integers(3, 1 + height // 2)
        x, y = random.integers(0, width - w + 1), random.integers(0, height - h + 1)
        boxes.append([x, y, x + w, y + h])
    return boxes


def violations(family, cells, footprints, changed, box):
    """(tokens that had to change and did not, tokens that must not change and did) for one painted box."""
    cells = VisualCells(footprints, cells.views, cells.image_size, cells.grid)
    must = coverage_of_box(cells, box) >= 0.05
    scale = np.zeros_like(footprints[:, :2])  # original pixels per pixel of the vision tower, in each token's view
    for view in np.unique(cells.views):
        whole_cell = np.nanmax(footprints[cells.views == view, 2:] - footprints[cells.views == view, :2], axis=0)
        scale[cells.views == view] = whole_cell / family.cell
    reach = family.blur * np.maximum(1, scale) + 1
    may = ((footprints[:, :2] - reach < box[2:]) & (footprints[:, 2:] + reach > box[:2])).all(axis=1)
    if cells.grid is not None:  # a cell in padding next to the image: resampling may carry some of it over
        may |= np.isnan(footprints[:, 0])
    return int((must & ~changed).sum()), int((~may & changed).sum())


def test_only_overlapping_cells_change(family):
    model, layout = silenced_model(family), family.layout()
    random = np.random.default_rng(0)
    wrong = {"layout": np.zeros(2, int), "reversed": np.zeros(2, int), "shifted": np.zeros(2, int)}
    tested = 0
    for width, height in family.sizes:
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cells = layout.cells(width, height)
        before = features_of(family, model, [Image.fromarray(pixels)])
        assert len(before) == len(cells)
        maps = {
            "layout": cells.footprints,
            "reversed": cells.footprints[::-1],
            "shifted": np.roll(cells.footprints, 1, axis=0),
        }
        for box in boxes_in(width, height, random):
            painted = pixels.copy()
            painted[box[1] : box[3], box[0] : box[2]] ^= 255
            after = features_of(family, model, [Image.fromarray(painted)])
            changed = np.abs(after - before).max(axis=1) > 1e-4 * np.abs(before).max()
            tested += changed.any()
            for name, footprints in maps.items():
                wrong[name] += violations(family, cells, footprints, changed, box)
    assert tested >= 0.8 * 6 * len(family.sizes)
    assert wrong["layout"].sum() == 0, wrong
    assert wrong["reversed"].min() > 0, wrong
    assert wrong["shifted"].min() > 0, wrong


@pytest.mark.parametrize("family", ["llava_onevision"], indirect=True)
def test_several_images_of_a_sample_in_onevision(family):
    """The one family that lays a second image out differently: the newline is last and padding sees nothing."""
    model, (width, height), box = silenced_model(family), (300, 180), [60, 40, 150, 120]
    first, second = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    cells = family.layout().cells(width, height, num_images=2)

    before = features_of(family, model, [[Image.fromarray(first), Image.fromarray(second)]])
    assert len(before) == 2 * len(cells)
    second[box[1] : box[3], box[0] : box[2]] ^= 255
    after = features_of(family, model, [[Image.fromarray(first), Image.fromarray(second)]])
    changed = np.abs(after - before).max(axis=1) > 1e-4 * np.abs(before).max()
    assert not changed[: len(cells)].any()
    assert violations(family, cells, cells.footprints, changed[len(cells) :], box) == (0, 0)
    shifted = np.roll(cells.footprints, 1, axis=0)
    assert min(violations(family, cells, shifted, changed[len(cells) :], box)) > 0


def test_the_change_centres_where_it_was_painted_in_gemma3n():
    """A convolutional tower hands every pixel to many tokens; those of its own place change most."""
    pytest.importorskip("timm")
    family, (width, height) = Family("gemma3n", "gemma3n", VISION_MODELS["gemma3n"].settings, {}, 16), (400, 300)
    model, cells = silenced_model(family), family.layout().cells(width, height)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = features_of(family, model, [Image.fromarray(pixels)])
    centres = (cells.footprints[:, :2] + cells.footprints[:, 2:]) / 2
    for x, y in ((0, 0), (300, 0), (0, 225), (300, 225)):
        painted = pixels.copy()
        painted[y : y + 75, x : x + 100] ^= 255
        change = np.abs(features_of(family, model, [Image.fromarray(painted)]) - before).max(axis=1) ** 2
        found = change @ centres / change.sum()
        assert (np.abs(found - [x + 50, y + 37.5]) < [width / 4, height / 4]).all(), (x, y, found)
