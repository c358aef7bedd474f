"""What lies beside the data: summary.json, rejected.jsonl and README.md (data card), all made from the shards."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.shards import AREA_BINS, COUNTERS, read_account

_COUNTS = ("read", "kept", "with_region", "with_mask")

# Who made the annotations, by what the rows' source and licence begin with: files of one's own in GQA's format, under
# another licence, are nobody else's work.
CREDITS = {
    "gqa: CC-BY-4.0": "GQA: Hudson and Manning 2019, annotations CC BY 4.0.",
    "coco: CC-BY-4.0": "COCO: Lin et al. 2014, annotations CC BY 4.0, questions made by `sayo prepare coco`.",
    "refcoco: CC-BY-4.0": "RefCOCO/+/g: Yu et al. 2016 and Mao et al. 2016, over COCO train2014, CC BY 4.0.",
    "refocus: Apache-2.0": "ReFocus_Data: Fu et al. 2025, Apache-2.0.",
    "visual_cot: Apache-2.0": "Visual-CoT: Shao et al. 2024, Apache-2.0; each part keeps its own data set's terms.",
    "visual_genome: CC-BY-4.0": "Visual Genome: Krishna et al. 2017, CC BY 4.0.",
}

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
rows = load_dataset("parquet", data_files="path/to/this/folder/data/{split}-*.parquet", split="train")
```

| split | questions | with region | with mask | rejected |
|---|---|---|---|---|
{splits}

Columns: `regions` are boxes xyxy in pixels of the upright original image, with role `answer` (weight 1) or `evidence`
(weight 0.5), and a COCO run-length mask `rle` where one is known. `region_tokens` index the sample's visual tokens in
order of appearance, with `region_weights`, for the processor of `processor_fingerprint`; they are null where no
processor was given (`sayo map` adds them). Rows without a region keep `has_region = false`. Rejected rows:
rejected.jsonl; counts: summary.json.

## Sources and licences

{licenses}
{credits}
Each image keeps its own licence.

## Regions

{regions}
{parts}{rejected}"""


def write_card(out: Path) -> dict[str, Any]:
    """Write the three files from the accounts of all shards in `out/data`.

    Returns:
        the summary: read, kept, rejected, with_region, without_region, with_mask and the `COUNTERS` of
        `data_prep.shards`, over all and by split; a split also has the settings used.
    """
    splits: dict[str, dict[str, Any]] = {}
    temporary = out / f".rejected.jsonl.{os.getpid()}.tmp"
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as rejects:
        for path in sorted((out / "data").glob("*.parquet")):
            account = read_account(path)
            split = account["settings"]["--split"]
            _add(splits.setdefault(split, {"settings": account["settings"]}), account)
            rejects.writelines(json.dumps({"split": split, **entry}) + "\n" for entry in account["rejects"])
    os.replace(temporary, out / "rejected.jsonl")
    total: dict[str, Any] = {}
    for entry in splits.values():
        _add(total, entry)
    summary = {**_plain(total), "splits": {name: _plain(entry) for name, entry in splits.items()}}
    _replace(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    _replace(out / "README.md", _card(summary))
    return summary


def _add(total: dict[str, Any], account: dict[str, Any]) -> None:
    for name in _COUNTS:
        total[name] = total.get(name, 0) + account[name]
    for name in COUNTERS:
        total.setdefault(name, Counter()).update(account[name])


def _plain(total: dict[str, Any]) -> dict[str, Any]:
    counts = {
        "read": total["read"],
        "kept": total["kept"],
        "rejected": total["read"] - total["kept"],
        "with_region": total["with_region"],
        "without_region": total["kept"] - total["with_region"],
        "with_mask": total["with_mask"],
    }
    rest = {name: dict(sorted(total[name].items())) for name in COUNTERS}
    return {**counts, **rest, **({"settings": total["settings"]} if "settings" in total else {})}


def _card(summary: dict[str, Any]) -> str:
    splits, licenses = summary["splits"], sorted(summary["licenses"])
    sources = sorted({name.split(":")[0] for name in summary["source_licenses"]}) or sorted(
        {entry["settings"]["source"] for entry in splits.values()}
    )
    reasons = summary["rejected_by_reason"]
    return _CARD.format(
        license=licenses[0].lower() if len(licenses) == 1 and re.fullmatch(r"[\w.-]+", licenses[0]) else "other",
        data_files="\n".join(f"  - split: {name}\n    path: data/{name}-*.parquet" for name in splits),
        sources=", ".join(sources),
        split=next(iter(splits)),
        splits="\n".join(
            f"| {name} | {entry['kept']} | {entry['with_region']} | {entry['with_mask']} | {entry['rejected']} |"
            for name, entry in splits.items()
        ),
        licenses=_table(("source: licence", "rows"), summary["source_licenses"].items()),
        credits="\n".join(
            text for start, text in CREDITS.items() if any(one.startswith(start) for one in summary["source_licenses"])
        ),
        regions=_table(("regions of a question", "questions"), _by_number(summary["regions_per_question"]))
        + "\n"
        + _table(
            ("region's box, share of the image", "regions"),
            [(name, summary["region_area"].get(name, 0)) for name in AREA_BINS],
        ),
        parts=_parts(splits),
        rejected="\n## Rejected rows\n\n" + _table(("because", "rows"), reasons.items()) if reasons else "",
    )


def _parts(splits: dict[str, Any]) -> str:
    """What `sayo mix` drew from where; empty for other data."""
    parts = next((entry["settings"]["parts"] for entry in splits.values() if "parts" in entry["settings"]), [])
    lines = [f"| {_cell(one['part'])} | {one['rows']} | {one['drawn']} | {one['shared']} |" for one in parts]
    head = "\n## Parts of the mix\n\n| part | rows there | drawn | passed over: picture taken |\n|---|---|---|---|\n"
    return head + "\n".join(lines) + "\n" if parts else ""


def _by_number(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: int(entry[0]))


def _table(head: tuple[str, str], rows: Iterable[tuple[str, int]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {_cell(name)} | {count} |" for name, count in rows]
    return "\n".join(lines) + "\n"


def _cell(value: str) -> str:
    """Text of a source's file inside a table: no line break or bar may break it."""
    return " ".join(value.split()).replace("|", "\\|")[:120]


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(temporary, path)
