"""What a run asks of a GPU, with few tokens, for tests that compute by hand."""

from typing import Any

from sayo.preflight.setting import Setting, TokenCount


def make_setting(**options: Any) -> Setting:
    """One process, two micro-batches per step, without generation; `options` are fields of `Setting`."""
    shared = {"gpus": 1, "sharding": "ddp", "device": "cpu", "bf16": False, "checkpointing": False}
    shared |= {"micro_batch": 4, "accumulation": 2, "completion_tokens": 60, "tokens": TokenCount(96, 20, 96, 20)}
    return Setting(**{**shared, **options})
