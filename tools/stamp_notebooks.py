"""Put the repository's address and version into the lessons' Colab badges and set-up cells, and into the README.

    python -m tools.stamp_notebooks      (or: make stamp)

The address is that of pyproject.toml, the version too: a lesson opened in Colab fetches the tag `v` + version, so that
it finds the helpers it was written with. The cell does nothing outside Colab, so that a lesson need not be run again.
"""

import base64
import re
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]
REF = f"v{PROJECT['version']}"
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]*_*.ipynb"))  # the playground is not meant for Colab

BADGE = "open-in-colab.png"
BADGE_LINE = re.compile(r"\n\n\[!\[Open in Colab\]\(.*\)\]\(.*\)")
README_BADGES = re.compile(r"(?<=<!-- stamped -->\n).*(?=<!-- /stamped -->)", re.DOTALL)
CELL = "colab"  # the id and the tag of the set-up cell
SET_UP = """\
# @title Set-up for Google Colab: fetches the course. Anywhere else this cell does nothing.
import sys

if "google.colab" in sys.modules:
    import subprocess
    from pathlib import Path

    repository = "{address}"
    ref = "{ref}"
    course = f"/content/stable-diffusion-step-by-step-{{ref}}"
    if not Path(course).exists():
        clone = ["git", "clone", "--quiet", "--depth=1", f"--branch={{ref}}", repository, course]
        done = subprocess.run(clone, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"The course could not be fetched from {{repository}} at {{ref}}: {{done.stderr}}")
    if course not in sys.path:
        sys.path.insert(0, course)

    from helpers import colab

    colab.set_up()
"""


def label(lesson: Path) -> str:
    """What a lesson's exercises and pictures are named by: 01, or 01b for what goes deeper than lesson 01."""
    return lesson.stem.partition("_")[0]


def colab_address(name: str) -> str:
    """Where Colab opens the lesson in the file `name`, at the version of this repository."""
    owner_and_repository = ADDRESS.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{owner_and_repository}/blob/{REF}/notebooks/{name}"


def stamp(notebook: nbformat.NotebookNode, name: str) -> None:
    """Give a lesson, in the file `name`, its badge and its set-up cell, or renew those that it has."""
    title = notebook.cells[0]
    # The picture travels in the notebook: a learner's page asks no other machine for it.
    picture = base64.b64encode((ROOT / "images" / BADGE).read_bytes()).decode()
    title.setdefault("attachments", nbformat.from_dict({}))[BADGE] = {"image/png": picture}
    heading, _, rest = BADGE_LINE.sub("", title.source).partition("\n")
    title.source = f"{heading}\n\n[![Open in Colab](attachment:{BADGE})]({colab_address(name)})\n{rest}"
    if notebook.cells[1].id != CELL:
        notebook.cells.insert(1, new_code_cell(id=CELL))
        count_again(notebook)
    cell = notebook.cells[1]
    cell.source = SET_UP.format(address=ADDRESS, ref=REF).rstrip()
    cell.metadata = nbformat.from_dict({"cellView": "form", "jupyter": {"source_hidden": True}, "tags": [CELL]})


def count_again(notebook: nbformat.NotebookNode) -> None:
    """Number the cells of a lesson that has been run, as if the cell without a number had run with them."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if all(cell.execution_count is None for cell in cells):
        return
    for number, cell in enumerate(cells, start=1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number


def stamped_readme(text: str) -> str:
    """The README with its badges and doors for this address."""
    workflows = f"{ADDRESS}/actions/workflows"
    badges = [
        f"[![tests]({workflows}/ci.yml/badge.svg)]({workflows}/ci.yml)",
        f"[![tests on a GPU]({workflows}/gpu.yml/badge.svg)]({workflows}/gpu.yml)",
        f"[![Open in Colab](images/{BADGE})]({colab_address(LESSONS[0].name)})",
    ]
    owner, repository = ADDRESS.removeprefix("https://github.com/").split("/")
    site = f"https://{owner}.github.io/{repository}/"
    doors = f"[Read it]({site}) · [Draw in your browser]({site}try.html) · [Run it on your machine](#two-commands)"
    return README_BADGES.sub("\n".join([*badges, "", doors, ""]), text)


def main() -> int:
    for path in LESSONS:
        notebook = nbformat.read(path, as_version=4)
        stamp(notebook, path.name)
        nbformat.write(notebook, path)
    readme = ROOT / "README.md"
    readme.write_text(stamped_readme(readme.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"Stamped {len(LESSONS)} lessons and the README with {ADDRESS} at {REF}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
