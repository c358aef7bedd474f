"""A start that resumes is compared with the one before it; a checkpoint that was damaged since is not trained on."""

import dataclasses
import fnmatch
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from toy_runs import recipe_values

from benchmarks.faults import flip
from sayo.export.checkpoint import ExportError
from sayo.export.package import export_checkpoint
from sayo.recipes import RecipeError, parse_recipe
from sayo.rewards import format_reward
from sayo.training import checkpoints, start
from sayo.training.checkpoints import CheckpointError
from sayo.training.config import AnchoredSFTConfig, RegionGRPOConfig
from sayo.training.launch import versions
from sayo.training.run import train

CASES = yaml.safe_load(Path(__file__).with_name("start_cases.yaml").read_text())
SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "weight_decay": 0.01}


@pytest.fixture(scope="module")
def stopped(toys, tmp_path_factory) -> Path:
    """A run of two steps, on a policy and data of its own: everything that a start is compared by."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(toys.policy["qwen3_vl"], folder / "policy")
    shutil.copytree(toys.data["qwen3_vl"], folder / "data")
    train(parse_recipe(values_of(toys, folder)))
    return folder


@pytest.fixture
def again(stopped, tmp_path) -> Path:
    """The same in another place, to be changed."""
    return Path(shutil.copytree(stopped, tmp_path / "again"))


def values_of(toys, folder: Path, **changes) -> dict:
    """The recipe with `changes`: dotted key -> value."""
    values = recipe_values(toys, folder / "run", **SAVING)
    values["model"]["name_or_path"], values["data"]["path"] = str(folder / "policy"), str(folder / "data")
    for key, value in changes.items():
        *sections, name = key.split(".")
        part = values
        for section in sections:
            part = part[section]
        part[name] = value
    return values


def test_applied_changes_take_effect_and_are_told(toys, again, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(start, "versions", lambda: {**versions(), "torch": "1.0"})
    changes = {"learning_rate": 1e-4, "weight_decay": 0.1, "adam_beta2": 0.9, "max_steps": 5, "save_steps": 3}
    recipe = parse_recipe(values_of(toys, again, **{f"trainer.{key}": value for key, value in changes.items()}))
    run = train(recipe)
    last = run / "checkpoint-3"  # the new save_steps; transformers would keep the old ones, and skip it
    state = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert [line["learning_rate"] for line in state if "learning_rate" in line] == [1e-3, 1e-3, *[1e-4] * 3]
    decayed, plain = torch.load(last / "optimizer.pt", weights_only=True)["param_groups"]
    assert [decayed[key] for key in ("lr", "weight_decay", "betas")] == [1e-4, 0.1, (0.9, 0.9)]
    assert plain["weight_decay"] == 0.0 and plain["lr"] == 1e-4
    told = {line["changed"] for line in state if "changed" in line}
    assert "trainer.learning_rate from 0.001 to 0.0001" in told and len(told) == 6
    assert "from step 2 on: trainer.adam_beta2 from 0.999 to 0.9" in capsys.readouterr().err.replace("\n", "")
    carried = json.loads((last / "start.json").read_text())
    assert {change["step"] for change in carried["changes"]} == {2} and len(carried["changes"]) == 6
    train(recipe)  # nothing changes any more
    assert json.loads((run / "start.json").read_text())["changes"] == carried["changes"]
    export_checkpoint(last, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Changed after step 2: trainer.learning_rate from 0.001 to 0.0001" in card and "- torch: 1.0" in card


def test_a_falling_rate_falls_from_the_new_one(toys, again):
    """The schedule is that of the new start, at the old step."""
    schedule = {"trainer.lr_scheduler_type": "linear", "trainer.output_dir": str(again / "linear")}
    train(parse_recipe(values_of(toys, again, **schedule, **{"trainer.max_steps": 4})))
    shutil.rmtree(again / "linear/checkpoint-4")
    new = {"trainer.learning_rate": 8e-4, "trainer.max_steps": 8}
    run = train(parse_recipe(values_of(toys, again, **schedule, **new)))
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    rates = [line["learning_rate"] for line in log if "learning_rate" in line]
    assert rates == pytest.approx([1e-3, 7.5e-4, *(8e-4 * (8 - step) / 8 for step in range(2, 8))])


@pytest.mark.parametrize(("key", "value"), CASES["refused"].items(), ids=CASES["refused"])
def test_refused_by_name(toys, again, key, value):
    with pytest.raises(RecipeError, match=rf"{re.escape(key)}\S* from .*Put it back.*NEW_FOLDER.*sayo export"):
        compare(toys, again, **{key: value})


def compare(toys, folder: Path, **changes) -> list[dict]:
    recipe = parse_recipe(values_of(toys, folder, **changes))
    return start.changes(folder / "run/checkpoint-2", start.describe(recipe), recipe)


def test_data_and_base_model_are_what_their_files_hold(toys, again):
    assert compare(toys, again, resume="never", **{"trainer.report_to": "none"}) == [], "it lies elsewhere, no more"
    weights, rows = again / "policy/model.safetensors", next(again.glob("data/data/*.parquet"))
    pq.write_table(pq.read_table(rows).slice(1), rows)
    with pytest.raises(RecipeError, match=r"data\.path from the files"):
        compare(toys, again)
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(RecipeError, match=r"model\.name_or_path from the files"):
        compare(toys, again)
    with pytest.raises(ExportError, match="does not hold the weights that training started from"):
        export_checkpoint(again / "run/checkpoint-2", again / "out", base_model=str(again / "policy"))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(("name", "damage"), CASES["damaged"].items(), ids=CASES["damaged"])
def test_damage_is_named(toys, again, name, damage):
    checkpoint = again / "run/checkpoint-2"
    {"flip": flip, "cut": cut}[damage](checkpoint / name)
    with pytest.raises(CheckpointError, match=rf"{name}.*remove the folder"):
        train(parse_recipe(values_of(toys, again)))
    if not name.endswith(".pt"):  # which an export does not read
        with pytest.raises(ExportError, match=name):
            export_checkpoint(checkpoint, again / "out")
    (checkpoint / "COMPLETE").rename(checkpoint / "SAVING")
    with pytest.raises(ExportError, match="torn"):
        export_checkpoint(checkpoint, again / "out")


def test_weights_alone_are_exported_and_not_resumed_from(make_trainer, tmp_path):
    fields = {**SAVING, "save_steps": 1, "max_steps": 1, "save_only_model": True}
    make_trainer(format_reward, **fields).train()
    with pytest.raises(CheckpointError, match=r"save_only_model: it has no optimizer.*sayo export"):
        make_trainer(format_reward, **fields).train(resume_from_checkpoint=True)
    assert export_checkpoint(tmp_path / "run/checkpoint-1", tmp_path / "out").kind == "full"


def test_complete_means_that_every_rank_has_its_part(tmp_path):
    folder = tmp_path / "checkpoint-1"
    checkpoints.begin(folder)
    (folder / "training_state_0.pt").touch()
    with pytest.raises(CheckpointError, match=r"not all ranks see training_state_1\.pt"):
        digests = checkpoints.digests(folder, checkpoints.file_sizes(folder))
        checkpoints.mark_complete(folder, digests, world_size=2, sharding="none", model_only=False)
    assert not checkpoints.is_complete(folder)


def test_every_key_that_may_change_is_one():
    fields = [field.name for c in (RegionGRPOConfig, AnchoredSFTConfig) for field in dataclasses.fields(c)]
    patterns = [pattern for patterns in start._LISTS.values() for pattern in patterns]
    assert not [p for p in patterns if p.startswith("trainer.") and not fnmatch.filter(fields, p[8:])]
