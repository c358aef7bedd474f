"""Every shipped recipe passes `--dry-run` with a tiny model of its own family in place of the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sayo.recipes import load_recipe, recipe_names


@pytest.fixture(scope="module")
def answers(toys, tmp_path_factory) -> Path:
    """Rows of supervised tuning."""
    from sayo.toyworld.cold_start import write_cold_start

    file = tmp_path_factory.mktemp("answers") / "cold_start.parquet"
    write_cold_start(toys.policy["qwen3_vl"].parent / "world", file, num_rows=12)
    return file


@pytest.mark.parametrize("name", recipe_names())
def test_dry_run(name, toys, answers, tmp_path, sayo_command):
    recipe = load_recipe(name, ["data.path=prepared/somewhere"])
    family = "qwen2_5_vl" if "Qwen2.5-VL" in recipe.model.name_or_path else "qwen3_vl"
    data = toys.data[family] if recipe.rewards else answers
    stand_in = [f"model.name_or_path={toys.policy[family]}", "model.size=null", f"data.path={data}"]
    on_cpu = ["trainer.use_cpu=true", "trainer.bf16=false", f"trainer.output_dir={tmp_path / 'run'}"]
    done = sayo_command("train", "--config-name", name, "--dry-run", *stand_in, *on_cpu)
    assert done.exit_code == 0, done.output
    assert "dry run: recipe, model, processor, data and rewards" in " ".join(done.output.split())
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()], "a dry run writes no file"
