"""Copies of the lessons for a class: without solutions, answers and outputs.

    python -m tools.student_notebooks student      (or: make student)

A folded solution is left out. Of every other folded text only the question stays, with room for an answer; hints,
formulas to look up and further reading stay whole. Outputs go, so that the class runs the cells itself. The copies
want to lie in a folder beside `notebooks`, where their links to pictures hold. The solutions stay in
`helpers/exercises`, which checks the answers with them.
"""

import argparse
import re
from pathlib import Path

import nbformat

from tools.stamp_notebooks import LESSONS, ROOT

FOLDED = re.compile(r"<details>\s*<summary>(.*?)</summary>.*?</details>", re.DOTALL)
HELP = re.compile(r"\bhint\b|if you want|minutes", re.IGNORECASE)  # in the title of a fold that gives no answer away
ROOM = "*Your answer:*"


def emptied(text: str) -> str:
    """A cell's Markdown without the solutions and answers that are folded in it."""

    def unfolded(block: re.Match[str]) -> str:
        title = block[1].strip()
        if title.startswith("Solution"):
            return ""
        if title in ("Answer", "Answers"):
            return ROOM
        return block[0] if HELP.search(title) else f"**{title}**\n\n{ROOM}"

    return FOLDED.sub(unfolded, text).strip()


def for_students(lesson: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The lesson, changed: no solutions, no answers, no outputs. Cells that were nothing else are left out."""
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            cell.source = emptied(cell.source)
        else:
            cell.outputs, cell.execution_count = [], None
    lesson.cells = [cell for cell in lesson.cells if cell.source]
    return lesson


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder, seen from the top of the repository")
    folder = ROOT / parser.parse_args().folder
    if folder.exists():
        raise SystemExit(f"{folder} is there already: name another folder, or take it away first")
    folder.mkdir(parents=True)
    for path in LESSONS:
        nbformat.write(for_students(nbformat.read(path, as_version=4)), folder / path.name)
    print(f"{len(LESSONS)} lessons for students are in {folder}")


if __name__ == "__main__":
    main()
