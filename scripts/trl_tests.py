"""TRL's own tests of its trainers, with sayo's classes in place of TRL's.

    python -m scripts.trl_tests ../shared/peers/trl [pytest's options]

The folder is a checkout of TRL, or its `tests` alone. What fails with sayo's classes is run again with TRL's own; what
passes there must stand with its reason under `known` in trl_tests.yaml. The small models and data sets that the tests
name by their hub ids are made with random weights in the folder that pytest runs in: transformers and datasets take a
relative folder before they ask a hub. (This file is also the pytest plugin that swaps the classes.)
"""

import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

ENTRIES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
FILES = ("test_grpo_trainer.py", "test_sft_trainer.py")


def main(checkout: Path, *options: str) -> int:
    """Exit status 1 where a test fails with sayo's classes only and has no reason, or has one and needs it no more."""
    with tempfile.TemporaryDirectory() as folder:
        make_hub(Path(folder))
        tests = [f"{checkout.resolve()}/tests/{name}" for name in FILES]
        results = run(Path(folder), [*tests, *options], "sayo")
        failed = [test for test, outcome in results.items() if outcome == "failed"]
        theirs = run(Path(folder), [f"{checkout.resolve()}/{test}" for test in failed], "trl") if failed else {}
    ours_only = [test for test in failed if theirs[test] != "failed"]
    news = [test for test in ours_only if test not in ENTRIES["known"]]
    stale = [test for test in ENTRIES["known"] if results.get(test, "failed") != "failed"]
    for title, names in (("fail with sayo's classes only", news), ("are known to fail, but do not", stale)):
        print(f"{len(names)} {title}", *names, sep="\n  ")
    counts = {outcome: list(results.values()).count(outcome) for outcome in sorted(set(results.values()))}
    print(f"{counts}; {len(failed) - len(ours_only)} fail with TRL's too, {len(ours_only) - len(news)} are explained")
    return int(bool(news or stale or not results))


def run(folder: Path, tests: list[str], classes: str) -> dict[str, str]:
    """Test id (`tests/test_x.py::Class::name[values]`) -> `"passed"`, `"failed"` or `"skipped"`."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "scripts.trl_tests", "-n", "2"]
    command += ["--tb=short", "-m", "not slow", f"--junit-xml={report}", "-o", "junit_family=xunit1", *tests]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, cwd=folder, env={**os.environ, **environment, "TRL_CLASSES": classes}, check=False)
    results = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        test_class = case.get("classname").rpartition(".")[2]
        results[f"tests/{Path(case.get('file')).name}::{test_class}::{case.get('name')}"] = outcome
    return results


def pytest_configure(config: Any) -> None:
    """As a plugin: `from trl import GRPOTrainer` gives ours, if asked for.

    The tests may be of another version than the TRL that is installed: a name that it lacks becomes a function that
    says no.
    """
    import trl

    for module in ("trl.import_utils", "trl.trainer.sft_trainer"):
        import_module(module).__getattr__ = _missing
    if os.environ["TRL_CLASSES"] == "sayo":
        from sayo.training import config as ours
        from sayo.training.grpo import RegionGRPOTrainer
        from sayo.training.sft import AnchoredSFTTrainer

        trl.GRPOTrainer, trl.GRPOConfig = RegionGRPOTrainer, ours.RegionGRPOConfig
        trl.SFTTrainer, trl.SFTConfig = AnchoredSFTTrainer, ours.AnchoredSFTConfig


def _missing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *args, **kwargs: False


def make_hub(folder: Path) -> None:
    """Models and data sets under the names that the tests load; what lacks a package is left out with a line."""
    for name, template in ENTRIES["models"].items():
        try:
            make_model(name, template, folder / "trl-internal-testing" / name)
        except ImportError as error:
            print(f"not made: {name}: {error}")
    for name, configs in ENTRIES["datasets"].items():
        make_dataset(configs, folder / "trl-internal-testing" / name)


def make_model(name: str, template: str, folder: Path) -> None:
    """`tiny-CLASS-whatever`: a text model of that class with a tokenizer of bytes, or a stand-in of its family."""
    import torch
    import transformers

    from sayo.toyworld.policy import config_of
    from scripts import stand_ins

    cls = getattr(transformers, name.split("-")[1])
    family = cls.config_class.model_type
    torch.manual_seed(0)
    if entry := {**stand_ins.FAMILIES, **ENTRIES["families"]}.get(family):
        tokenizer = stand_ins.make_tokenizer(entry)
        processor, config = (f(family, entry, tokenizer) for f in (stand_ins.make_processor, config_of))
    else:
        words = (files("trl") / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
        special = sorted(set(re.findall(r"<\|?[\w｜▁]+\|?>|\[/?[A-Z_]+\]", words)))
        ends = {"eos": "<|im_end|>", "pad": "<|endoftext|>", "ids": {"image": ""}}
        processor = stand_ins.make_tokenizer({"special": special, "template": template, **ends})
        tokens = {f"{kind}_token_id": getattr(processor, f"{kind}_token_id") for kind in ("pad", "eos", "bos")}
        labels = {"num_labels": 1} if "Classification" in name else {}  # a reward model
        config = cls.config_class(**ENTRIES["text"], **labels, **tokens, vocab_size=len(processor))
    cls(config).to(torch.float32).save_pretrained(folder)
    processor.save_pretrained(folder)


def make_dataset(configs: dict[str, list[str]], folder: Path) -> None:
    """One parquet file a split and config, of questions with and without pictures, as text or as conversations."""
    import numpy as np
    from datasets import Dataset, Features, Image, List, Value
    from PIL import Image as Picture

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    splits, written, is_multi = {"train": 17, "test": 2}, [], "multi" in folder.name
    for config, columns in configs.items():
        is_text = config.startswith("standard")
        turns = Value("string") if is_text else [{"role": Value("string"), "content": Value("string")}]
        features = Features({column: List(Image()) if column == "images" else turns for column in columns})
        for split, size in splits.items():
            rows = []
            for number in range(size):
                texts = {"user": f"Which is better than number {number}?", "assistant": f"Number {number + 1} is."}
                prompt, completion = (
                    text if is_text else [{"role": role, "content": text}] for role, text in texts.items()
                )
                images = [Picture.fromarray(np.roll(pixels, number))] * (1 + number % 3 if is_multi else 1)
                row = {"prompt": prompt, "completion": completion, "images": images}
                row |= dict.fromkeys(("messages", "text"), prompt + completion)
                rows.append({column: row[column] for column in columns})
            path = folder / config / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_list(rows, features=features).to_parquet(path)
        data_files = [{"split": split, "path": f"{config}/{split}.parquet"} for split in splits]
        written.append({"config_name": config, "data_files": data_files})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': written})}---\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
