"""Which object a GQA question is about: the SAYO release's rule beside ours, on real records.

    python -m benchmarks.gqa_objects

The release searches a question's `semanticStr` for one id in brackets with a regular expression (Cratileo/Sayo,
utils/pre_processor_data.py) and drops the question where it finds none. Ours reads the program and GQA's annotations
(data_prep/sources/gqa.py). The judge is GQA's own `annotations.answer`, where a question has one.
"""

import json
import re
from pathlib import Path

from benchmarks.harness import ROOT, finish, options_of
from data_prep.sources.gqa import referenced_objects

SAMPLES = ROOT / "tests/data_prep/samples/gqa/train_questions.json"
_RELEASE = re.compile(r"\((?P<number>\d+)\)(?![^(]*\([^()]*\)[^)]*$)")


def release_pick(record: dict) -> str | None:
    """The one object id that the release's rule takes; None drops the question."""
    found = _RELEASE.search(record["semanticStr"])
    return found["number"] if found else None


def compare(records: dict[str, dict]) -> list[dict]:
    """Counts of both rules, one row of the table each."""
    counts: dict[str, list[int]] = {}

    def count(name: str, release: int, ours: int) -> None:
        entry = counts.setdefault(name, [0, 0])
        entry[0] += release
        entry[1] += ours

    for record in records.values():
        pick, (answer, evidence) = release_pick(record), referenced_objects(record)
        annotated, needed = set(record["annotations"].get("answer", {}).values()), {*answer, *evidence}
        wrong = bool(annotated and set(answer) != annotated)
        count("questions kept", pick is not None, True)
        count("dropped", pick is None, False)
        count("answer annotated, wrong object", bool(annotated and pick and pick not in annotated), wrong)
        count("answer annotated, dropped", bool(annotated and pick is None), False)
        count("an object that the question needs is left out", bool(needed - {pick}), False)
        count("objects used as regions", bool(pick), len(needed))
    return [{"GQA questions": name, "SAYO release": values[0], "sayo": values[1]} for name, values in counts.items()]


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--questions", type=Path, default=SAMPLES, help="GQA questions JSON")
    options = parser.parse_args()
    records = json.loads(options.questions.read_text())
    annotated = sum(bool(record["annotations"].get("answer")) for record in records.values())
    rows = compare(records)
    missed = [row["GQA questions"] for row in rows if "wrong" in row["GQA questions"] and row["sayo"]]
    finish(options, f"{len(records)} GQA questions, {annotated} with an annotated answer object", rows, missed)


if __name__ == "__main__":
    main()
