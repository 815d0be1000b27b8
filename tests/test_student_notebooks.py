"""The copies of the lessons for a class."""

import nbformat
import pytest

from tools import student_notebooks
from tools.stamp_notebooks import LESSONS
from tools.student_notebooks import ROOM, emptied, for_students


def read(path):
    return nbformat.read(path, as_version=4)


def test_a_solution_is_left_out_with_its_whole_text():
    solution = "<details>\n<summary>Solution: 05.f</summary>\n\n```python\nreturn 1\n```\n\n</details>"
    assert emptied(f"Write `f`.\n\n{solution}\n\nNext.").split() == ["Write", "`f`.", "Next."]


def test_a_folded_answer_leaves_its_question_and_room():
    text = "How many?\n\n<details><summary>Answer</summary>\n\nSeven.\n\n</details>"
    assert emptied(text) == f"How many?\n\n{ROOM}"
    recall = "<details><summary>Lesson 01: what is left at the end?</summary>\n\nNoise.\n\n</details>"
    assert emptied(recall) == f"**Lesson 01: what is left at the end?**\n\n{ROOM}"


def test_texts_without_answers_stay_as_they_are():
    for text in ("A line.\n\nAnother.", "<details><summary>The formula, if you want it</summary>\n\n$a$\n\n</details>"):
        assert emptied(text) == text


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_copy_has_every_code_cell_and_no_answer(path):
    lesson, copy = read(path), for_students(read(path))
    code = [cell for cell in copy.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code] == [cell.source for cell in lesson.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    text = "\n".join(cell.source for cell in copy.cells if cell.cell_type == "markdown")
    assert not any(f"<summary>{fold}" in text for fold in ("Answer", "Solution", "What it shows"))
    kept = [cell.source for cell in lesson.cells if cell.cell_type == "markdown" and "<details" not in cell.source]
    assert all(source.strip() in text for source in kept)
    nbformat.validate(copy)


def test_the_copies_are_written_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["student_notebooks", str(tmp_path / "student")])
    student_notebooks.main()
    assert sorted(path.name for path in (tmp_path / "student").iterdir()) == [path.name for path in LESSONS]
    with pytest.raises(SystemExit, match="is there already"):
        student_notebooks.main()
