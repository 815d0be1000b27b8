"""What each cell of a lesson needs from the cells before it: nothing comes from a later one or from nowhere.

`needed` also says which cells a section takes to be run on its own after a restart; test_browser.py does that.
"""

import ast
import builtins
import symtable

import nbformat
import pytest
from nbformat import v4

from tests.lessons import HURRY, NOTEBOOKS, code_cells, hurried

EVERY = sorted(NOTEBOOKS.glob("*.ipynb"))
GIVEN = {*dir(builtins), "display", "get_ipython", "In", "Out", "_", "__name__", "__file__"}


def plain(source: str) -> str:
    """A cell's Python without IPython's own lines, such as %pip."""
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())


def names(source: str) -> tuple[set[str], set[str], set[str]]:
    """The names that a cell binds, uses, and changes in place (`x[0] = 1`, `x.y = 1`, `x.append(1)`)."""
    binds, uses, changes = set(), set(), set()

    def read(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            if top and (symbol.is_assigned() or symbol.is_imported()):
                binds.add(symbol.get_name())
            if symbol.is_referenced() and (top or symbol.is_global()):
                uses.add(symbol.get_name())
            if not top and symbol.is_declared_global() and symbol.is_assigned():
                binds.add(symbol.get_name())
        for child in table.get_children():
            read(child, False)

    read(symtable.symtable(source, "cell", "exec"), True)
    for statement in ast.parse(source).body:
        for node in ast.walk(statement):
            target = None
            if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
                target = node.value
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                # A call whose result nobody takes is there for what it does, to x in x.append(1).
                target = node.value.func if isinstance(node.value.func, ast.Attribute) else None
            while isinstance(target, ast.Attribute | ast.Subscript):
                target = target.value
            if isinstance(target, ast.Name):
                changes.add(target.id)
    return binds, uses, changes - binds


def imported(source: str) -> set[str]:
    return {
        symbol.get_name() for symbol in symtable.symtable(source, "cell", "exec").get_symbols() if symbol.is_imported()
    }


def needed(sources: list[str]) -> list[set[int]]:
    """For each cell the earlier cells that it cannot do without, directly or through others."""
    known = [names(plain(source)) for source in sources]
    # plots.show(...) changes no module.
    modules = set().union(*(imported(plain(source)) for source in sources))
    found: list[set[int]] = []
    for index, (_, uses, _) in enumerate(known):
        direct = set()
        for name in uses:
            for earlier in range(index - 1, -1, -1):
                binds, _, changes = known[earlier]
                if name in binds or name in changes - modules:
                    direct.add(earlier)
                if name in binds:
                    break
        found.append(direct.union(*(found[earlier] for earlier in direct)))
    return found


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_a_cell_uses_only_what_it_or_an_earlier_cell_made(path):
    there, strange = set(GIVEN), {}
    for number, source in enumerate(code_cells(path), start=1):
        binds, uses, _ = names(plain(source))
        there |= binds
        if uses - there:
            strange[number] = sorted(uses - there)
    assert not strange, f"names from nowhere, by code cell: {strange}"


def test_needs_are_followed_back():
    sources = [
        "import math, sys\nx = [1]",
        "y = 2\nsys.exc_info()",
        "x.append(y)",
        "def f(a):\n    return [math.pi * b * x[0] for b in a]",
        "print(f([1]))",
        "x = 5\nz = 6",
        "print(x, z)",
    ]
    assert needed(sources) == [set(), {0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}, set(), {5}]


def test_a_hurried_copy_differs_in_its_constants_alone(tmp_path, monkeypatch):
    path = tmp_path / "lesson.ipynb"
    sources = ["import math", "STEPS, RATE = 750, 2e-3\nSHORT = 250", "print(STEPS)"]
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources]), path)
    monkeypatch.setitem(HURRY, "lesson", {"STEPS": 10, "SHORT": 5})
    (tmp_path / "copies").mkdir()
    copy = hurried(path, tmp_path / "copies")
    assert code_cells(copy) == [sources[0], f"{sources[1]}\nSTEPS = 10\nSHORT = 5", sources[2]]
    assert code_cells(path) == sources
    monkeypatch.setitem(HURRY, "lesson", {"EPOCHS": 1})
    with pytest.raises(ValueError, match="sets EPOCHS"):
        hurried(path, tmp_path / "copies")


@pytest.mark.parametrize("name", HURRY)
def test_every_lesson_that_is_hurried_is_there(name, tmp_path):
    hurried(NOTEBOOKS / f"{name}.ipynb", tmp_path)
