"""A look holds the model's own attention, for one image or several."""

from __future__ import annotations

import numpy as np
import pytest
from viz.conftest import QUESTION

from sayo.viz.look import look_at


def test_shares_are_parts_of_all_attention(look) -> None:
    rows = len(look.tokens) + 1
    assert look.maps.shape == (4, rows, 24) and look.head_maps.shape == (4, 4, rows, 24)
    np.testing.assert_allclose(look.maps.sum(axis=-1), look.shares["image"], rtol=1e-5)
    total = sum(look.shares[name] for name in ("image", "question", "response", "prefix"))
    assert (total > 0).all() and (total < 1).all()
    assert (look.shares["response"][:, 0] == 0).all()  # the row that decides the first token sees no response yet
    assert (look.shares["response"][:, 1:] > 0).all()
    assert (look.entropy > 0).all() and len(look.entropy) == len(look.tokens)


def test_heads_average_to_the_layer(look) -> None:
    np.testing.assert_allclose(look.head_maps.mean(axis=1), look.maps, rtol=1e-5)
    np.testing.assert_allclose(look.head_shares["region"].mean(axis=1), look.shares["region"], rtol=1e-5)


def test_the_region_is_the_covered_part_of_the_map(look) -> None:
    # 16,16,48,40 on cells of 16 x 16: tokens 7 and 8 fully, 13 and 14 by half.
    expected = look.maps[..., [7, 8]].sum(axis=-1) + 0.5 * look.maps[..., [13, 14]].sum(axis=-1)
    np.testing.assert_allclose(look.shares["region"], expected, rtol=1e-5)
    assert look.region_size == pytest.approx(3)


@pytest.mark.parametrize("head_values", [0, 1_200, 10**9], ids=["no heads", "heads of some layers", "all heads"])
def test_heads_are_kept_apart_for_the_last_layers(policy, picture, look, monkeypatch, head_values) -> None:
    options = {"regions": [{"box": [16, 16, 48, 40]}], "response": "The disc is red."}
    whole = look_at(*policy, [picture], QUESTION, **options)
    monkeypatch.setattr("sayo.viz.look.HEAD_VALUES", head_values)
    part = look_at(*policy, [picture], QUESTION, **options)
    layers = {0: (), 1_200: (2, 3), 10**9: (0, 1, 2, 3)}[head_values]  # 4 heads x 6 rows x 24 visual tokens
    assert part.head_layers == layers and part.head_maps.shape[0] == len(layers)
    np.testing.assert_allclose(part.maps, whole.maps, atol=1e-6)
    np.testing.assert_allclose(part.shares["region"], whole.shares["region"], atol=1e-6)
    np.testing.assert_allclose(part.head_maps, whole.head_maps[4 - len(layers) :].reshape(part.head_maps.shape))


def test_a_region_of_the_second_image(policy, picture) -> None:
    model, processor = policy
    other = picture.resize((64, 64))
    options = {"regions": [{"image": 1, "box": [0, 0, 16, 16]}], "response": "I see two"}
    look = look_at(model, processor, [picture, other], QUESTION, **options)
    assert look.maps.shape[-1] == 24 + 16
    np.testing.assert_allclose(look.shares["region"], look.maps[..., 24], rtol=1e-5)


def test_without_a_box_there_is_no_region(policy, picture) -> None:
    look = look_at(*policy, [picture], QUESTION, response="red")
    assert "region" not in look.shares and not look.trace.has_region


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": [{"box": [40, 0, 10, 10]}]}, "reversed"),
        ({"regions": [{"box": [400, 400, 500, 500]}]}, "outside"),
        ({"regions": [{"image": 3, "box": [0, 0, 9, 9]}]}, "image 3"),
        ({"response": ""}, "no tokens"),
        ({"layers": 99}, "out of range"),
    ],
)
def test_mistakes_are_named(policy, picture, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        look_at(*policy, [picture], QUESTION, **{"response": "red", **options})


def test_no_image_is_an_error(policy) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        look_at(*policy, [], QUESTION)
