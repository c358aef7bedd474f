"""How fast data are prepared: rows/s and peak memory of `sayo prepare` on generated GQA and COCO files.

Beside it, in the same run and on the same files: what the SAYO release does for each question (decode, resize to
448 x 448 with PIL, encode as PNG; on a part of the questions), and the floor (read the image bytes of each question,
write them with the same columns, compression, row groups and fsync as parquet; no annotation is read, all other values
are fixed, no image header is looked at).

    python scripts/bench_prepare.py --quick               # under a minute
    python scripts/bench_prepare.py --out benchmarks/prepare_cpu.json --check

Pictures are real JPEG files of 500 x 375 (gradients with noise), a few hundred different ones under 20,000 names. Ten
questions follow each other about one picture, as in GQA's train_all files.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from PIL import Image
from prepare_files import DIFFERENT, PER_IMAGE, SIZE, write_coco, write_gqa, write_images

REPOSITORY = Path(__file__).parents[1]
RELEASE_QUESTIONS = 400  # on how many questions the release's way is timed
ERRORS = tempfile.TemporaryFile()  # what a failed command had to say
FASTER_THAN_RELEASE, SHARE_OF_FLOOR = 20.0, 0.5


def release_way(images: Path, questions: int, target: Path) -> None:
    """What the SAYO release does for each question: decode, resize to a square, encode as PNG."""
    from datasets import Dataset

    rows = []
    for index in range(questions):
        picture = Image.open(images / f"{index // PER_IMAGE}.jpg").convert("RGB").resize((448, 448))
        data = io.BytesIO()
        picture.save(data, format="PNG")
        rows.append({"id": str(index), "question": "What?", "solution": "wood", "image": {"bytes": data.getvalue()}})
    Dataset.from_list(rows).to_parquet(target)


def floor(images: Path, questions: int, per_image: int, target: Path) -> None:
    """Read the image bytes of each question (once a picture) and write them: the same columns, with fixed values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_prep.rows import features

    schema = features().arrow_schema
    region = {
        "image": 0,
        "box": [1.0, 2.0, 30.0, 40.0],
        "rle": None,
        "role": "answer",
        "weight": 1.0,
        "label": "thing",
    }
    fixed = {
        "question": "What is the thing to the left of the other thing made of?", "solution": "wood",
        "answers": ["wood"], "regions": [region] * 2, "has_region": True, "region_tokens": None,
        "region_weights": None, "num_visual_tokens": None, "processor_fingerprint": None,
        "image_sizes": [list(SIZE)], "question_type": "query-attr", "source": "gqa", "split": "train",
        "license": "CC-BY-4.0",
    }  # fmt: skip
    options = {"write_statistics": False, "dictionary_pagesize_limit": 1 << 30}
    last, data = -1, b""
    for shard in range(-(-questions // 2000)):
        with pq.ParquetWriter(target / f"{shard}.parquet", schema, **options) as writer:
            for start in range(shard * 2000, min((shard + 1) * 2000, questions), 100):
                rows = []
                for index in range(start, min(start + 100, questions)):
                    if index // per_image != last:
                        last = index // per_image
                        data = (images / f"{last}.jpg").read_bytes()
                    prompt = [{"role": "user", "content": fixed["question"]}]
                    own = {"id": str(index), "prompt": prompt, "images": [{"bytes": data, "path": f"{last}.jpg"}]}
                    rows.append({**fixed, **own})
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        with (target / f"{shard}.parquet").open("rb") as file:
            os.fsync(file.fileno())


def measure(start: Callable[[], psutil.Popen]) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak MiB) of a command, over the process and its children."""
    began, peak, used = time.perf_counter(), 0, cpu_seconds()
    process = start()
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(one.memory_info().rss for one in family if one.is_running()))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        ERRORS.seek(0)
        raise SystemExit(f"error: {process.args} ended with {process.returncode}: {ERRORS.read()[-2000:].decode()}")
    return seconds, cpu_seconds() - used, peak / 2**20


def cpu_seconds() -> float:
    """CPU time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def python(*arguments: object) -> Callable[[], psutil.Popen]:
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return lambda: psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=ERRORS)


def sayo(command: str, *arguments: object) -> Callable[[], psutil.Popen]:
    code = "from data_prep.cli import prepare_app, map_rows; import typer; app = typer.Typer(); "
    code += "app.add_typer(prepare_app, name='prepare'); app.command('map')(map_rows); app()"
    return python("-c", code, *command.split(), *arguments)


def run(name: str, rows: int, start: Callable[[], psutil.Popen], out: Path | None = None) -> dict:
    seconds, cpu, peak = measure(start)
    rows = kept(out) if out else rows
    print(f"  {name}: {rows} rows in {seconds:.1f} s", file=sys.stderr)
    return {"name": name, "rows": rows, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2),
            "rows_per_s": round(rows / seconds, 1), "rows_per_cpu_s": round(rows / cpu, 1),
            "peak_mib": round(peak)}  # fmt: skip


def kept(out: Path) -> int:
    return json.loads((out / "summary.json").read_text())["kept"]


def first_shards(out: Path, part: Path, most: int) -> tuple[Path, int]:
    """A data set of the first shards of another, and its number of rows: mapping masks takes long."""
    from data_prep.shards import list_shards, read_account

    (part / "data").mkdir(parents=True)
    shards = list_shards(out)[:most]
    for shard in shards:
        os.link(shard, part / "data" / shard.name)
    return part, sum(read_account(shard)["kept"] for shard in shards)


def bench(root: Path, questions: int, images: int, release: int) -> list[dict]:
    """All runs; the data set's floor has as many questions a picture as its own rows have."""
    write_images(root / "images", images)
    write_gqa(root, questions, images)
    write_coco(root, images)
    (root / "qwen3").mkdir()
    (root / "qwen3" / "config.json").write_text('{"model_type": "qwen3_vl"}')
    settings = {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}
    (root / "qwen3" / "preprocessor_config.json").write_text(json.dumps(settings))
    results = []
    sources = {
        "gqa": ("--questions", root / "questions.json", "--scene-graphs", root / "graphs.json"),
        "coco": ("--instances", root / "instances.json"),
    }
    for name, files in sources.items():
        for processes in (1, 2):
            out = root / f"{name}{processes}"
            start = sayo(f"prepare {name}", *files, "--images", root / "images", "--out", out, "--num-proc", processes)
            entry = run(f"sayo prepare {name}, {processes} process{'es' * (processes - 1)}", 0, start, out)
            results.append({**entry, "data": name, "kind": "sayo", "processes": processes})
        rows = entry["rows"]
        part, count = first_shards(out, root / f"{name}-part", 5)
        start = sayo("map", part, "--processor", root / "qwen3", "--out", root / f"{name}-mapped")
        entry = run(f"sayo map of {name} (qwen3_vl), {count} rows", count, start)
        results.append({**entry, "data": name, "kind": "map", "processes": 1})
        per_image = max(1, rows // images)
        rows = min(rows, per_image * images)
        target = root / f"floor-{name}"
        target.mkdir()
        start = python(__file__, "--part", "floor", root / "images", rows, per_image, target)
        entry = run(f"floor of {name}: read bytes, write parquet", rows, start)
        results.append({**entry, "data": name, "kind": "floor", "processes": 1})
    start = python(__file__, "--part", "release", root / "images", release, 1, root / "release.parquet")
    entry = run(f"decode + resize + PNG, {release} questions", release, start)
    results.append({**entry, "data": "both", "kind": "release", "processes": 1})
    return results


def ratios(results: list[dict]) -> dict[str, dict[str, float]]:
    """For each data set: one process against the release's way, one and two processes against the floor.

    Against the floor in rows/s and in rows per CPU second, because other work on the machine stretches the wall time
    of each run by another factor; against the release's way, where that would flatter us most, in CPU time only.
    """
    speed = {(one["data"], one["kind"], one["processes"]): one for one in results}

    def ratio(name: str, kind: str, other: str, unit: str = "rows_per_s", processes: int = 1) -> float:
        return round(speed[name, "sayo", processes][unit] / speed[other, kind, 1][unit], 2)

    return {
        name: {
            "times_release": ratio(name, "release", "both", "rows_per_cpu_s"),
            "share_of_floor": ratio(name, "floor", name),
            "share_of_floor_two_processes": ratio(name, "floor", name, processes=2),
            "share_of_floor_in_cpu_time": ratio(name, "floor", name, "rows_per_cpu_s"),
        }
        for name in ("gqa", "coco")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a thirtieth of the data, under a minute")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument(
        "--folder", type=Path, help="where the generated files go (about 4 GB); default: a temporary one"
    )
    parser.add_argument("--part", nargs=5, help=argparse.SUPPRESS)  # one baseline, in a process of its own
    options = parser.parse_args()
    if options.part:
        kind, folder, rows, per_image, target = options.part
        if kind == "floor":
            return floor(Path(folder), int(rows), int(per_image), Path(target))
        return release_way(Path(folder), int(rows), Path(target))
    questions, images, release = (6_000, 600, 40) if options.quick else (200_000, 20_000, RELEASE_QUESTIONS)
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = bench(Path(folder), questions, images, release)
    found = ratios(results)
    content = {
        "machine": {"cpus": os.cpu_count(), "system": platform.system(), "python": platform.python_version(),
                    "load_average_before": load[0], "load_average_after": os.getloadavg()[0]},
        "data": {"gqa_questions": questions, "images": images, "different_files": DIFFERENT, "size": SIZE,
                 "questions_follow_each_other_per_image": PER_IMAGE, "release_measured_on": release},
        "runs": results, "ratios": found,
        "targets": {"times_release": FASTER_THAN_RELEASE, "share_of_floor": SHARE_OF_FLOOR, "peak_mib": 1024},
    }  # fmt: skip
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"{'run':44} {'rows':>8} {'s':>7} {'rows/s':>7} {'CPU s':>7} {'rows/CPU s':>10} {'peak MiB':>9}")
    for one in results:
        print(f"{one['name']:44} {one['rows']:8} {one['seconds']:7.1f} {one['rows_per_s']:7.0f} "
              f"{one['cpu_seconds']:7.1f} {one['rows_per_cpu_s']:10.0f} {one['peak_mib']:9}")  # fmt: skip
    missed = [f"peak of {one['name']}" for one in results if one["kind"] in ("sayo", "map") and one["peak_mib"] > 1024]
    for name, values in found.items():
        print(f"{name}: {values['times_release']:.0f} times the release's way (target {FASTER_THAN_RELEASE:.0f}); "
              f"{values['share_of_floor']} of the floor with one process ({values['share_of_floor_in_cpu_time']} in "
              f"CPU time), {values['share_of_floor_two_processes']} with two (target {SHARE_OF_FLOOR})")  # fmt: skip
        best = max(values["share_of_floor"], values["share_of_floor_two_processes"])
        missed += [f"{name}: release"] * (values["times_release"] < FASTER_THAN_RELEASE)
        missed += [f"{name}: floor"] * (best < SHARE_OF_FLOOR)
    print("all targets met" if not missed else f"missed: {', '.join(missed)}")
    raise SystemExit(bool(missed and options.check))


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()
