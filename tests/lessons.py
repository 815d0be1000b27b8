"""The code of a lesson as its tests want it: cell by cell, as definitions to call, hurried, or by what a cell needs."""

import ast
import functools
import re
import shutil
import symtable
from pathlib import Path
from typing import Any

import nbformat

from tools.stamp_notebooks import LESSONS as LESSONS  # all notebooks but the playground
from tools.stamp_notebooks import ROOT

NOTEBOOKS = ROOT / "notebooks"
# An exercise's check in a code cell, and its solution in a text cell.
CHECK = re.compile(r"""exercises\.check\(\s*["']([^"']+)["']\s*,\s*(\w+)\s*,?\s*\)""")
SOLUTION = re.compile(
    r"<details>\s*<summary>Solution: (?P<name>[\w.]+)</summary>\n\n```python\n(?P<code>.*?)\n```\n\n</details>",
    re.DOTALL,
)
# Constants of lessons that train and draw for minutes, for runs that look at something else than what was learned.
HURRY = {
    "10_train_from_scratch": {"PLACINGS": 4, "STEPS": 5, "SHORT": 3, "CALLS": 2},
    "11_fine_tuning": {"STEPS": 4, "DRAWING": 2, "MOMENTS": 2},
    "12_break_it": {"STEPS": 8},
}


def code_cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells, in order."""
    return list(_sources(path, path.stat().st_mtime_ns))


@functools.cache
def _sources(path: Path, changed: int) -> tuple[str, ...]:
    # Read once for each state of the file: with its pictures a notebook takes a moment.
    return tuple(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


def cell_with(path: Path, text: str) -> str:
    """The one code cell of a notebook that holds a text. Raises ValueError if there is none, or more than one."""
    found = [source for source in code_cells(path) if text in source]
    if len(found) != 1:
        raise ValueError(f"{len(found)} cells of {path.name} hold {text!r}")
    return found[0]


def checks(path: Path) -> list[tuple[str, str]]:
    """(exercise, name of the function) of every check in a notebook."""
    return [match.groups() for source in code_cells(path) for match in CHECK.finditer(source)]


def solutions(path: Path) -> dict[str, str]:
    """The code of every folded solution in a notebook, by exercise."""
    texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    return {match["name"]: match["code"] for text in texts for match in SOLUTION.finditer(text)}


def imports(path: Path) -> str:
    """All top-level import statements of a notebook, one a line: what a solution may take for granted."""
    found = []
    for source in code_cells(path):
        found += [
            ast.unparse(node) for node in ast.parse(plain(source)).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
    return "\n".join(found)


def definitions(path: Path, **names: Any) -> dict[str, Any]:
    """The imports, functions and classes of a notebook, with nothing else of it run.

    names: what the lesson would have made before, such as `pipe`; its functions find them there.
    """
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
    found = [node for source in code_cells(path) for node in ast.parse(source).body if isinstance(node, kinds)]
    exec(compile(ast.Module(found, []), path.name, "exec"), names)
    return names


def constants(path: Path, *names: str, **given: Any) -> dict[str, Any]:
    """What the lesson's own assignments give these names, with nothing else of it run.

    given: what they need of the lesson, such as a function that they call. Raises ValueError for a name that no cell
    assigns to.
    """
    space = dict(given)
    for source in code_cells(path):
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign) and targets(node) & set(names):
                exec(compile(ast.Module([node], []), path.name, "exec"), space)
    if missing := set(names) - set(space):
        raise ValueError(f"No cell of {path.name} sets {', '.join(sorted(missing))}")
    return {name: space[name] for name in names}


def hurried(path: Path, folder: Path) -> Path:
    """A copy of a notebook in `folder`, whose constants in `HURRY` are set anew right behind the line that sets them.

    Raises ValueError if no cell sets one of them.
    """
    copy = Path(shutil.copy(path, folder))
    constants = HURRY.get(path.stem)
    if constants:
        notebook = nbformat.read(copy, as_version=4)
        for name, value in constants.items():
            found = _where_set(notebook, name)
            if found is None:
                raise ValueError(f"No cell of {path.name} sets {name}")
            cell, line = found
            lines = cell.source.splitlines()
            cell.source = "\n".join([*lines[:line], f"{name} = {value}", *lines[line:]])
        nbformat.write(notebook, copy)
    return copy


def _where_set(notebook: nbformat.NotebookNode, name: str) -> tuple[nbformat.NotebookNode, int] | None:
    """The first cell that assigns to a name outside of functions, and the last line of that statement."""
    for cell in notebook.cells:
        for node in ast.parse(plain(cell.source)).body if cell.cell_type == "code" else ():
            if isinstance(node, ast.Assign) and name in targets(node):
                return cell, node.end_lineno
    return None


def targets(node: ast.Assign) -> set[str]:
    """The names that an assignment assigns to."""
    return {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}


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
    """The names that a cell imports."""
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
