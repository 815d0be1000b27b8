"""The code of a lesson as its tests want it: cell by cell, or its definitions ready to be called."""

import ast
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))  # all notebooks but the playground


def code_cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells, in order."""
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def definitions(path: Path, **names: Any) -> dict[str, Any]:
    """The imports, functions and classes of a notebook, with nothing else of it run.

    names: what the lesson would have made before, such as `pipe`; its functions find them there.
    """
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
    found = [node for source in code_cells(path) for node in ast.parse(source).body if isinstance(node, kinds)]
    exec(compile(ast.Module(found, []), path.name, "exec"), names)
    return names
