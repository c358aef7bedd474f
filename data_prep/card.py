"""What lies beside the data: summary.json, rejects.jsonl and README.md (data card), all made from the shards."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from data_prep.shards import read_account

_CARD = """---
license: {license}
task_categories:
- visual-question-answering
configs:
- config_name: default
  data_files:
{data_files}
---
# Grounded questions ({sources})

Questions about images with the regions that their answers depend on, made by `sayo prepare`.
`prompt`, `images` and `solution` alone are a valid TRL data set:

```python
from datasets import load_dataset
rows = load_dataset("path/to/this/folder", split="{split}")
```

| split | questions | with region | rejected |
|---|---|---|---|
{splits}

Columns: `regions` are boxes xyxy in pixels of the upright original image, with role `answer` (weight 1) or `evidence`
(weight 0.5). `region_tokens` index the sample's visual tokens in order of appearance, with `region_weights`, for the
processor of `processor_fingerprint`; they are null where no processor was given. Rows without a region keep
`has_region = false`. Rejected rows: rejects.jsonl; counts: summary.json.

Licences of the rows: {licenses}. GQA: Hudson and Manning 2019, annotations CC BY 4.0.
Each image keeps its own licence.
{rejected}"""


def write_card(out: Path) -> dict[str, Any]:
    """Write the three files from the accounts of all shards in `out/data`.

    Returns:
        the summary: read, kept, rejected, rejected_by_reason, with_region, without_region, question_types, licenses,
        and the same by split with the settings used.
    """
    splits: dict[str, dict[str, Any]] = {}
    rejects: list[str] = []
    for path in sorted((out / "data").glob("*.parquet")):
        account = read_account(path)
        split = account["settings"]["--split"]
        _add(splits.setdefault(split, {"settings": account["settings"]}), account)
        rejects += [json.dumps({"split": split, **entry}) + "\n" for entry in account["rejects"]]
    total: dict[str, Any] = {}
    for entry in splits.values():
        _add(total, entry)
    summary = {**_plain(total), "splits": {name: _plain(entry) for name, entry in splits.items()}}
    _replace(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    _replace(out / "rejects.jsonl", "".join(rejects))
    _replace(out / "README.md", _card(summary))
    return summary


def _add(total: dict[str, Any], account: dict[str, Any]) -> None:
    for name in ("read", "kept", "with_region"):
        total[name] = total.get(name, 0) + account[name]
    for name in ("rejected_by_reason", "question_types", "licenses"):
        total.setdefault(name, Counter()).update(account[name])


def _plain(total: dict[str, Any]) -> dict[str, Any]:
    rest = {name: dict(sorted(total[name].items())) for name in ("rejected_by_reason", "question_types", "licenses")}
    counts = {
        "read": total["read"],
        "kept": total["kept"],
        "rejected": total["read"] - total["kept"],
        "with_region": total["with_region"],
        "without_region": total["kept"] - total["with_region"],
    }
    return {**counts, **rest, **({"settings": total["settings"]} if "settings" in total else {})}


def _card(summary: dict[str, Any]) -> str:
    splits = summary["splits"]
    reasons = summary["rejected_by_reason"]
    licenses = sorted(summary["licenses"])
    return _CARD.format(
        license=licenses[0].lower() if len(licenses) == 1 else "other",
        data_files="\n".join(f"  - split: {name}\n    path: data/{name}-*.parquet" for name in splits),
        sources=", ".join(sorted({entry["settings"]["source"] for entry in splits.values()})),
        split=next(iter(splits)),
        splits="\n".join(
            f"| {name} | {entry['kept']} | {entry['with_region']} | {entry['rejected']} |"
            for name, entry in splits.items()
        ),
        licenses=", ".join(licenses) or "none",
        rejected="".join(
            ["\n| rejected because | rows |\n|---|---|\n", *(f"| {name} | {n} |\n" for name, n in reasons.items())]
            if reasons
            else []
        ),
    )


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(temporary, path)
