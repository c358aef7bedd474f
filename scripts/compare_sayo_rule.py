"""Which object a GQA question is about: the SAYO release's rule beside ours, on real records.

    python scripts/compare_sayo_rule.py

The release searches a question's `semanticStr` for one id in brackets with a regular expression (Cratileo/Sayo,
utils/pre_processor_data.py) and drops the question where it finds none. Ours reads the program and GQA's annotations
(data_prep/sources/gqa.py). The judge is GQA's own `annotations.answer`, where a question has one.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from data_prep.sources.gqa import referenced_objects

SAMPLES = Path(__file__).parents[1] / "tests" / "data_prep" / "samples" / "gqa" / "train_questions.json"
_RELEASE = re.compile(r"\((?P<number>\d+)\)(?![^(]*\([^()]*\)[^)]*$)")


def release_pick(record: dict) -> str | None:
    """The one object id that the release's rule takes; None drops the question."""
    found = _RELEASE.search(record["semanticStr"])
    return found["number"] if found else None


def compare(records: dict[str, dict]) -> dict[str, tuple[int, int]]:
    """Counts (release, ours) by row of the table."""
    rows: dict[str, list[int]] = {}

    def count(name: str, release: bool, ours: bool) -> None:
        entry = rows.setdefault(name, [0, 0])
        entry[0] += release
        entry[1] += ours

    for record in records.values():
        pick, (answer, evidence) = release_pick(record), referenced_objects(record)
        annotated = set(record["annotations"].get("answer", {}).values())
        count("questions kept", pick is not None, True)
        count("dropped", pick is None, False)
        count("answer annotated, wrong object", bool(annotated and pick and pick not in annotated),
              bool(annotated and set(answer) != annotated))  # fmt: skip
        count("answer annotated, dropped", bool(annotated and pick is None), False)
        needed = {*answer, *evidence}
        count("an object that the question needs is left out", bool(needed - {pick}), False)
        count("objects used as regions", bool(pick), False)
        rows["objects used as regions"][1] += len(needed)
    return {name: (values[0], values[1]) for name, values in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, default=SAMPLES, help="GQA questions JSON")
    records = json.loads(parser.parse_args().questions.read_text())
    annotated = sum(bool(record["annotations"].get("answer")) for record in records.values())
    print(f"| {len(records)} GQA questions, {annotated} with an annotated answer object | SAYO release | sayo |")
    print("|---|---|---|")
    for name, (release, ours) in compare(records).items():
        print(f"| {name} | {release} | {ours} |")


if __name__ == "__main__":
    main()
