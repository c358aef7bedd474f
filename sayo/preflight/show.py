"""The estimate as a page of text: `templates/estimate.txt`."""

from collections.abc import Iterable

from jinja2 import Environment, PackageLoader

from sayo.preflight.advice import until_it_fits
from sayo.preflight.estimate import GIB, Estimate

PAGES = Environment(
    loader=PackageLoader("sayo.preflight"), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)


def as_text(estimate: Estimate) -> str:
    """Memory and time under every sharding, the verdict last."""
    PAGES.filters |= {"gib": _gib, "seconds": "{:,.2f}".format, "yes": lambda fits: "yes" if fits else "no"}
    items = dict.fromkeys(name for price in estimate.prices.values() for name, size in price.worst.items() if size)
    parts = max((price.time for price in estimate.prices.values()), key=len)  # some shardings need a scoring pass
    values = {"items": items, "parts": parts, "row": _row, "knobs": until_it_fits(estimate)}
    return PAGES.get_template("estimate.txt").render(estimate=estimate, **values).strip()


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:32}" + "".join(f"{cell:>12}" for cell in cells)


def _gib(size: float) -> str:
    """Two digits below 10 GiB; small models in fractions."""
    value = size / GIB
    return "-" if not size else f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.01 else f"{value:.4f}"
