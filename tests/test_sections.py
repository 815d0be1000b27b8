"""What each cell of a lesson needs from the cells before it: nothing comes from a later one or from nowhere."""

import builtins

import nbformat
import pytest
from nbformat import v4

from tests.lessons import HURRY, NOTEBOOKS, code_cells, hurried, names, needed, plain

EVERY = sorted(NOTEBOOKS.glob("*.ipynb"))
GIVEN = {*dir(builtins), "display", "get_ipython", "In", "Out", "_", "__name__", "__file__"}


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
    sources = ["import math", "STEPS, RATE = 750, 2e-3\nSHORT = 250\nx = range(STEPS)", "print(STEPS)"]
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources]), path)
    monkeypatch.setitem(HURRY, "lesson", {"STEPS": 10, "SHORT": 5})
    (tmp_path / "copies").mkdir()
    copy = hurried(path, tmp_path / "copies")
    hurried_one = "STEPS, RATE = 750, 2e-3\nSTEPS = 10\nSHORT = 250\nSHORT = 5\nx = range(STEPS)"
    assert code_cells(copy) == [sources[0], hurried_one, sources[2]]
    assert code_cells(path) == sources
    monkeypatch.setitem(HURRY, "lesson", {"EPOCHS": 1})
    with pytest.raises(ValueError, match="sets EPOCHS"):
        hurried(path, tmp_path / "copies")


@pytest.mark.parametrize("name", HURRY)
def test_every_lesson_that_is_hurried_is_there(name, tmp_path):
    hurried(NOTEBOOKS / f"{name}.ipynb", tmp_path)
