"""In a notebook: a trace of the user's own call beside its texts and picture, and a look that shows itself."""

import html
import re

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from viz.conftest import QUESTION

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.draw import response_map
from sayo.geometry import VisualLayout
from sayo.metrics import relative_map, sink_tokens, tag_spans
from sayo.rollout import processor_inputs, token_texts
from sayo.viz.look import Look, LookError

ONE_FAMILY = pytest.mark.parametrize("policy", ["qwen3_vl"], indirect=True)
BOX = [16, 16, 48, 40]


@pytest.fixture
def own(policy, picture) -> Look:
    """As docs/concepts.md does it: a capture around `generate`, then texts and picture beside the trace."""
    model, processor = policy
    row = {"prompt": [{"role": "user", "content": QUESTION}], "images": [picture]}
    inputs, layout = processor_inputs(processor, [row], "cpu"), VisualLayout.from_processor(processor, model.config)
    torch.manual_seed(0)
    with AttentionCapture(model, "all", maps=True, samples=[layout.sample([picture.size], [BOX])]) as capture:
        output = model.generate(**inputs, max_new_tokens=8)
    trace = capture.trace(output)[0]
    tokens = token_texts(processor.tokenizer, output[0, inputs["input_ids"].shape[1] :][: len(trace)].tolist())
    return Look(trace, tokens, [picture], [layout.cells(*picture.size)], QUESTION, regions=[{"image": 0, "box": BOX}])


@ONE_FAMILY
def test_a_look_at_a_trace_of_ones_own_shows_itself(own, page, tmp_path) -> None:
    """In a frame, offline. Generating never runs the last token's own row: that reading cannot be chosen."""
    (tmp_path / "cell.html").write_text(f"<!doctype html><meta charset='utf-8'>{own._repr_html_()}")
    page.goto((tmp_path / "cell.html").as_uri())
    frame = page.frame_locator("iframe")
    expect(frame.locator("body")).to_have_attribute("data-drawn", "-1/0/0")
    frame.locator("#t2").hover()
    expect(frame.locator("body")).to_have_attribute("data-drawn", "2/0/0")
    assert frame.locator("#rows option[disabled]").all_text_contents() == ["of the token itself"]
    region = own.trace.mass("region", "deciding").mean(axis=0)[2]
    shown = re.search(r"region ([\d.]+)\s%", frame.locator("#numbers").text_content())[1]
    assert float(shown) / 100 == pytest.approx(region, abs=6e-4)


@ONE_FAMILY
def test_pictures_of_a_token_of_the_response_and_of_values(own) -> None:
    """Each differs; without sinks and beside a neutral prompt, a map is a value like any other."""
    seen, neutral = response_map(own.trace), np.linspace(0.01, 0.03, 24)
    relative = relative_map(seen, neutral, sink_tokens(neutral, share=0.1))
    np.testing.assert_allclose(relative[:21], (seen / seen.sum() / (neutral / neutral.sum()))[:21])
    assert (relative[21:] == 0).all() and (relative_map(np.zeros(24), neutral) == 0).all()
    plots = [own.plot(), own.plot(token=2), own.plot(values=relative)]
    assert len({np.asarray(plot).tobytes() for plot in plots}) == 3 and min(plot.width for plot in plots) > 300


@ONE_FAMILY
def test_what_does_not_belong_together_is_no_look(own) -> None:
    bare = AttentionTrace(own.trace.masses, own.trace.sizes, own.trace.entropy, own.trace.layers)
    for trace, tokens, images in (
        (bare, own.tokens, own.images),
        (own.trace, ["a"], own.images),
        (own.trace, own.tokens, []),
    ):
        with pytest.raises(LookError):
            Look(trace, tokens, images, own.cells)


@ONE_FAMILY
def test_a_trace_shows_and_saves_itself(own, tmp_path) -> None:
    shown = html.unescape(own.trace._repr_html_())
    assert shown.count("<span") == len(own.trace) and "colour: attention on 'region'" in shown
    image = own.trace.mass("image", "deciding").mean(axis=0)[2]
    assert f"image {image:.2%}" in re.findall(r'title="([^"]*)"', shown)[2]
    again = AttentionTrace.load(own.trace.save(tmp_path / "trace"))  # as named: no suffix is added
    assert (again.layers, again.sizes, again.tokens) == (own.trace.layers, own.trace.sizes, None)
    pairs = zip(again.to_dict().items(), own.trace.to_dict().items(), strict=True)
    for (name, values), (same, expected) in pairs:
        assert name == same and values.dtype == expected.dtype
        np.testing.assert_array_equal(values, expected)


def test_spans_by_the_names_of_their_tags() -> None:
    tokens = [
        "<think>",
        "a",
        " b",
        "</think",
        ">",
        "<ans",
        "wer>red</answer>",
        "<answer>",
        " blue",
        "</answer>",
        "<x>",
    ]
    assert tag_spans(tokens) == {"think": (1, 3), "answer": (8, 9)}
