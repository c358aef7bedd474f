"""The estimate as a page of text (`templates/estimate.txt`) and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sayo.preflight.advice import combined, knobs
from sayo.preflight.estimate import GIB, Estimate


def as_json(estimate: Estimate) -> dict[str, Any]:
    """Plain values; memory in bytes, time in seconds."""
    chosen = estimate.chosen
    prices = {
        kind: {"fits": price.fits, "peak": price.peak, "memory": price.phases, "time": price.time}
        for kind, price in estimate.prices.items()
    }
    turn = [] if chosen.fits else [(change, price.peak, note) for change, price, note in knobs(estimate)]
    head = {"fits": chosen.fits, "sharding": chosen.setting.sharding, "available": chosen.available}
    return {**head, "tokens": vars(estimate.tokens), "prices": prices, "knobs": turn}


def as_text(estimate: Estimate) -> str:
    """Memory and time under every sharding, the verdict last."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("sayo.preflight"), trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "gib": _gib,
        "seconds": "{:,.2f}".format,
        "yes": lambda fits: "yes" if fits else "no",
        "item_at_peak": lambda price, name: price.phases[price.worst_phase].get(name, 0),
        "epoch_hours": lambda price: price.setting.steps_per_epoch * price.seconds / 3600,
    }
    prices = estimate.prices.values()
    items = dict.fromkeys(name for price in prices for name, size in price.phases[price.worst_phase].items() if size)
    values = {"estimate": estimate, "items": items, "row": _row}
    if not estimate.chosen.fits:
        values |= {"knobs": knobs(estimate), "together": combined(estimate)}
    return environment.get_template("estimate.txt").render(values)


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:32}" + "".join(f"{cell:>12}" for cell in cells)


def _gib(size: float) -> str:
    """Two digits below 10 GiB; small models in fractions."""
    value = size / GIB
    return "-" if not size else f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.01 else f"{value:.4f}"
