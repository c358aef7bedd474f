"""Rows come from the folder that the recipe names, whatever lies in the library's cache."""

from __future__ import annotations

import pytest
from datasets import Dataset

from sayo.recipes import DataSection, RecipeError
from sayo.training.setup import load_data


def write(folder, answers, split="train"):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({"solution": answers}).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n---\n"
    )


def test_two_folders_of_one_name_are_two_data_sets(tmp_path):
    """`load_dataset(folder)` takes the second for the first: both are called `prepared`."""
    for run, answers in {"a": ["yes", "no"], "b": ["red"]}.items():
        write(tmp_path / run / "prepared", answers)
        rows = load_data(DataSection(path=str(tmp_path / run / "prepared")), "train")
        assert rows["solution"][:] == answers


def test_a_folder_prepared_again_is_read_again(tmp_path):
    for answers in (["yes", "no"], ["red"]):
        write(tmp_path / "prepared", answers)
        assert load_data(DataSection(path=str(tmp_path / "prepared")), "train")["solution"][:] == answers


def test_missing_split_and_folder(tmp_path):
    write(tmp_path / "prepared", ["yes"])
    with pytest.raises(RecipeError, match="no split 'test'"):
        load_data(DataSection(path=str(tmp_path / "prepared")), "test")
    with pytest.raises(RecipeError, match="does not exist"):
        load_data(DataSection(path=str(tmp_path / "nothing")), "train")


def test_system_prompt_comes_first(tmp_path):
    (tmp_path / "data").mkdir()
    prompt = [[{"role": "user", "content": "What?"}]]
    Dataset.from_dict({"prompt": prompt}).to_parquet(tmp_path / "data" / "train-0.parquet")
    rows = load_data(DataSection(path=str(tmp_path), system_prompt="Look."), "train")
    assert rows[0]["prompt"] == [{"role": "system", "content": "Look."}, {"role": "user", "content": "What?"}]


def test_user_suffix_comes_under_the_question_once(tmp_path):
    (tmp_path / "data").mkdir()
    prompts = [[{"role": "user", "content": "What?"}], [{"role": "user", "content": "What?\nLook twice."}]]
    Dataset.from_dict({"prompt": prompts}).to_parquet(tmp_path / "data" / "train-0.parquet")
    rows = load_data(DataSection(path=str(tmp_path), user_suffix="Look twice.", system_prompt="Look."), "train")
    assert [row[-1]["content"] for row in rows["prompt"]] == ["What?\nLook twice."] * 2
    named = load_data(DataSection(path=str(tmp_path), user_suffix="semantic-back"), "train")
    assert "<back>" in named[0]["prompt"][-1]["content"]
    with pytest.raises(RecipeError, match=r"data.user_suffix.*semantic-back, solution-back"):
        load_data(DataSection(path=str(tmp_path), user_suffix="semantic"), "train")
