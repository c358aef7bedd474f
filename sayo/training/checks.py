"""Checks that stop a run before it learns from the wrong tokens."""

from __future__ import annotations

from typing import Any

from sayo.geometry import VisualLayout


def check_dataset(dataset: Any, processor: Any, model_config: Any) -> None:
    """Refuse data whose region tokens were computed for another processor.

    A data set without the column (plain TRL data) passes: it has no region tokens that could be wrong.

    Raises:
        ValueError: with both fingerprints and the command that maps the data again.
    """
    if dataset is None or "processor_fingerprint" not in (getattr(dataset, "column_names", None) or ()):
        return
    prepared = set(dataset.unique("processor_fingerprint"))
    expected = VisualLayout.from_processor(processor, model_config).fingerprint
    if prepared - {expected}:
        other = next(iter(prepared - {expected}))
        raise ValueError(
            "The data's region tokens belong to another processor than this model's.\n"
            f"  prepared for: {other or 'no processor at all'}\n  this model:   {expected}\n"
            f"Map them: sayo map DATA --out NEW --processor {getattr(model_config, '_name_or_path', '') or 'MODEL'}"
        )
