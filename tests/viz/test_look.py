"""A look holds the model's own attention, for one image or several."""

from __future__ import annotations

import numpy as np
import pytest
from viz.conftest import QUESTION

from sayo.viz.look import look_at


def test_shares_are_parts_of_all_attention(look) -> None:
    rows = len(look.tokens) + 1
    assert look.trace.maps.shape == (4, rows, 24)
    np.testing.assert_allclose(look.trace.maps.sum(axis=-1), look.trace.masses["image"], rtol=1e-5)
    total = sum(look.trace.masses[name] for name in ("image", "question", "response", "prefix"))
    assert (total > 0).all() and (total < 1).all()
    assert (
        look.trace.masses["response"][:, 0] == 0
    ).all()  # the first token's row sees no response yet
    assert (look.trace.masses["response"][:, 1:] > 0).all()
    assert (look.trace.entropy > 0).all() and len(look.trace.entropy) == len(look.tokens)


def test_the_region_is_the_covered_part_of_the_map(look) -> None:
    # 16,16,48,40 on cells of 16 x 16: tokens 7 and 8 fully, 13 and 14 by half.
    expected = look.trace.maps[..., [7, 8]].sum(axis=-1) + 0.5 * look.trace.maps[..., [13, 14]].sum(axis=-1)
    np.testing.assert_allclose(look.trace.masses["region"], expected, rtol=1e-5)
    assert look.trace.sizes["region"] == pytest.approx(3)


def test_a_region_of_the_second_image(policy, picture) -> None:
    model, processor = policy
    other = picture.resize((64, 64))
    options = {"regions": [{"image": 1, "box": [0, 0, 16, 16]}], "response": "I see two"}
    look = look_at(model, processor, [picture, other], QUESTION, **options)
    assert look.trace.maps.shape[-1] == 24 + 16
    np.testing.assert_allclose(look.trace.masses["region"], look.trace.maps[..., 24], rtol=1e-5)


def test_without_a_box_there_is_no_region(policy, picture) -> None:
    look = look_at(*policy, [picture], QUESTION, response="red")
    assert "region" not in look.trace.masses and not look.trace.has_region


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
