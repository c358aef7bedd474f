"""Prior against picture: does paying for the look keep a policy from a shortcut that right answers pay, too?

    make demo                                                         # the world, the policy
    python -m benchmarks.prior --out benchmarks/results/prior.json    # everything in PLAN.md, 1; 300 CPU minutes
    python -m benchmarks.prior --priors 0.98 --arms "cold start,accuracy,both" --seeds 2

In training pictures a disc has its frame's usual colour with probability p (98 %, say); in held-out pictures never.
The cold start sees well, and answers half of the questions with the usual colour without looking. Arms and their runs
are those of `benchmarks.toy`; a run that was measured is not run again.
"""

import json
import random
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.harness import finish, options_of, sayo
from benchmarks.toy import by_arm, run_all, spread
from benchmarks.toy_run import ARMS, CONTROLS, Settings
from data_prep.texts import write_whole

PRIORS = (0.5, 0.9, 0.98, 1.0)
EVERYWHERE = ("cold start", "accuracy", "attention", "both")
NEIGHBOURS = ("both credit", "vppo", "at-rl", "ease", "region share")
AT_98 = ("gated", "both objective", "accuracy objective", *CONTROLS, *NEIGHBOURS)
LONG = {"arms": ("accuracy", "both"), "steps": 160}
GAIN, LEARNT = 0.2, 0.95  # PLAN.md, 1a
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # .975 quantiles for 2, 3, ... 10 seeds


def words_reward(completions: list, **_: Any) -> list[float]:
    """1 for a completion that says it looks; a control: nobody checks whether it does."""
    return [float(completion[0]["content"].strip().startswith("I look at")) for completion in completions]


def make_start(demo: Path, root: Path, *more: str) -> None:
    """The policy that the prior's arms start from, with the habit of stating the usual colour."""
    if not (root / "cold_start" / "config.json").is_file():
        data = root / "cold_start.parquet"
        sayo("toy", "cold-start", "--world", demo / "world", "--out", data, "--habit", "usual")
        where = (f"data.path={data}", f"model.name_or_path={demo / 'policy'}")
        sayo("train", "--config-name", "toy_cold_start", *where, f"trainer.output_dir={root / 'cold_start'}", *more)


def make_world(root: Path, start: Path, prior: float, num_images: int) -> None:
    """Pictures of a prior, prepared, for the controls, too: the region of another object, or of another question."""
    if (root / "prepared_random").is_dir():
        return
    world = root / "world"
    sayo("toy", "world", "--out", world, "--num-images", num_images, "--prior", prior)
    wrong = world / "other_questions.json"
    graphs = json.loads((world / "train_sceneGraphs.json").read_text())
    questions = json.loads((world / "train_questions.json").read_text())
    write_whole(wrong, json.dumps({i: about_another_object(q, graphs[q["imageId"]]) for i, q in questions.items()}))
    parts = [("prepared", split, f"{split}_questions.json", split) for split in ("train", "val", "test")]
    for folder, split, file, graph in (*parts, ("prepared_other", "train", wrong.name, "train")):
        sayo(
            "prepare", "gqa", "--questions", world / file, "--scene-graphs", world / f"{graph}_sceneGraphs.json",
            "--images", world / "images", "--processor", start, "--split", split, "--out", root / folder,
        )  # fmt: skip
    for link in ("policy", "cold_start"):
        (root / link).symlink_to(start.resolve())
    shuffled = root / "prepared_random" / "data"
    shuffled.mkdir(parents=True)
    for file in (root / "prepared" / "data").glob("train-*.parquet"):
        pq.write_table(with_random_regions(pq.read_table(file)), shuffled / file.name)


def about_another_object(record: dict[str, Any], graph: dict[str, Any]) -> dict[str, Any]:
    """A question whose annotations point at another framed disc of its picture: the control's wrong region."""
    frames = {disc["relations"][0]["object"]: i for i, disc in graph["objects"].items() if disc["name"] == "disc"}
    asked = record["annotations"]["question"]
    frame = next(i for i in frames if i in asked.values())
    other = random.Random(frame).choice([i for i in frames if i != frame])
    text = json.dumps(record)
    for old, new in ((frame, other), (frames[frame], frames[other])):
        text = text.replace(old, new)
    return json.loads(text)


def with_random_regions(rows: Any) -> Any:
    """Prepared rows, each with the region of another one."""
    order = np.random.default_rng(0).permutation(len(rows))
    for name in ("regions", "region_tokens", "region_weights"):
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), rows[name].take(order))
    return rows


def difference(rows: list[dict], prior: float, arm: str, other: str = "accuracy") -> tuple[float, float] | None:
    """95 % interval of arm - other over the seeds that both have (same seed, same questions); None without them."""
    of_prior = [row for row in rows if row["p"] == prior and row["steps"] != LONG["steps"]]
    values = {row["arm"]: dict(zip(row["seeds"], row["accuracy"], strict=True)) for row in of_prior}
    gains = [values[arm][i] - values[other][i] for i in values.get(arm, {}) if i in values.get(other, {})]
    if len(gains) < 2:
        return None
    half = STUDENT[len(gains) - 2] * stdev(gains) / len(gains) ** 0.5
    return mean(gains) - half, mean(gains) + half


def missed_targets(rows: list[dict]) -> list[str]:
    """What PLAN.md, 1a, predicts and the rows refute."""
    missed = []
    for prior in {row["p"] for row in rows} & {0.98, 1.0}:
        gain = difference(rows, prior, "both")
        if gain and not (gain[0] > 0 and sum(gain) / 2 >= GAIN):
            missed.append(f"p = {prior}: both - accuracy in [{gain[0]:.3f}, {gain[1]:.3f}]")
        for row in rows:
            if row["p"] == prior and row["arm"] in ("accuracy", "both") and mean(row["accuracy_val"]) < LEARNT:
                missed.append(f"p = {prior}: {row['arm']} has not learnt the training pictures")
    return missed


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of `make demo`")
    parser.add_argument("--runs", type=Path, default=Path("runs/prior"))
    parser.add_argument("--priors", type=float, nargs="+", default=PRIORS)
    parser.add_argument("--arms", help="separated by commas; PLAN.md's if not given")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    size = {"questions": 400, "samples": 2, "images": 4000}
    if options.quick:
        options.priors, options.arms, options.seeds = [0.98], "cold start,both", 1
        size = {"questions": 20, "samples": 1, "images": 100}
    make_start(options.demo, options.runs, *(["trainer.max_steps=4"] if options.quick else []))
    rows: list[dict] = []
    for prior in options.priors:
        root = options.runs / f"{prior:g}"
        make_world(root, options.runs / "cold_start", prior, size["images"])
        names = [*EVERYWHERE, *(AT_98 if prior == 0.98 else ())]
        names = [name.strip() for name in options.arms.split(",")] if options.arms else names
        settings = [(names, 2 if options.quick else None)]
        if prior == 0.98 and not options.arms:
            settings.append((LONG["arms"], LONG["steps"]))
        for arms, steps in settings:
            runs = root / ("runs" if steps is None else f"runs_{steps}")
            bench = Settings(root, runs, steps, size["questions"], size["samples"], also="val")
            found = by_arm(run_all(list(arms), options.seeds, bench, options.workers))
            rows += [{"p": prior, "steps": steps or 40, **row} for row in found]
    shown = [_shown(row, rows) for row in rows]
    finish(options, "Pictures that break the prior", rows, missed_targets(rows), shown, seeds=options.seeds, **size)


def _shown(row: dict, rows: list[dict]) -> dict[str, Any]:
    is_compared = row["steps"] != LONG["steps"] and row["arm"] != "accuracy"
    gain = difference(rows, row["p"], row["arm"]) if is_compared else None
    return {
        "p": row["p"], "policy": ARMS[row["arm"]].label, "steps": row["steps"],
        "prior broken": spread(row["accuracy"]), "prior kept": spread(row["accuracy_val"]), "TAS": spread(row["tas"]),
        "beside accuracy": f"[{gain[0]:+.3f}, {gain[1]:+.3f}]" if gain else "",
    }  # fmt: skip


if __name__ == "__main__":
    main()
