"""Look-Back's attention trend on worked numbers, on real tokens, and as a picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sayo.attention.trace import AttentionTrace
from sayo.trend import control_spans, look_back_lift, plot_trend, tag_spans, token_offsets, trend


def make_trace(masses: dict[str, np.ndarray], is_generate: bool = False) -> AttentionTrace:
    """`masses`: group -> (L, T + 1), or (L, T) where it was read during generate."""
    num_layers, num_rows = next(iter(masses.values())).shape
    sizes = dict.fromkeys(masses, 1.0)
    entropy = np.zeros(num_rows if is_generate else num_rows - 1, dtype=np.float32)
    return AttentionTrace(masses, sizes, entropy, tuple(range(num_layers)))


def test_the_worked_row():
    # prefix .40 | image .20 | <|vision_end|> .02 | question .08 | response .30
    row = {"prefix": 0.40, "image": 0.20, "question": 0.08, "response": 0.30}
    trace = make_trace({group: np.array([[0.9, mass]]) for group, mass in row.items()})
    shares = {group: values.tolist() for group, values in trend(trace).items()}
    assert shares == {
        "image": [pytest.approx(1 / 3)],
        "question": [pytest.approx(0.08 / 0.6)],
        "response": [pytest.approx(0.5)],
    }
    assert sum(value[0] for value in shares.values()) == pytest.approx(0.966667, abs=1e-6)


def test_the_prefix_changes_nothing_and_layers_are_means_of_ratios():
    masses = {"prefix": np.array([[0.5, 0.5], [0.8, 0.8]]), "image": np.array([[0.1, 0.1], [0.1, 0.1]])}
    assert trend(make_trace(masses))["image"] == pytest.approx([(0.1 / 0.5 + 0.1 / 0.2) / 2])
    more_sink = {"prefix": 1 - (1 - masses["prefix"]) / 4, "image": masses["image"] / 4}
    assert trend(make_trace(more_sink))["image"] == pytest.approx(trend(make_trace(masses))["image"])


def test_readings_and_missing_groups():
    masses = {"prefix": np.zeros((1, 3)), "image": np.array([[0.1, 0.2, 0.3]])}
    assert trend(make_trace(masses))["image"] == pytest.approx([0.2, 0.3])
    assert trend(make_trace(masses), "deciding")["image"] == pytest.approx([0.1, 0.2])
    generated = make_trace(masses, is_generate=True)
    assert trend(generated, "deciding")["image"] == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="rows='deciding'"):
        trend(generated)
    system = make_trace({"system": masses["prefix"], "image": masses["image"]})
    with pytest.raises(KeyError, match="'prefix' was not read"):
        trend(system)
    assert trend(system, prefix="system")["image"] == pytest.approx([0.2, 0.3])


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE whose tokens merge the tags with their neighbours (`.</`, `><`), as Qwen's do."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    corpus = ["a.</think><back>ok</back><think>b.</think>"] * 9 + ["><", ".</", ">ok<", "k</"] * 99
    initial = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=275, initial_alphabet=initial, special_tokens=["<eos>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")


def test_merged_tags_give_one_span_with_or_without_an_end(tokenizer):
    text = "<think>a.</think><back>ok</back><think>b</think>"
    ids = tokenizer(text)["input_ids"]
    pieces = [tokenizer.decode([token]) for token in ids]
    assert any("<" in piece and ">" in piece for piece in pieces) and len(pieces) < len(text)
    for response in (ids, [*ids, tokenizer.eos_token_id]):
        decoded, offsets = token_offsets(response, tokenizer)
        assert decoded.startswith(text) and len(offsets) == len(response), "T = number of ids"
        [(start, end)] = tag_spans(decoded, offsets)
        inside = "".join(pieces[start:end])
        assert "ok" in inside and len(inside) <= len("<back>ok</back>")


def test_offsets_come_from_the_ids_not_from_the_text(tokenizer):
    text = "a.</think><back>ok</back>"
    ids = [tokenizer(character)["input_ids"][0] for character in text]  # not how the tokenizer would cut it
    assert len(ids) == len(text) > len(tokenizer(text)["input_ids"])
    decoded, offsets = token_offsets(ids, tokenizer)
    assert offsets == [(i, i + 1) for i in range(len(text))]
    assert tag_spans(decoded, offsets) == [(text.index("ok"), text.index("ok") + 2)]


def test_half_characters_belong_to_the_token_that_ends_them(tokenizer):
    text = "é🐈<back>🐈🐈</back>é"
    ids = tokenizer(text)["input_ids"]
    decoded, offsets = token_offsets(ids, tokenizer)
    assert decoded == text
    assert offsets[0][0] == 0 and offsets[-1][1] == len(text)
    assert all(a[1] == b[0] and a[0] <= a[1] for a, b in pairwise(offsets))
    [(start, end)] = tag_spans(decoded, offsets)
    assert "🐈🐈".startswith(tokenizer.decode(ids[:end]).removeprefix("é🐈<back>").rstrip(">"))
    assert tokenizer.decode(ids[start:end]).rstrip(">").endswith("🐈")
    cut, cut_offsets = token_offsets(ids[:-1], tokenizer)  # ends within a character
    assert len(cut_offsets) == len(ids) - 1 and cut_offsets[-1][1] <= len(cut)


def test_open_empty_and_nested_tags(tokenizer):
    def spans(text):
        return tag_spans(*token_offsets(tokenizer(text)["input_ids"], tokenizer))

    assert spans("<back>cut off") == [] and spans("</back>x<back>") == [] and spans("<back> </back>") == []
    assert len(spans("<back>a</back> b <back>c</back>")) == 2
    assert len(spans("<back>a<back>b</back>c</back>")) == 1
    assert tag_spans("", []) == []


def test_lift_and_control_of_a_decay_with_one_look_back():
    series = np.full(100, 0.1)
    series[60:70] = 0.3
    value = look_back_lift(series, [(60, 70)])
    assert (value.mean, value.control, value.gain) == (pytest.approx(3), pytest.approx(1), pytest.approx(3))
    decay = 0.9 ** np.arange(100)
    value = look_back_lift(decay, [(60, 70)])
    assert value.gain == pytest.approx(1), "a decay is no look back"
    assert value.mean < 0.5 and look_back_lift(decay, [(4, 9)]).gain > 0.5
    assert look_back_lift(series, []) == ([], None, None, None)
    assert look_back_lift(series, [(0, 5)]).spans == [None]


def test_control_spans_touch_no_span_nor_follow_one():
    spans = [(30, 40)]
    found = control_spans(spans[0], spans, 80, window=20)
    assert found[0] == (20, 30) and (21, 31) not in found
    assert (60, 70) in found and (59, 69) not in found and found[-1] == (70, 80)
    assert control_spans((5, 5), [], 80) == [] and control_spans((0, 90), [(0, 90)], 90) == []


def test_the_plot_is_a_picture_that_shows_the_span(tmp_path):
    shares = np.full((2, 51), 0.1)
    trace = make_trace({"prefix": np.full((2, 51), 0.5), "image": shares, "question": shares, "response": shares})
    bare = plot_trend([trace], [[]], tmp_path / "bare", titles=["$costs {2}"])
    shaded = plot_trend([trace, trace], [[(10, 20)], []], tmp_path / "new/shaded.png")
    assert bare.name == "bare.png"
    pixels = [np.asarray(Image.open(path).convert("RGB"), dtype=int) for path in (bare, shaded)]
    orange = [((image[..., 0] > 240) & (image[..., 2] < 210) & (image[..., 1] > 200)).sum() for image in pixels]
    assert orange[1] > 5000 > orange[0]
    assert pixels[1].shape[0] > pixels[0].shape[0]
    with pytest.raises(ValueError, match="give one of each"):
        plot_trend([trace], [], tmp_path / "x.png")
