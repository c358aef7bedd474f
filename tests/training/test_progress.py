"""The terminal of a run: a bar with what is rewarded, and an end that says where things are and what is next."""

from toy_runs import recipe_values, write_recipe

from sayo.training.progress import beside_the_bar


def test_a_run_shows_a_bar_and_ends_with_commands_that_work(toys, tmp_path, sayo_command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"disable_tqdm": False, "gradient_checkpointing": True, "save_strategy": "steps", "save_steps": 1}
    recipe = write_recipe(tmp_path, recipe_values(toys, tmp_path / "run", **options))
    done = sayo_command("train", "--config-name", recipe)
    assert done.exit_code == 0
    assert "reward " in done.stderr and "(attention " in done.stderr and " TAS " in done.stderr
    assert "{" not in done.stderr and "FutureWarning" not in done.stderr
    table, _, commands = done.stderr.partition("next:\n")
    assert "attention/tas" in table and f"model: {tmp_path / 'run'}\n" in table
    lines = [line.split()[1:] for line in commands.splitlines()]
    assert [words[0] for words in lines] == ["report", "export", "evaluate"]
    for words in lines:
        small = ["--limit", "2", "--max-new-tokens", "2"] if words[0] == "evaluate" else []
        assert sayo_command(*words, *small).exit_code == 0


def test_what_stands_beside_the_bar():
    line = {
        "reward": 0.6125,
        "rewards/accuracy/mean": 0.5,
        "rewards/accuracy/std": 0.1,
        "attention/tas": 0.68,
        "x": "y",
    }
    assert beside_the_bar(line) == "reward 0.613 (accuracy 0.5) TAS 0.68"
    assert beside_the_bar({"loss": 1.5}) == "loss 1.5" and beside_the_bar({"train_runtime": 3}) == ""
