"""Attention over the course of a response: its drift over many, and whether `<back>` spans look back.

Source of the trend and its lift: Look-Back (arXiv 2507.03019), `vis_demo/att_trend_viz.py` of the public release.
Differences: spans are located by the characters of the response's own ids, any number of images, any end of the
response; the arithmetic is `sayo.metrics.lookback`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from sayo.answers.extract import parse_look_back
from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.layers import LayerSpec
from sayo.draw import new_figure, plain
from sayo.errors import SayoError
from sayo.metrics.lookback import LookBackLift, Span, attention_trend, back_spans, look_back_lift, mean_of_known
from sayo.rewards import accuracy_reward
from sayo.rollout import generate, processor_inputs, read_traces, token_offsets
from sayo.viz.plots import COLORS, GREY, line

SPAN_COLOR = "#e69f00"
MARKERS = "os^D"
FEWEST = 5  # responses that a mean needs to be drawn
WORDS = {  # key of `trend_summary`: what it says, and how it is written
    "responses": ("responses", "{}"),
    "accuracy": ("right answers", "{:.1%}"),
    "back_rate": ("responses with <back>", "{:.1%}"),
    "strict_rate": ("responses in Look-Back's exact form", "{:.1%}"),
    "accuracy_with_back": ("right answers with <back>", "{:.1%}"),
    "accuracy_without_back": ("right answers without", "{:.1%}"),
    "lift": ("lift: image's share inside <back> / in the 20 tokens before", "{:.2f}"),
    "control": ("the same for other stretches of this length", "{:.2f}"),
    "gain": ("lift / control", "{:.2f}"),
    "image_share_by_tenth": ("image's share, by tenth of the response", "{:.0%}"),
}
SHARES_OF = "Attention of each token on image, question and response so far; the prompt's start (a sink) is left out"


class Response(NamedTuple):
    """A sampled response to a prepared row.

    Attributes:
        text: without special tokens.
        offsets: half-open character range of each token.
        trace: its attention, without maps (for a real model they are gigabytes that no curve needs).
    """

    row: Mapping[str, Any]
    text: str
    offsets: list[Span]
    trace: AttentionTrace


def sample_responses(
    model: nn.Module,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    layers: LayerSpec = "all",
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    batch_size: int = 32,
) -> Iterator[Response]:
    """One response to each prepared row (greedy at temperature 0), in order; the rows' regions are the key group."""
    capture = AttentionCapture(model, layers=layers)
    for start in range(0, len(rows), batch_size):
        batch = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
        inputs = processor_inputs(processor, batch, model.device)
        completions = generate(model, processor, inputs, max_new_tokens=max_new_tokens, temperature=temperature)
        (traces,) = read_traces(model, processor, inputs, completions, batch, [capture], temperature)
        for row, ids, mask, trace in zip(batch, completions.ids, completions.mask, traces, strict=True):
            kept = ids[mask.bool()].tolist()
            yield Response(row, *token_offsets(processor.tokenizer, kept, skip_special_tokens=True), trace)


def drift(traces: Sequence[AttentionTrace], width: int = 1) -> dict[str, np.ndarray]:
    """Means over responses along the response, as long as at least `FEWEST` responses last.

    Args:
        width: consecutive tokens of a response that are averaged first (see `drift_width`).

    Returns:
        name -> `(points, 3)`: response token (from 1; the middle of those averaged), mean and half a 95% interval
        (1.96 standard errors over responses). "image": share of all attention on the image; "region": attention per
        region token relative to a mean visual token (1 = no preference).

    Raises:
        SayoError: too few responses to average.
    """
    curves = {
        "image": [trace.mass("image", "deciding").mean(axis=0) for trace in traces],
        "region": [
            trace.mean("region", "deciding").mean(axis=0) / trace.mean("image", "deciding").mean(axis=0)
            for trace in traces
            if trace.has_region
        ],
    }
    return {name: _mean_curve(parts, width) for name, parts in curves.items()}


def drift_width(traces: Sequence[AttentionTrace], most: int = 20) -> int:
    """Tokens per point for curves of at most `most` points over the longest response."""
    return max(1, -(-max(map(len, traces), default=1) // most))


def _mean_curve(parts: Sequence[np.ndarray], width: int) -> np.ndarray:
    points = []
    for start in range(0, max(map(len, parts), default=0), width):
        values = np.array([part[start : start + width].mean() for part in parts if len(part) > start])
        if len(values) < FEWEST:
            break
        points.append((start + (1 + width) / 2, values.mean(), 1.96 * values.std(ddof=1) / np.sqrt(len(values))))
    if not points:
        raise SayoError(f"fewer than {FEWEST} responses to average: ask more questions (--num-questions)")
    return np.array(points)


def save_drift(curves: Mapping[str, Mapping[str, np.ndarray]], path: str | Path, dpi: int = 200) -> Path:
    """Draw attention on image and region over the response, one line per label of `curves` (results of `drift`)."""
    titles = {"image": "attention on the image (% of a row)", "region": "region token / mean visual token"}
    with new_figure(path, 7.5, 2.9, dpi) as figure:
        panels = figure.subplots(1, 2)
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            for (label, curve), color, marker in zip(curves.items(), COLORS, MARKERS, strict=False):
                tokens, mean, half = curve[name].T * np.array([[1], *[[100 if name == "image" else 1]] * 2])
                line(axes, tokens, mean, color, label, half, marker=marker)
            axes.set(xlabel="position in the response (token)", ylabel=title, ylim=(0, None))
        panels[1].axhline(1, color=GREY, lw=1, ls=":")
        note = {"transform": panels[1].transAxes, "fontsize": 7, "ha": "right", "color": GREY}
        panels[1].text(1, 0.02, "dotted: no preference", **note)
        panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(curves))
    return Path(path)


def trend_record(response: Response) -> dict[str, Any]:
    """What `trend.json` holds of one response; without an image or a token it has neither spans nor shares."""
    text, trace, row = response.text, response.trace, response.row
    has_shares = len(trace) > 0 and trace.sizes.get("image", 0) > 0
    spans = back_spans(text, response.offsets) if has_shares else []
    shares = attention_trend(trace)["image"] if has_shares else np.zeros(0)
    return {
        "id": str(row["id"]),
        "response": text,
        "correct": accuracy_reward([text], [row["solution"]], [row.get("answers")])[0],
        "strict": parse_look_back(text).strict,
        "spans": spans,
        **look_back_lift(shares, spans)._asdict(),
        "image_share": shares.tolist(),
    }


def trend_summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates over the responses, means of what is defined, and the image's share in each tenth of a response."""
    back = [record for record in records if record["spans"]]
    no_back = [record for record in records if not record["spans"]]
    tenths = [
        [part.mean() for part in np.array_split(record["image_share"], 10)]
        for record in records
        if len(record["image_share"]) >= 10
    ]
    return {
        "responses": len(records),
        "back_rate": len(back) / len(records) if records else None,
        "strict_rate": mean_of_known([record["strict"] for record in records]),
        "accuracy": mean_of_known([record["correct"] for record in records]),
        "accuracy_with_back": mean_of_known([record["correct"] for record in back]),
        "accuracy_without_back": mean_of_known([record["correct"] for record in no_back]),
        **{name: mean_of_known([record[name] for record in records]) for name in LookBackLift._fields},
        "image_share_by_tenth": np.mean(tenths, axis=0).tolist() if tenths else None,
    }


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """`trend_summary` in words; what is not known is left out."""
    known = [(*words, summary[key]) for key, words in WORDS.items() if summary[key] is not None]
    return [
        f"{text:<60}" + " ".join(form.format(one) for one in (value if isinstance(value, list) else [value]))
        for text, form, value in known
    ]


def save_trend(responses: Sequence[tuple[Mapping[str, Any], AttentionTrace]], path: str | Path) -> Path:
    """Draw the shares of each response below the other, `<back>` spans shaded, with their lift.

    `responses` is at least one `trend_record` that has shares, each with the trace it was made of.
    """
    with new_figure(path, 8.0, 2.4 * len(responses) + 0.6, dpi=150) as figure:
        figure.suptitle(plain(SHARES_OF, wrap=90), fontsize=9)
        panels = figure.subplots(len(responses), squeeze=False)[:, 0]
        for axes, (record, trace) in zip(panels, responses, strict=True):
            for (group, values), color in zip(attention_trend(trace).items(), COLORS, strict=False):
                line(axes, np.arange(len(values)), values, color, group)
            for number, (start, end) in enumerate(record["spans"]):
                label = "<back>" if number == 0 else None
                axes.axvspan(start - 0.5, end - 0.5, color=SPAN_COLOR, alpha=0.25, linewidth=0, label=label)
            title = f"question {record['id']}: {'right' if record.get('correct') else 'wrong'}"
            if record["lift"] is not None:
                control = "" if record["control"] is None else f", control {record['control']:.2f}"
                title = f"{title} (lift {record['lift']:.2f}{control})"
            axes.set_title(title, loc="left")
            axes.set(ylim=(0, 1), xlim=(-0.5, len(trace) - 0.5), ylabel="share of attention")
        panels[-1].set_xlabel("response token")
        panels[0].legend(loc="upper right", ncols=4)
    return Path(path)
