"""The notebooks of examples/ run from top to bottom, as a kernel runs them, and are kept without their outputs."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run_cells(tmp_path, monkeypatch):
    """`run_cells(name)`: run the code cells in one namespace; what the last line of each shows, if anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def run(name: str) -> list[Any]:
        cells = [cell for cell in json.loads((NOTEBOOKS / name).read_text())["cells"] if cell["cell_type"] == "code"]
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
        namespace, shown = {"__name__": "__main__"}, []
        for cell in cells:
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else ast.Expr(ast.Constant(None))
            exec(compile(tree, name, "exec"), namespace)
            shown.append(eval(compile(ast.fix_missing_locations(ast.Expression(last.value)), name, "eval"), namespace))
        return [value for value in shown if value is not None]

    return run


def test_where_does_my_model_look(run_cells, capsys) -> None:
    kinds = [type(value).__name__ for value in run_cells("where_does_my_model_look.ipynb")]
    assert kinds == ["Look", "PngImageFile", "PngImageFile", "Look", "AttentionTrace"]
    assert "the head that looks at the region most: layer" in capsys.readouterr().out


def test_reward_a_look(run_cells, capsys) -> None:
    """A few steps are enough for the policy to look more at what was rewarded."""
    run_cells("reward_a_look.ipynb")
    out = capsys.readouterr().out
    before, after = (float(out.split(f"{label}: ")[1].split("%")[0]) for label in ("before", "after"))
    assert after > before and Path("run/model.safetensors").is_file()
