"""Texts that are written: jinja templates of this package, and files that appear complete or not at all."""

import os
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined)
    environment.filters["cell"] = _cell
    return environment


def _cell(value: str) -> str:
    """Text of a source's file inside a table: no line break or bar may break it."""
    return " ".join(value.split()).replace("|", "\\|")[:120]


def render_text(template: str, **values: Any) -> str:
    """The text of a template, without its last line break; values are put in as they are, whatever they contain."""
    return _templates().get_template(template).render(**values)


def write_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name, and move it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(temporary, path)
