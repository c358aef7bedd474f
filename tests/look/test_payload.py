"""What the page keeps: values within the promised error, and a file below the promised size."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import zlib

import numpy as np
import pytest
from look.shapes import synthetic_look

from sayo.look import write_page
from sayo.look.page import PAGE_BYTES
from sayo.look.payload import dequantize, pack_maps, quantize


def page_data(path) -> dict:
    """The JSON that stands in a page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.S)[1])


def unpack(data: dict, entry: int) -> np.ndarray:
    """`(T + 1, N)` of one entry, as the page's script unpacks it."""
    packed = data["maps"][entry]
    codes = np.frombuffer(zlib.decompress(base64.b64decode(packed["codes"])), dtype=np.uint8)
    scales = np.frombuffer(base64.b64decode(packed["scales"]), dtype="<f4")
    return dequantize(codes.reshape(len(scales), -1), scales, data["levels"])


def error_bound(values: np.ndarray, levels: int) -> np.ndarray:
    scales = values.max(axis=-1, keepdims=True)
    return np.sqrt(values * scales) / levels + scales / (2 * levels) ** 2 + 1e-9


@pytest.mark.parametrize("levels", [255, 63, 15])
def test_quantised_values_stay_within_the_bound(levels: int) -> None:
    values = np.random.default_rng(0).exponential(1e-4, (20, 500))
    values[:, 3] = 0.4  # a sink
    values[0] = 0
    error = np.abs(dequantize(*quantize(values, levels), levels) - values)
    assert (error <= error_bound(values, levels)).all()
    assert (error[0] == 0).all()


def test_small_values_beside_a_sink_survive() -> None:
    values = np.full((1, 100), 1e-3)
    values[0, 0] = 0.5
    assert dequantize(*quantize(values, 255), 255)[0, 1] == pytest.approx(1e-3, rel=0.1)


def test_the_page_holds_the_values_that_were_read(look, tmp_path) -> None:
    data = page_data(write_page(look, tmp_path / "look.html"))
    assert data["entries"][:5] == [[-1, -1], [0, -1], [1, -1], [2, -1], [3, -1]]
    assert sorted(data["entries"][5:]) == [[layer, head] for layer in range(4) for head in range(4)]
    shares = np.frombuffer(base64.b64decode(data["shares"]), dtype="<f4").reshape(len(data["entries"]), 5, -1)
    for index, (layer, head) in enumerate(data["entries"]):
        expected = (
            look.maps.mean(axis=0) if layer < 0 else look.maps[layer] if head < 0 else look.head_maps[layer, head]
        )
        assert (np.abs(unpack(data, index) - expected) <= error_bound(expected, data["levels"])).all()
        target = look.shares["region"].mean(axis=0) if layer < 0 else look.shares["region"][layer]
        target = target if head < 0 else look.head_shares["region"][layer, head]
        np.testing.assert_allclose(shares[index, data["share_names"].index("region")], target, rtol=1e-6)


@pytest.mark.parametrize("layers", [28, 36])
def test_300_tokens_over_1500_visual_tokens_stay_below_10_mb(tmp_path, layers: int) -> None:
    path = write_page(synthetic_look(layers=layers), tmp_path / "look.html")
    assert 1_000_000 < path.stat().st_size < PAGE_BYTES
    data = page_data(path)
    assert len(data["entries"]) == 1 + layers  # every layer is there, in coarser steps
    assert f"{data['levels'] + 1} square-root steps" in path.read_text()
    assert "single heads of no layer" in path.read_text()


def test_layers_go_when_even_coarse_maps_are_too_large() -> None:
    look = synthetic_look(tokens=40, grid=(20, 10), layers=8)
    maps = pack_maps(look, 20_000)
    assert [layer for layer, _ in maps.entries] in ([-1, 1, 3, 5, 7], [-1, 3, 7], [-1, 7])
    assert sum(len(packed["codes"]) for packed in maps.packed) < 20_000


def test_heads_of_the_last_layers_stay_as_long_as_they_fit(look) -> None:
    everything = pack_maps(look, 10**7)
    weight = [len(packed["codes"]) + 6 * len(packed["scales"]) + 64 for packed in everything.packed]
    some = pack_maps(look, sum(weight[: 5 + 2 * 4]) + 2000)  # the mean, four layers, four heads of two layers
    assert some.levels == everything.levels
    assert {layer for layer, head in some.entries if head >= 0} == {2, 3}


def test_a_bound_that_nothing_fits_into_is_an_error(look, tmp_path) -> None:
    with pytest.raises(ValueError, match="read fewer layers"):
        write_page(look, tmp_path / "look.html", max_bytes=20_000)
    assert not (tmp_path / "look.html").exists()


def test_dead_rows_are_zero_not_nan(look) -> None:
    maps = look.maps.copy()
    maps[:, 3] = 0  # e.g. a sliding window that has left the image behind
    packed = pack_maps(dataclasses.replace(look, maps=maps), 10**7)
    codes, scales = quantize(maps[0], packed.levels)
    assert scales[3] == 0 and not codes[3].any()
