"""The instructions that the models are given, and the data card: jinja templates in `templates/`.

Models are asked to put what counts between tags of our own (`<description>`, `<reasoning>`, `<response>`), so that a
thinking model's own `<think>` is never mixed up with it. Sources: the three roles of AVAR (arXiv 2603.03825) and the
formats of Look-Back (arXiv 2507.03019); neither released its prompts, so the words are ours.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader("data_prep.synthesize"), undefined=StrictUndefined)


def render(template: str, **values: Any) -> str:
    """The text of a template such as `describe.jinja`; values are put in as they are, whatever they contain."""
    return _templates().get_template(template).render(**values)
