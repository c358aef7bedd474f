"""The part of a model card that says how a model was trained, from the recipe and the log that its run left."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from sayo.export.checkpoint import Checkpoint

HELD_OUT = ("accuracy", "tas", "region_score", "region_ratio", "num_questions")
SECRET = re.compile(r"token|secret|password|api_key", re.IGNORECASE)
SETTINGS = (  # of the trainer, in the order in which they are shown; TRL's names
    *("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("num_generations", "max_completion_length", "temperature", "top_p", "beta", "loss_type", "seed"),
)
METRICS = (  # of the training log, in the order in which they are shown
    *("reward", "rewards/*/mean", "attention/tas", "attention/region_ratio", "attention/region_mass"),
    *("completions/mean_length", "entropy", "kl"),
)


def training_section(source: Checkpoint) -> list[str]:
    """Paragraphs of Markdown: settings, rewards, metrics of the log, held-out results and the recipe, where known."""
    recipe, parts = source.recipe, []
    trainer = recipe.get("trainer") or {}
    facts = {
        "Steps": source.trainer_state.get("global_step"),
        "Data": _shorten((recipe.get("data") or {}).get("path")),
        "Attention layers read": _attention_layers(recipe),
    }
    facts |= {setting: trainer.get(setting) for setting in SETTINGS}
    parts.append("\n".join(f"- {name}: {_text(value)}" for name, value in facts.items() if value is not None))
    if rewards := recipe.get("rewards"):
        table = ["| reward | function | weight | options |", "|---|---|---|---|"]
        for name, entry in rewards.items():
            options = _text(entry.get("options") or {})
            table.append(f"| {name} | `{entry['function']}` | {entry.get('weight', 1.0)} | {options} |")
        parts.append("\n".join(table))
    if rows := _metrics(source.trainer_state.get("log_history") or []):
        parts.append("Metrics of the training log (means of up to ten entries at its start and at its end):")
        table = ["| metric | start | end |", "|---|---|---|"]
        parts.append("\n".join(table + [f"| `{key}` | {a:.4g} | {b:.4g} |" for key, a, b in rows]))
    if table := _evaluation((source.run or source.folder) / "evaluation"):
        parts += ["Held-out questions:", table]
    if recipe:
        import yaml

        body = yaml.safe_dump(_public(recipe), sort_keys=False, allow_unicode=True)
        body = body.replace("```", "'''")
        parts.append(f"<details><summary>Resolved recipe</summary>\n\n```yaml\n{body}```\n\n</details>")
    return [part for part in parts if part] or ["The run left no recipe and no log beside this checkpoint."]


def _attention_layers(recipe: dict[str, Any]) -> Any:
    """The recipe's layers, or the trainer's default for a run with rewards, which a recipe may leave unsaid."""
    if not recipe.get("rewards"):
        return None
    from sayo.training.config import RegionGRPOConfig

    return (recipe.get("trainer") or {}).get("attention_layers", RegionGRPOConfig.attention_layers)


def _metrics(history: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """`(key, mean of the first ten, mean of the last ten)` of the finite values of each known metric."""
    keys = dict.fromkeys(key for entry in history for key in entry)
    rows = []
    for pattern in METRICS:
        matcher = re.compile("^" + re.escape(pattern).replace(r"\*", "[^/]+") + "$")
        for key in filter(matcher.match, keys):
            values = [v for v in (e.get(key) for e in history) if isinstance(v, (int, float)) and math.isfinite(v)]
            if values:
                many = min(10, math.ceil(len(values) / 2))
                first, last = values[:many], values[-many:]
                rows.append((key, sum(first) / len(first), sum(last) / len(last)))
    return rows


def _evaluation(folder: Path) -> str | None:
    """Accuracy and attention before and after training, where the run was evaluated."""
    found = {}
    for moment in ("before", "after"):
        path = folder / moment / "summary.json"
        if path.is_file():
            found[moment] = json.loads(path.read_text())
    rows = [key for key in HELD_OUT if any(key in summary for summary in found.values())]
    if not rows:
        return None
    lines = [f"| | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for key in rows:
        values = (summary.get(key) for summary in found.values())
        lines.append(f"| {key} | {' | '.join('n/a' if v is None else f'{v:.4g}' for v in values)} |")
    return "\n".join(lines)


def _public(tree: Any) -> Any:
    """The recipe without folders of the machine and without anything that could be a secret."""
    if isinstance(tree, dict):
        return {k: _public(v) for k, v in tree.items() if not (SECRET.search(str(k)) and isinstance(v, str))}
    if isinstance(tree, list):
        return [_public(value) for value in tree]
    return _shorten(tree)


def _shorten(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key} = {entry}" for key, entry in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
