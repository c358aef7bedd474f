"""The page in a real browser: it draws, it answers to mouse and keys, hostile text stays text; and what it keeps."""

import base64
import io
import json
import re
import zlib

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from viz.conftest import choose, show, synthetic_look, texts

from sayo.draw import response_map
from sayo.viz.look import LookError, look_at
from sayo.viz.look_page import PAGE_BYTES, write_look

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u2028{{ 7*7 }}"
)
MARKED = " dé\n 🙂\u202ex"  # characters of several tokens, and an override of the direction
CANVAS = "document.querySelector('.stack canvas').toDataURL()"
ONE_FAMILY = pytest.mark.parametrize("policy", ["qwen3_vl"], indirect=True)  # the script knows no families


@pytest.fixture(scope="session")
def html(look, tmp_path_factory):
    """The page of a real look."""
    return write_look(look, tmp_path_factory.mktemp("page") / "look.html")


def drawn(page, condition: str) -> str:
    """The picture, once the page says that it has drawn `token/entry/reading`."""
    expect(page.locator("body")).to_have_attribute("data-drawn", condition)
    return page.evaluate(CANVAS)


@pytest.mark.parametrize("width", [1280, 400])
def test_it_draws_the_whole_response_first_and_loads_nothing(page, html, tmp_path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    show(page, html)
    assert [page.locator(selector).count() for selector in (".t", ".stack .answer", "#trend polyline")] == [24, 1, 4]
    assert page.text_content("#numbers").startswith("Whole response, mean of 24 tokens")
    pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
    sides = "(r => [r.top, r.bottom, r.left, r.right])(document.querySelector('.stack').getBoundingClientRect())"
    top, bottom, left, right = map(int, page.evaluate(sides))  # where the picture stands, the map is in many colours
    assert pixels[top:bottom, left:right].std(axis=(0, 1)).max() > 10 and right - left > 200
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    text = html.read_text()
    assert "default-src 'none'" in text and re.search(r"script-src 'sha256-[^']+'\"", text)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", text)


@ONE_FAMILY
def test_mouse_and_keys_choose_a_token(page, html) -> None:
    """Hovering shows one, leaving restores the whole response, clicking holds one, keys in the response move it."""
    show(page, html)
    whole = page.evaluate(CANVAS)
    page.hover("#t5")
    first = drawn(page, "5/0/0")
    page.hover("#t20")
    second = drawn(page, "20/0/0")
    page.hover("h1")
    assert len({whole, first, second}) == 3 and drawn(page, "-1/0/0") == whole
    page.click("#t7")
    held = drawn(page, "7/0/0")
    page.hover("h1")
    assert drawn(page, "7/0/0") == held
    assert "Token 8 of 24" in page.text_content("#numbers")
    for key, token in (("ArrowRight", 8), ("End", 23), ("ArrowLeft", 22), ("Home", 0), ("Escape", -1)):
        page.keyboard.press(key)
        drawn(page, f"{token}/0/0")
    page.locator("#tokens").blur()
    page.set_viewport_size({"width": 1280, "height": 400})
    page.keyboard.press("End")  # outside of the response, keys scroll
    page.wait_for_timeout(300)
    assert page.evaluate("window.scrollY") > 100
    drawn(page, "-1/0/0")


@ONE_FAMILY
def test_layers_heads_and_readings_change_the_picture(page, html) -> None:
    """Entries: the mean, three layers, then four heads of each layer, the last layer's first."""
    show(page, html)
    pictures = {page.evaluate(CANVAS)}
    assert page.evaluate("document.getElementById('head').disabled")
    for control, value, expected in (
        ("layer", 3, "-1/3/0"),
        ("head", 2, "-1/6/0"),
        ("rows", 1, "-1/6/1"),
        ("layer", 1, "-1/14/1"),
        ("head", -1, "-1/1/1"),
    ):
        choose(page, control, value)
        pictures.add(drawn(page, expected))
    assert len(pictures) == 6
    assert texts(page, "#head option") == ["mean of all", *(f"head {head}" for head in range(4))]
    choose(page, "head", 3)
    choose(page, "layer", 0)  # no single head is a mean over layers
    drawn(page, "-1/0/1")


@ONE_FAMILY
def test_full_colour_is_the_peak_of_the_map_or_of_the_response(page, html, look) -> None:
    """The response's, unless the map's own is asked for; a whole response is a mean, of a lower scale."""
    show(page, html)
    values = look.trace.maps.mean(axis=0)[:-1]
    page.click("#t7")
    own = drawn(page, "7/0/0")
    for choice, peak in ((None, values.max()), ("own", values[7].max())):
        if choice:
            choose(page, "peak", choice)
        digits = 2 if peak < 0.0995 else 1
        expect(page.locator("#peak-name")).to_contain_text(f"{100 * peak:.{digits}f}\u00a0%")
    assert page.evaluate(CANVAS) != own


@ONE_FAMILY
@pytest.mark.parametrize("reading", [0, 1], ids=["deciding", "of_token"])
def test_the_value_of_a_cell_is_the_value_that_was_read(page, html, look, reading: int) -> None:
    show(page, html)
    choose(page, "rows", reading)
    page.click("#t9")
    drawn(page, f"9/0/{reading}")
    box = page.locator(".stack").bounding_box()
    # just beyond the middle of 6 x 4 cells: token 15
    page.hover(".stack", position={"x": box["width"] / 2 + 2, "y": box["height"] / 2 + 2})
    shown = re.fullmatch(
        r"Visual token 15: (.+)\s% of all attention; x 48–64 px, y 32–48 px", page.text_content("#cell")
    )
    row = look.trace.maps.mean(axis=0)[9 + reading]
    assert float(shown[1]) / 100 == pytest.approx(row[15], abs=float(np.sqrt(row[15] * row.max())) / 255 + 6e-4)
    region = float(re.search(r"region ([\d.]+)\s%", page.text_content("#numbers"))[1]) / 100
    assert region == pytest.approx(look.trace.masses["region"].mean(axis=0)[9 + reading], abs=6e-4)


@ONE_FAMILY
def test_token_colours_follow_the_choice(page, html, look) -> None:
    show(page, html)
    alpha = "[...document.querySelectorAll('.t')].map(t => parseFloat(t.style.backgroundColor.split(',')[3]))"
    for choice, values in (("region", look.trace.masses["region"].mean(axis=0)[:-1]), ("entropy", look.trace.entropy)):
        choose(page, "paint", choice)
        np.testing.assert_allclose(page.evaluate(alpha), 0.72 * values / values.max(), atol=6e-3)


@ONE_FAMILY
def test_hostile_text_stays_text(page, policy, picture, tmp_path) -> None:
    look = look_at(*policy, [picture], HOSTILE + MARKED, response=HOSTILE + MARKED, name=HOSTILE)
    show(page, write_look(look, tmp_path / "look.html"))
    assert page.evaluate("document.title") != "owned"
    assert texts(page, "h1") == [HOSTILE + MARKED] and page.locator("img").count() == 1
    assert page.locator(".t.mark").count() == sum(text == "" for text in look.tokens) > 0
    # a right-to-left override must not turn the page around
    assert "".join(texts(page, ".t:not(.mark)")) == HOSTILE + " dé↵\n 🙂\ufffdx"


@ONE_FAMILY
def test_two_images_without_a_box(page, policy, picture, tmp_path) -> None:
    look = look_at(*policy, [picture, picture.resize((64, 64))], "Which?", response="The red one")
    show(page, write_look(look, tmp_path / "look.html"))
    assert texts(page, "figcaption") == ["Image 1: 24 visual tokens", "Image 2: 16 visual tokens"]
    assert (
        texts(page, "#paint option") == ["attention on the image", "entropy"]
        and page.locator(".stack .answer").count() == 0
    )


def test_views_apart_without_separators_and_heads_and_attention(page, tmp_path) -> None:
    look = synthetic_look(tokens=10, grid=(6, 4), layers=2, views=2)
    look.cells[0].footprints[-1] = np.nan
    look.trace.maps[:] = 0
    show(page, write_look(look, tmp_path / "look.html"))
    assert texts(page, "figcaption") == [
        "whole picture: 24 visual tokens",
        "tiles: 23 visual tokens",
    ]
    assert page.evaluate("document.getElementById('head').disabled")
    page.hover("#t3")
    drawn(page, "3/0/0")


@ONE_FAMILY
def test_the_map_and_the_numbers_of_a_whole_response_have_the_same_weights(page, html, look) -> None:
    show(page, html)
    weights = look.trace.entropy / look.trace.entropy.sum()
    image = weights @ look.trace.masses["image"].mean(axis=0)[:-1]
    assert float(re.search(r"image ([\d.]+)\s%", page.text_content("#numbers"))[1]) / 100 == pytest.approx(
        image, abs=1e-3
    )
    assert f"Attention on the image {image:.1%}" in " ".join(page.inner_text(".facts").split())
    peak = response_map(look.trace).max()
    shown = float(re.match(r"([\d.]+)\s%", page.text_content("#peak-name"))[1]) / 100
    assert shown == pytest.approx(peak, rel=0.02)


@ONE_FAMILY
def test_the_picture_keeps_its_colours_below_a_veil(page, html, look) -> None:
    """Clear where most attention is, the darker the less there is elsewhere."""
    show(page, html)
    data = "[...document.querySelector('.stack canvas').getContext('2d').getImageData(0, 0, 800, 533).data]"
    assert page.evaluate("getComputedStyle(document.querySelector('.photo')).filter") == "none"
    pixels = np.array(page.evaluate(data)).reshape(533, 800, 4)
    values = response_map(look.trace)
    darkest = 255 * 0.85 * (1 - values.min() / values.max())
    assert (pixels[..., :3] == 0).all() and pixels[..., 3].min() == 0
    assert pixels[..., 3].max() == pytest.approx(darkest, abs=3) and darkest > 20
    choose(page, "style", "heat")
    assert "grayscale" in page.evaluate("getComputedStyle(document.querySelector('.photo')).filter")


@ONE_FAMILY
def test_several_looks_share_controls_and_one_scale(page, policy, picture, look, tmp_path) -> None:
    """Two answers on a page, such as those of two models: each with its own tokens."""
    other = look_at(*policy, [picture], "Which?", response="The red one", layers=[1, 2], name="other")
    show(page, write_look({"first": look, "second": other}, tmp_path / "looks.html"))
    assert texts(page, ".pair h2:first-child") == ["first", "second"] and page.locator("#t2-2").count() == 1
    choose(page, "layer", 3)
    drawn(page, "-1/3/0")
    assert texts(page, "output") == ["2", "2"]  # the second has two layers: its last one
    assert page.evaluate("document.getElementById('layer-2').value") == "2"
    choose(page, "layer", 0)
    drawn(page, "-1/0/0")
    peak = max(response_map(one.trace).max() for one in (look, other))
    for name in ("peak-name", "peak-name-2"):
        expect(page.locator(f"#{name}")).to_contain_text(f"{100 * peak:.{2 if peak < 0.0995 else 1}f}\u00a0%")


@ONE_FAMILY
def test_heads_of_the_only_layer(page, policy, picture, tmp_path) -> None:
    """With one layer there is no mean over layers, at which no head could be chosen."""
    look = look_at(*policy, [picture], "Which?", response="The red one", layers=[1])
    show(page, write_look(look, tmp_path / "look.html"))
    choose(page, "head", 2)
    drawn(page, "-1/4/0")


@ONE_FAMILY
def test_controls_have_names(page, html) -> None:
    show(page, html)
    for role, name in (("slider", "Layer"), ("combobox", "Head"), ("listbox", "Tokens of the response")):
        assert page.get_by_role(role, name=re.compile(name)).count() == 1
    assert page.get_by_role("option", name=re.compile("^token 3 “")).count() == 1
    assert page.get_by_role("img", name="How much attention each part of the picture gets").count() == 1


def page_data(path) -> dict:
    """The JSON that stands in a page."""
    return json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', path.read_text(), re.S)[1])


def unpack(data: dict, entry: int) -> np.ndarray:
    """`(T + 1, N)` of one entry, as the page's script unpacks it."""
    packed = {name: base64.b64decode(text) for name, text in data["maps"][entry].items()}
    codes, scales = np.frombuffer(zlib.decompress(packed["codes"]), np.uint8), np.frombuffer(packed["scales"], "<f4")
    return scales[:, None] * (codes.reshape(len(scales), -1).astype(np.float64) / data["levels"]) ** 2


def error_bound(values: np.ndarray, levels: int) -> np.ndarray:
    scales = values.max(axis=-1, keepdims=True)
    return np.sqrt(values * scales) / levels + scales / (2 * levels) ** 2 + 1e-9


def test_the_page_holds_the_values_that_were_read(look, tmp_path) -> None:
    path = write_look(look, tmp_path / "look.html")
    data = page_data(path)
    assert data["layers"] == [0, 1, 2] and data["heads"] == {"3": 4, "2": 8, "1": 12}
    assert len(data["maps"]) == 1 + 3 + 3 * data["num_heads"] and "the last 3 layers" in path.read_text()
    order = [head for layer in (2, 1, 0) for head in range(4 * layer, 4 * layer + 4)]
    expected = [
        np.concatenate([averaged.mean(axis=0)[None], averaged, heads[order]])
        for averaged, heads in (
            (look.trace.maps, look.heads.maps),
            (look.trace.masses["region"], look.heads.masses["region"]),
        )
    ]
    for index, (maps, mass) in enumerate(zip(*expected, strict=True)):
        assert (np.abs(unpack(data, index) - maps) <= error_bound(maps, data["levels"])).all()
        shares = np.frombuffer(base64.b64decode(data["maps"][index]["shares"]), dtype="<f4").reshape(5, -1)
        np.testing.assert_allclose(shares[data["share_names"].index("region")], mass, rtol=1e-6)


def test_what_a_page_may_weigh_decides_on_its_steps_and_heads(look, tmp_path) -> None:
    """Coarser steps before fewer heads; fine steps again where not all heads fit in any."""
    whole = write_look(look, tmp_path / "look.html").stat().st_size
    for less, heads in ((3000, ["3", "2", "1"]), (9000, ["3"])):
        path = write_look(look, tmp_path / "small.html", max_bytes=whole - less)
        data = page_data(path)
        assert path.stat().st_size < whole - less and list(data["heads"]) == heads
        assert (data["levels"] < 255) == (len(heads) == 3)
        mean = look.trace.maps.mean(axis=0)
        assert (np.abs(unpack(data, 0) - mean) <= error_bound(mean, data["levels"])).all()
    with pytest.raises(LookError, match="read fewer layers"):
        write_look(look, tmp_path / "none.html", max_bytes=25_000)
    assert not (tmp_path / "none.html").exists()


def test_300_tokens_over_1500_visual_tokens_of_36_layers_stay_below_10_mb(page, tmp_path) -> None:
    path = write_look(synthetic_look(layers=36), tmp_path / "look.html")
    show(page, path)
    page.hover("#t150")
    drawn(page, "150/0/0")
    assert 1_000_000 < path.stat().st_size < PAGE_BYTES
    data = page_data(path)
    assert len(data["maps"]) == 1 + 36  # every layer is there, in coarser steps
    assert data["levels"] < 255 and f"{data['levels'] + 1} square-root steps" in path.read_text()
