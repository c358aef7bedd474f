"""What lies beside the data: summary.json, rejected.jsonl and README.md (data card), all made from the shards."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from data_prep.shards import AREA_BINS, COUNTERS, SUMS, read_account
from data_prep.sources import load_sources
from data_prep.texts import render_text, write_whole


def write_card(out: Path) -> dict[str, Any]:
    """Write the three files from the accounts of all shards in `out/data`.

    Returns:
        the summary: read, kept, rejected, with_region, without_region, with_mask and the `COUNTERS` of
        `data_prep.shards`, over all and by split; a split also has the settings used.
    """
    accounts: dict[str, list[dict[str, Any]]] = {}
    temporary = out / f".rejected.jsonl.{os.getpid()}.tmp"
    with temporary.open("w", encoding="utf-8") as rejected:  # one after another: they may be millions
        for path in sorted((out / "data").glob("*.parquet")):
            account = read_account(path)
            split = account["settings"]["--split"]
            accounts.setdefault(split, []).append(account)
            rejected.writelines(json.dumps({"split": split, **row}) + "\n" for row in account.pop("rejected_rows"))
    os.replace(temporary, out / "rejected.jsonl")
    splits = {split: {**_sum(those), "settings": those[0]["settings"]} for split, those in accounts.items()}
    summary = {**_sum([account for those in accounts.values() for account in those]), "splits": splits}
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_whole(out / "README.md", _card(summary))
    return summary


def _sum(accounts: list[dict[str, Any]]) -> dict[str, Any]:
    total = {name: sum(account[name] for account in accounts) for name in ("read", *SUMS)}
    counters = {name: sum((Counter(account[name]) for account in accounts), Counter()) for name in COUNTERS}
    return {
        "read": total["read"],
        "kept": total["kept"],
        "rejected": total["read"] - total["kept"],
        "with_region": total["with_region"],
        "without_region": total["kept"] - total["with_region"],
        "with_mask": total["with_mask"],
        **{name: dict(sorted(counter.items())) for name, counter in counters.items()},
    }


def _card(summary: dict[str, Any]) -> str:
    """The data card. Files of one's own in GQA's format, under another licence, are nobody else's work: no credit."""
    settings = [split["settings"] for split in summary["splits"].values()]
    licenses, kinds = sorted(summary["licenses"]), summary["source_licenses"]
    entries = [(name.replace("-", "_"), entry) for name, entry in load_sources()[0].items() if "credit" in entry]
    one_license = len(licenses) == 1 and re.fullmatch(r"[\w.-]+", licenses[0])
    values = {
        **summary,
        "license": licenses[0].lower() if one_license else "other",
        "sources": sorted({kind.split(":")[0] for kind in kinds} or {entry["source"] for entry in settings}),
        "credits": [
            entry["credit"]
            for name, entry in entries
            if any(kind.startswith(f"{name}: {entry['license']}") for kind in kinds)
        ],
        "regions_per_question": sorted(summary["regions_per_question"].items(), key=lambda entry: int(entry[0])),
        "region_area": [(name, summary["region_area"].get(name, 0)) for name in AREA_BINS],
        "parts": next((entry["parts"] for entry in settings if "parts" in entry), []),  # of `sayo mix`
    }
    return render_text("card.md.jinja", **values) + "\n"
