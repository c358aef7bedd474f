"""Looks of real toy policies of both families, and a real browser to show them in."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from viz.browser import CHROMIUM, Browser

from sayo.attention import AttentionTrace
from sayo.geometry import VisualCells
from sayo.geometry.cells import uniform_grid
from sayo.toyworld.policy import make_policy, make_processor
from sayo.viz.look import Look, look_at

QUESTION = "What color is the disc in the red frame?"


@pytest.fixture(scope="session", params=["qwen3_vl", "qwen2_5_vl"])
def policy(request):
    """(model, processor) of one toy family."""
    model = make_policy(request.param).eval()
    for name, parameter in model.named_parameters():  # at initialisation attention is nearly uniform
        if "q_proj" in name or "k_proj" in name:
            parameter.data.mul_(1.5)
    return model, make_processor(request.param)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """96 x 64 pixels: 6 x 4 visual tokens."""
    image = Image.new("RGB", (96, 64), "#8a8a8a")
    ImageDraw.Draw(image).ellipse((20, 20, 40, 40), fill="red")
    return image


@pytest.fixture(scope="session")
def look(policy, picture) -> Look:
    """A sampled response of 24 tokens with a region."""
    torch.manual_seed(0)
    model, processor = policy
    options = {"max_new_tokens": 24, "temperature": 1.0, "name": "toy"}
    return look_at(model, processor, [picture], QUESTION, regions=[{"box": [16, 16, 48, 40]}], **options)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium; skips where there is none."""
    pytest.importorskip("websocket", reason="pip install websocket-client (which talks to Chromium)")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium, then the page is tested in it")
    with Browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def page(browser):
    """The browser, with a clean slate; the test must leave it without a complaint from the console."""
    browser.resize(1280, 900)
    browser.errors.clear()
    browser.requests.clear()
    yield browser
    browser.run("1")  # collect what is still under way
    assert browser.errors == []
    assert all(url.startswith(("file:", "data:", "blob:", "about:")) for url in browser.requests)


def synthetic_look(tokens: int = 300, grid: tuple[int, int] = (50, 30), layers: int = 28, views: int = 1) -> Look:
    """A look of any shape: maps are noise around a few bright cells, harder to deflate than real ones."""
    generator = np.random.default_rng(0)
    columns, rows = grid
    count = columns * rows * views
    maps = generator.exponential(1e-4, (layers, tokens + 1, count)).astype(np.float32)
    maps[..., generator.integers(0, count, 8)] += 0.02
    image = Image.fromarray(generator.integers(0, 255, (rows * 20, columns * 20, 3), dtype=np.uint8))
    footprints = uniform_grid(columns, rows, (0, 0, *image.size))
    cells = VisualCells(np.concatenate([footprints] * views), np.repeat(np.arange(views), columns * rows), image.size)
    share = maps.sum(axis=-1)
    masses = {"region": share * 0.2, **dict.fromkeys(("image", "question", "response", "prefix"), share)}
    entropy = generator.random(tokens, dtype=np.float32)
    trace = AttentionTrace(masses, {"region": 25.0, "image": count}, entropy, tuple(range(layers)), maps)
    regions, words = [{"image": 0, "box": [100.0, 100.0, 200.0, 200.0]}], [f" word{index}" for index in range(tokens)]
    made = {"tokens": words, "special": [False] * tokens, "trace": trace, "heads": None, "origin": "given"}
    return Look(model="synthetic", question=QUESTION, images=[image], cells=[cells], regions=regions, **made)
