"""Checks that stop a run before it learns from the wrong tokens."""

from __future__ import annotations

from typing import Any

from sayo.geometry import VisualLayout

VISION_TOKEN_KEYS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def vision_token_ids(config: Any) -> list[int]:
    """Ids that must never be sampled: each would be taken for (the border of) an image that is not there."""
    ids = (getattr(config, key, None) for key in VISION_TOKEN_KEYS)
    return sorted({token_id for token_id in ids if token_id is not None})


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
            "Prepare the data for this model: repeat the `sayo prepare` command with `--processor "
            f"{getattr(model_config, '_name_or_path', '') or 'MODEL'}`."
        )
