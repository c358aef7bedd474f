"""docs/architecture.md says which room may import which; the code is held to what stands there."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text()
FLOORS = [line.split() for line in re.search(r"```floors\n(.*?)```", PAGE, re.S)[1].splitlines()]
FLOOR_OF = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
DATA_PREP_MAY_USE = set(
    re.search(r"`data_prep` may import ([^.]*\.[^\n]*?)\.\n", PAGE)[1].replace("`", "").split(", ")
)
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("sayo", "data_prep")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports anywhere, other than for annotations."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    known = (name if name in MODULES else name.rpartition(".")[0] for name in names)
    return {name for name in known if name in MODULES}


def room(module: str) -> str:
    """`sayo.geometry.cells` -> `sayo.geometry`; the files named cli.py are the command line, a room of their own."""
    is_command_line = module.endswith(".cli") or module == "sayo.__main__"
    return "cli" if is_command_line else ".".join(module.split(".")[: 1 if module.startswith("data_prep") else 2])


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) != "cli"])
def test_no_import_against_the_arrows(module: str) -> None:
    here = room(module)
    for other in map(room, imports(MODULES[module]) - {"sayo"}):
        if here == "data_prep":
            assert other == here or other in DATA_PREP_MAY_USE, f"{module} imports {other}"
        else:
            assert other == here or FLOOR_OF[other] < FLOOR_OF[here], f"{module} imports {other}: not below"


def test_no_circle_between_files() -> None:
    try:
        TopologicalSorter({name: imports(path) - {name} for name, path in MODULES.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"files that import each other: {error.args[1]}")


def test_the_page_knows_every_room() -> None:
    rooms = {room(name) for name in MODULES} - {"sayo", "data_prep", "cli"}
    assert rooms == set(FLOOR_OF)
    assert all(f"`{name.removeprefix('sayo.').removesuffix('.py')}" in PAGE for name in rooms)
    for path in re.findall(r"\]\(\.\./([^)#]+)\)", PAGE):
        assert (ROOT / path).exists(), f"the page links to {path}"
