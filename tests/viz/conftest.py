"""Looks of real toy policies of both families, and a real browser to show them in."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from playwright.sync_api import expect, sync_playwright

from sayo.attention import AttentionTrace
from sayo.geometry import VisualCells
from sayo.geometry.cells import uniform_grid
from sayo.toyworld.policy import make_policy, make_processor
from sayo.viz.look import Look, look_at

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium, then the page is tested in it")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser):
    """A new tab; at the end nothing may have complained in the console or been loaded from elsewhere."""
    errors, urls = [], []
    page = browser.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: urls.append(request.url))
    yield page
    page.close()
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:", "about:")) for url in urls)


def show(page, path: Path) -> None:
    """Load a look page and wait until its first map is drawn."""
    page.goto(path.resolve().as_uri())
    expect(page.locator("body")).to_have_attribute("data-drawn", re.compile("."))


def texts(page, selector: str) -> list[str]:
    """What each of some elements says."""
    return page.locator(selector).all_text_contents()


def choose(page, element_id: str, value: object) -> None:
    """Give a control a value, as a user does."""
    control = page.locator(f"#{element_id}")
    if control.evaluate("element => element.tagName") == "SELECT":
        control.select_option(str(value))
    else:
        control.fill(str(value))


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
