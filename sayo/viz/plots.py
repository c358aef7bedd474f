"""What all charts share: colours, lines with bands, smoothing, and charts as data URIs for pages."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sayo.draw import new_figure, plain
from sayo.viz.pages import to_base64

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")  # Okabe and Ito's palette
GREY = "#94a3b8"
CHART_STYLE = Path(__file__).with_name("chart.mplstyle")


@dataclass(frozen=True)
class Chart:
    """A picture of a page: `uri` is an SVG data URI, `caption` plain text."""

    title: str
    uri: str
    caption: str = ""


def chart(title: str, caption: str, draw: Callable[["Axes"], None]) -> Chart:
    """A chart that `draw` fills, as SVG (a data URI: no script, no outside resource, no clash of ids)."""
    buffer = io.BytesIO()
    options = {"format": "svg", "transparent": True, "metadata": {"Date": None}}
    with new_figure(buffer, 4.7, 3.0, styles=[CHART_STYLE], **options) as figure:
        draw(figure.subplots())
    return Chart(title, f"data:image/svg+xml;base64,{to_base64(buffer.getvalue())}", caption)


def line(
    axes: "Axes",
    x: np.ndarray,
    y: np.ndarray,
    color: str,
    label: str,
    half_width: np.ndarray | None = None,
    marker: str | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> None:
    """A line and, with `half_width` (same shape as `y`), a band around it within `bounds`; a single point is a dot."""
    if len(x) == 0:
        return
    if half_width is not None:
        band = np.clip(y - half_width, *bounds), np.clip(y + half_width, *bounds)
        axes.fill_between(x, *band, color=color, alpha=0.15, linewidth=0)
    marker = "o" if len(x) == 1 else marker
    label = plain(label, width=28)
    label = f" {label}" if label.startswith("_") else label  # matplotlib hides those that begin with an underscore
    axes.plot(x, y, color=color, linewidth=1.6, marker=marker, markersize=3.5, label=label)


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a twentieth of the series (at least 1 value); NaN is skipped, the ends are shorter."""
    half = len(values) // 40
    if half == 0:
        return values
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.nanmean(window) if np.isfinite(window).any() else np.nan for window in windows])
