"""A look holds the model's own attention, for one image or several, and of the last layers head by head."""

import numpy as np
import pytest
from viz.conftest import QUESTION

from sayo.viz import look as look_module
from sayo.viz.look import look_at


def test_shares_are_parts_of_all_attention(look) -> None:
    trace, rows = look.trace, len(look.tokens) + 1
    assert trace.maps.shape == (3, rows, 24)
    np.testing.assert_allclose(trace.maps.sum(axis=-1), trace.masses["image"], rtol=1e-5)
    total = sum(trace.masses[name] for name in ("image", "question", "response", "prefix"))
    assert (total > 0).all() and (total < 1).all()
    assert (trace.masses["response"][:, 0] == 0).all()  # the first token's row sees no response yet
    assert (trace.masses["response"][:, 1:] > 0).all()
    assert (trace.entropy > 0).all() and len(trace.entropy) == len(look.tokens)


def test_the_region_is_the_covered_part_of_the_map(look) -> None:
    # 16,16,48,40 on cells of 16 x 16: tokens 7 and 8 fully, 13 and 14 by half.
    expected = look.trace.maps[..., [7, 8]].sum(axis=-1) + 0.5 * look.trace.maps[..., [13, 14]].sum(axis=-1)
    np.testing.assert_allclose(look.trace.masses["region"], expected, rtol=1e-5)
    assert look.trace.sizes["region"] == pytest.approx(3)


def test_a_region_of_the_second_image_or_none(policy, picture) -> None:
    images, options = [picture, picture.resize((64, 64))], {"response": "I see two"}
    look = look_at(*policy, images, QUESTION, regions=[{"image": 1, "box": [0, 0, 16, 16]}], **options)
    assert look.trace.maps.shape[-1] == 24 + 16
    np.testing.assert_allclose(look.trace.masses["region"], look.trace.maps[..., 24], rtol=1e-5)
    bare = look_at(*policy, images, QUESTION, **options)
    assert "region" not in bare.trace.masses and not bare.trace.has_region


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_heads_of_as_many_of_the_last_layers_as_the_budget_allows(policy, picture, monkeypatch, num_layers) -> None:
    """However many are kept apart, the averages stay the same, and they are the means of the heads."""
    options = {"regions": [{"box": [16, 16, 48, 40]}], "response": "red"}
    whole = look_at(*policy, [picture], QUESTION, **options)
    num_heads = policy[0].config.text_config.num_attention_heads
    monkeypatch.setattr(look_module, "HEAD_VALUES", num_layers * num_heads * (len(whole.tokens) + 1) * 24)
    look = look_at(*policy, [picture], QUESTION, **options)
    assert look.trace.layers == (0, 1, 2)
    np.testing.assert_allclose(look.trace.maps, whole.trace.maps, atol=1e-6)
    if num_layers == 0:
        assert look.heads is None
        return
    assert look.heads.layers == tuple(np.repeat(range(3 - num_layers, 3), num_heads))
    heads = look.heads.maps.reshape(num_layers, num_heads, *look.trace.maps.shape[1:])
    np.testing.assert_allclose(heads.mean(axis=1), look.trace.maps[-num_layers:], atol=1e-6)
    assert heads.std(axis=1).max() > 1e-3
    for name, mass in look.trace.masses.items():
        np.testing.assert_allclose(mass, whole.trace.masses[name], atol=1e-6)
        means = look.heads.masses[name].reshape(num_layers, num_heads, -1).mean(axis=1)
        np.testing.assert_allclose(means, mass[-num_layers:], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": [{"box": [40, 0, 10, 10]}]}, "reversed"),
        ({"regions": [{"box": [400, 400, 500, 500]}]}, "outside"),
        ({"regions": [{"image": 3, "box": [0, 0, 9, 9]}]}, "image 3"),
        ({"response": ""}, "no tokens"),
        ({"layers": 99}, "out of range"),
        ({"images": []}, "at least one image"),
    ],
)
def test_mistakes_are_named(policy, picture, options: dict, message: str) -> None:
    """And the model is left as it was."""
    policy[0].train()
    with pytest.raises(ValueError, match=message):
        look_at(*policy, **{"images": [picture], "question": QUESTION, "response": "red", **options})
    assert policy[0].training
    policy[0].eval()
