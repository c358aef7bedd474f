"""How fast data are prepared, and how large they are: `sayo prepare` on generated GQA and COCO files.

    python -m benchmarks.prepare --quick
    python -m benchmarks.prepare --out benchmarks/results/prepare_cpu.json --check

Beside it, in the same run and on the same files: what the SAYO release does for each question (decode, resize to
448 x 448 with PIL, encode as PNG; on a part of the questions), and the floor (read the image bytes of each question,
write them with the same columns, compression, row groups and fsync as parquet; no annotation is read, all other values
are fixed, no image header is looked at).

Pictures are real JPEG files of 500 x 375 (gradients with noise), a few hundred of them in 20,000 files that differ by
a comment. Ten questions about one picture lie anywhere in the file, as in GQA's balanced files. `times_pictures`: the
size of what was written, over that of the pictures' files; for the parquet files, and for the cache that training
reads, by `load_linked` and by `load_dataset`.
"""

import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from PIL import Image

from benchmarks.harness import ROOT, call_of, collect, finish, options_of
from benchmarks.prepare_files import PER_IMAGE, SIZE, write_coco, write_gqa, write_images

FASTER_THAN_RELEASE, SHARE_OF_FLOOR, PEAK_MIB, TIMES_PICTURES = 20.0, 0.5, 1024, 1.2
SETTINGS = {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}


def release_way(images: str, questions: int, target: str) -> None:
    """What the SAYO release does for each question: decode, resize to a square, encode as PNG."""
    from datasets import Dataset

    rows = []
    for index in range(questions):
        picture = Image.open(f"{images}/{index // PER_IMAGE}.jpg").convert("RGB").resize((448, 448))
        data = io.BytesIO()
        picture.save(data, format="PNG")
        rows.append({"id": str(index), "question": "What?", "solution": "wood", "image": {"bytes": data.getvalue()}})
    Dataset.from_list(rows).to_parquet(target)


def floor(images: str, questions: int, per_image: int, rows: str, target: str) -> None:
    """Read the image bytes of each question (once a picture) and write them: the columns of `rows`, fixed values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = pq.ParquetFile(next(Path(rows).glob("data/*.parquet")))
    schema, fixed = first.schema_arrow, next(first.iter_batches(1)).to_pylist()[0]
    options = {"write_statistics": False, "dictionary_pagesize_limit": 1 << 30}
    read = functools.lru_cache(maxsize=1)(lambda name: Path(images, name).read_bytes())
    for shard in range(0, questions, 2000):
        path = Path(target, f"{shard}.parquet")
        with pq.ParquetWriter(path, schema, **options) as writer:
            for start in range(shard, min(shard + 2000, questions), 100):
                indices = range(start, min(start + 100, questions))
                names = {index: f"{index // per_image}.jpg" for index in indices}
                pictures = {index: [{"bytes": read(name), "path": name}] for index, name in names.items()}
                batch = [{**fixed, "id": str(index), "images": pictures[index]} for index in indices]
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
        with path.open("rb") as file:
            os.fsync(file.fileno())


def read_all(way: str, files: list[str], cache: str) -> None:
    """Fill the cache that training reads: "load_linked" of a recipe's `data.path`, or plain "load_dataset"."""
    from datasets import config, load_dataset

    from sayo.training.rows import load_linked

    config.HF_DATASETS_CACHE = Path(cache)
    if way == "load_linked":
        load_linked([Path(file) for file in files], "train")
    else:
        load_dataset("parquet", data_files=files, split="train", cache_dir=cache)


def measure(command: Sequence[object]) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak MiB of a command line, over the process and its children."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began, peak, used = time.perf_counter(), 0, _cpu_seconds_of_children()
    process = psutil.Popen([*map(str, command)], env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in family if member.is_running()))
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{command} ended with status {process.returncode}; its error is above.")
    return {"seconds": seconds, "cpu_seconds": _cpu_seconds_of_children() - used, "peak_mib": round(peak / 2**20)}


def _cpu_seconds_of_children() -> float:
    """Of those that have ended."""
    times = psutil.Process().cpu_times()
    return times.children_user + times.children_system


def run(
    kind: str, data: str, rows: int | Path, command: Sequence[object], processes: int = 1, written: Path | None = None
) -> dict:
    """One row of the table; `rows` is their number, or the prepared folder whose summary has it.

    `written` is a folder in whose parent `images` has the pictures; its size over theirs is `times_pictures`.
    """
    cost = measure(command)
    rows = json.loads((rows / "summary.json").read_text())["kept"] if isinstance(rows, Path) else rows
    speed = {"rows_per_s": rows / cost["seconds"], "rows_per_cpu_s": rows / cost["cpu_seconds"]}
    if written is not None:
        speed["times_pictures"] = _size(written) / _size(written.parent / "images")
    numbers = {name: round(value, 2) for name, value in {**cost, **speed}.items()}
    return {"kind": kind, "data": data, "processes": processes, "rows": rows, **numbers}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def bench(root: Path, questions: int, images: int, release: int) -> Iterator[dict]:
    """All runs; the data set's floor has as many questions a picture as its own rows have."""
    write_images(root / "images", images)
    write_gqa(root, questions, images)
    write_coco(root, images)
    (root / "qwen3").mkdir()
    (root / "qwen3" / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (root / "qwen3" / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    sources = {
        "gqa": ("--questions", root / "questions.json", "--scene-graphs", root / "graphs.json"),
        "coco": ("--instances", root / "instances.json"),
    }
    sayo = (Path(sys.executable).with_name("sayo"),)  # the command itself, whose workers import its main module again
    command = call_of("benchmarks.prepare:release_way", f"{root}/images", release, f"{root}/release.parquet")
    yield run("release", "both", release, command)
    for name, files in sources.items():
        for processes in (1, 2):
            out = root / f"{name}{processes}"
            words = ("prepare", name, *files, "--images", root / "images", "--out", out, "--num-proc", processes)
            row = run("sayo", name, out, (*sayo, *words), processes=processes, written=out)
            yield row
        part, mapped = _first_shards(out, root / f"{name}-part", 5), root / f"{name}-mapped"
        words = ("map", part, "--processor", root / "qwen3", "--out", mapped)
        yield run("map", name, mapped, (*sayo, *words))
        if name == "gqa":
            files = [str(path) for path in sorted(out.glob("data/*.parquet"))]
            for way in ("load_linked", "load_dataset"):
                command = call_of("benchmarks.prepare:read_all", way, files, str(root / way))
                yield run(way, name, row["rows"], command, written=root / way)
                shutil.rmtree(root / way)
        per_image, target = max(1, round(row["rows"] / images)), root / f"floor-{name}"
        rows = min(row["rows"], per_image * images)
        target.mkdir()
        command = call_of("benchmarks.prepare:floor", f"{root}/images", rows, per_image, str(out), str(target))
        yield run("floor", name, rows, command)


def _first_shards(out: Path, part: Path, most: int) -> Path:
    """A data set of the first shards of another: mapping masks takes long."""
    (part / "data").mkdir(parents=True)
    for shard in sorted((out / "data").glob("*.parquet"))[:most]:
        os.link(shard, part / "data" / shard.name)
    return part


def ratios(results: list[dict]) -> list[dict]:
    """For each data set: one process against the release's way, one and two processes against the floor.

    Against the floor in rows/s; against the release's way, where other load on the machine would flatter us most, in
    rows per CPU second.
    """
    speed = {(row["data"], row["kind"], row["processes"]): row for row in results}
    rows = []
    for name in ("gqa", "coco"):
        single, double, least = speed[name, "sayo", 1], speed[name, "sayo", 2], speed[name, "floor", 1]
        release = speed["both", "release", 1]
        ratio = {
            "times_release": single["rows_per_cpu_s"] / release["rows_per_cpu_s"],
            "share_of_floor": single["rows_per_s"] / least["rows_per_s"],
            "share_of_floor_two_processes": double["rows_per_s"] / least["rows_per_s"],
        }
        rows.append({"kind": "ratios", "data": name, **{key: round(value, 2) for key, value in ratio.items()}})
    return rows


def missed_targets(rows: list[dict]) -> list[str]:
    ours = [row for row in rows if row["kind"] in ("sayo", "map", "load_linked")]
    missed = [f"peak of {row['kind']} {row['data']}" for row in ours if row["peak_mib"] > PEAK_MIB]
    missed += [f"size of {row['kind']} {row['data']}" for row in ours if row.get("times_pictures", 0) > TIMES_PICTURES]
    for row in rows:
        if row["kind"] == "ratios":
            best = max(row["share_of_floor"], row["share_of_floor_two_processes"])
            missed += [f"{row['data']}: release"] * (row["times_release"] < FASTER_THAN_RELEASE)
            missed += [f"{row['data']}: floor"] * (best < SHARE_OF_FLOOR)
    return missed


def main() -> None:
    options = options_of(__doc__).parse_args()
    questions, images, release = (6_000, 600, 40) if options.quick else (200_000, 20_000, 400)
    data = {"gqa_questions": questions, "images": images, "size": SIZE, "release_measured_on": release}
    targets = {"times_release": FASTER_THAN_RELEASE, "share_of_floor": SHARE_OF_FLOOR, "peak_mib": PEAK_MIB}
    targets["times_pictures"] = TIMES_PICTURES
    with tempfile.TemporaryDirectory() as folder:  # 15 GB; TMPDIR says where
        rows = collect(options, bench(Path(folder), questions, images, release))
    rows += ratios(rows)
    finish(options, "Preparing data", rows, missed_targets(rows), data=data, targets=targets)


if __name__ == "__main__":
    main()
