"""One file per data set. A source is iterable, sized, and yields `Example` or `Rejected`, one per question read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def load_sources() -> dict[str, dict[str, Any]]:
    """Command -> entry of data_prep/sources.yaml, whose head says what an entry holds."""
    return yaml.safe_load((Path(__file__).parents[1] / "sources.yaml").read_text(encoding="utf-8"))
