"""One file per data set (one for those in parquet files).

A source is iterable, sized, and yields `Example` or `Rejected`, one per question read.
"""

from pathlib import Path
from typing import Any

import yaml


def load_sources() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """(command -> entry of data_prep/sources.yaml, whose head says what an entry holds; the shared options)."""
    written = (Path(__file__).parents[1] / "sources.yaml").read_text(encoding="utf-8")
    entries = yaml.load(written, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # a tenth of a second of every command
    return entries, entries.pop("shared")
