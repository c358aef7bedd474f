"""Rehearse what users do: every published recipe and every documented command, with stand-ins of the published models.

    python -m scripts.rehearse --quick                              # the recipe `sayo` alone
    python -m scripts.rehearse --only docs internvl3_5_1b --check   # all parts without `--only`

A part is a published recipe (the commands of its head, with dry run, preflight, export, evaluation and look around the
launch), another model of recipes/model with the recipe `sayo`, or `docs` (the commands of README.md and docs/*.md, in
their order). The stand-ins lie in a hub cache under the published names, so the commands run as they are written; only
steps, device and sizes are changed. A launch is two ranks on this CPU, killed after its first checkpoint and resumed.
"""

import importlib
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from benchmarks.harness import ROOT, collect, finish, options_of

STARTS = ("sayo ", "accelerate launch ", "python scripts/", "python -m ")
SETTINGS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
CANNOT: dict[str, str] = SETTINGS["cannot"]
UNPRICED = "Preflight models the activations of"  # the beginning of its answer about other families: that is tested


def commands_of(text: str) -> list[str]:
    """The commands in the code blocks of a page (fenced or indented by four), continuation lines joined."""
    found, fenced = [], False
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        fenced ^= line.startswith("```")
        command = re.sub(r"^\s*(?:[A-Z_]+=\S+ +)*", "", line)
        if command.startswith(STARTS) and (fenced or line.startswith("    ")):
            found.append(command)
    return found


def parts() -> dict[str, list[tuple[str, str]]]:
    """Part -> (where it is written, command), in the order of the rehearsal."""
    from sayo.recipes import recipe_names

    published = [name for name in recipe_names() if "toy" not in name]
    heads = {name: (ROOT / f"recipes/{name}.yaml").read_text("utf-8").replace("\n#  ", "\n   ") for name in published}
    made = {name: [(f"{name}.yaml", command) for command in commands_of(text)] for name, text in heads.items()}
    for model in (name for name in recipe_names("model") if name not in SETTINGS["always"]):
        own = {"qwen3_vl_8b": model, "prepared/gqa": f"prepared/{model}"}
        made[model] = [(where, re.sub("|".join(own), lambda m: own[m[0]], text)) for where, text in made["sayo"]]  # noqa: B023
    pages = [ROOT / "README.md", ROOT / "docs/quickstart.md", *sorted((ROOT / "docs").glob("*.md"))]
    made["docs"] = [(page.name, command) for page in dict.fromkeys(pages) for command in commands_of(page.read_text())]
    return made


def walk(part: str, written: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Run the commands of a part, each once, and a recipe's launch with the rest of its road."""
    from sayo.recipes import recipe_names

    data, done = "prepared/gqa", set()
    try:
        for model in {*SETTINGS["always"], part} & set(recipe_names("model")):
            stand_in(model)
    except ImportError as error:
        yield {"part": part, "written_in": "", "command": "", "seconds": 0.0, "result": f"not run: {error}"}
        return
    shutil.copytree("../start", f"../{part}", symlinks=True)
    os.chdir(f"../{part}")
    for where, command in written:
        row = {"part": part, "written_in": where, "command": command, "seconds": 0.0}
        if reasons := [reason for words, reason in CANNOT.items() if words in command]:
            yield {**row, "result": f"not run: {reasons[0]}"}
            continue
        words = shlex.split(command.replace(" ... ", f" {SETTINGS['files']} "), comments=True)
        if words[:2] == ["sayo", "prepare"]:
            data = words[words.index("--out") + 1]
        for step in road_of(words, data) if part != "docs" and words[1] == "launch" else [words]:
            if shlex.join(step) not in done:
                done.add(shlex.join(step))
                yield {**row, "command": shlex.join(step), **run(step)}


def road_of(launch: list[str], data: str) -> list[list[str]]:
    """The launch of a recipe between the steps that the quickstart puts around it."""
    recipe, folder = launch[launch.index("--config-name") :], recipe_of(launch).trainer["output_dir"]
    model, results = folder.replace("runs/", "models/"), folder.replace("runs/", "results/")
    return [
        ["sayo", "train", *recipe, "--dry-run"],
        ["sayo", "preflight", *recipe],
        launch,
        ["sayo", "export", folder, "--out", model],
        ["sayo", "evaluate", model, "--data", data, "--split", "train", "--out", results],
        ["sayo", "look", model, "picture.jpg", "What is this?", "--box", "8,8,40,40", "--out", f"{results}.html"],
    ]


def recipe_of(words: list[str]) -> Any:
    """The resolved recipe that a command names."""
    from sayo.recipes import load_recipe

    at = words.index("--config-name") + 1
    return load_recipe(words[at], [word for word in words[at + 1 :] if "=" in word])


def run(words: list[str]) -> dict[str, Any]:
    """Run a command on this CPU, with few and small steps: its seconds, and `ran` or what went wrong."""
    print(f"$ {shlex.join(words)}", file=sys.stderr, flush=True)
    from sayo.preflight.advice import sharding_for

    start, log = time.monotonic(), Path("log.txt")
    small = [re.sub(r":(\d+)000$", r":\1", word) for word in words] + SETTINGS["sizes"].get(words[1], "").split()
    if words[1] in ("train", "launch", "scripts/train.py") and "--show" not in words:
        recipe = recipe_of(words)
        small += [f"trainer.{size}" for size in SETTINGS["training"] + SETTINGS["grpo"] * bool(recipe.rewards)]
    if words[1] == "launch":
        own = ["-m", "sayo", "launch", f"--sharding={sharding_for(recipe)}"]  # not that of the CPU
        theirs = ["-m", "accelerate.commands.launch", "--num_processes=2", "--main_process_port=0"]
        small[:2] = [sys.executable, *(own if words[0] == "sayo" else theirs)]
        small += ["--gpus=2"] if words[0] == "sayo" else []
        problem = killed_and_resumed(small, Path(recipe.trainer["output_dir"]), log)
    else:
        status = in_fork(small, log) if words[0] == "sayo" else in_process([sys.executable, *small[1:]], log)
        is_unpriced = status == 2 and UNPRICED in log.read_text(encoding="utf-8", errors="replace")
        problem = f"exit status {status}" if status and not is_unpriced else ""
    if problem:
        print(log.read_text(encoding="utf-8", errors="replace")[-3000:], file=sys.stderr, flush=True)
    return {"seconds": round(time.monotonic() - start, 1), "result": f"FAILED: {problem}" if problem else "ran"}


def killed_and_resumed(words: list[str], folder: Path, log: Path) -> str:
    """Launch, kill after the first checkpoint, launch again: what went wrong, or an empty text."""
    from sayo.training.checkpoints import checkpoints, is_complete

    deadline = time.monotonic() + 600
    with log.open("w") as file:
        launcher = subprocess.Popen(words, stdout=file, stderr=file)
    while launcher.poll() is None and time.monotonic() < deadline and not any(map(is_complete, checkpoints(folder))):
        time.sleep(0.05)
    launcher.kill()  # its ranks end with it
    if launcher.wait() != -9:
        return f"ended with status {launcher.returncode} before it could be killed"
    marks = [path / "COMPLETE" for path in checkpoints(folder) if is_complete(path)]
    before = [mark.stat().st_mtime_ns for mark in marks]
    if status := in_process(words, log):
        return f"exit status {status} when it was started again"
    if not before or [mark.stat().st_mtime_ns for mark in marks] != before:
        return "had no checkpoint, or began anew instead of resuming from it"
    return "" if is_complete(folder / "checkpoint-2") else "did not reach its last step"


def in_process(words: list[str], log: Path) -> int:
    with log.open("w") as file:
        return subprocess.run(words, stdout=file, stderr=file, check=False).returncode


def in_fork(words: list[str], log: Path) -> int | None:
    """A `sayo` command in a fork of this process, which need not import everything again."""
    from sayo.cli import app

    def run_app() -> None:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            app(words[1:])

    child = multiprocessing.get_context("fork").Process(target=run_app)
    child.start()
    child.join()
    return child.exitcode


def stand_in(model: str) -> Path:
    """The stand-in of a model of recipes/model in the hub cache, made if it is not there; ImportError: see there."""
    from sayo.recipes import model_section
    from scripts.stand_ins import make_stand_in

    hub_id = model_section(model).name_or_path
    cache = Path(os.environ["HF_HUB_CACHE"], f"models--{hub_id.replace('/', '--')}")
    snapshot = cache / "snapshots" / ("0" * 40)
    if not snapshot.is_dir():
        make_stand_in(model, snapshot)
        (cache / "refs").mkdir()
        (cache / "refs/main").write_text(snapshot.name)
    return snapshot


def furnish() -> None:
    """Make what the commands take for granted: recipes, GQA's files, pictures, a policy to start RL from, the toys."""
    for link, target in {"scripts": ROOT / "scripts", "recipes": ROOT / "recipes", **SETTINGS["links"]}.items():
        Path(link).symlink_to(target)
    for command in SETTINGS["furniture"]:
        if status := in_fork(shlex.split(command), Path("log.txt")):
            sys.exit(f"{command}: exit status {status}\n{Path('log.txt').read_text()}")
    Path("data/gqa").symlink_to(Path("runs/demo/prepared").resolve())
    Image.open(next(Path("images").iterdir())).convert("RGB").resize((320, 240)).save("picture.jpg")
    Path("my-sft-model").symlink_to(stand_in("qwen2_5_vl_7b"))


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--only", nargs="+", metavar="PART", help="some of the parts")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/rehearsal", help="to work in; must not exist")
    options = parser.parse_args()
    folder, options.out = options.folder.resolve(), options.out and options.out.resolve()
    os.environ |= {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    for shared in ("evaluation.local", "export.package", "preflight.estimate", "training.run", "viz.report"):
        importlib.import_module(f"sayo.{shared}")  # once, for all forks
    (folder / "start").mkdir(parents=True)
    os.chdir(folder / "start")
    furnish()
    chosen = options.only or (["sayo"] if options.quick else parts())
    rows = collect(options, (row for part in chosen for row in walk(part, parts()[part])))
    missed = [f"{row['written_in']}: {row['command']}" for row in rows if row["result"].startswith("FAILED")]
    finish(options, "rehearsal", rows, missed)


if __name__ == "__main__":
    main()
