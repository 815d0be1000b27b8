"""Make a static site of the course from the committed lessons, without running them: `make site`.

    python -m tools.build_site FOLDER

A lesson becomes a page of Markdown, with its pictures as files; Sphinx makes the rest, as `site/conf.py` says. The
first page is `site/index.md`, with texts out of the README. Whatever Sphinx warns of, such as a dead link, is an error.
Two pages more: `site/try.md` draws in the browser, with what comes from `tools.draw_page`, and `TEACHING.md` is for
teachers.
"""

import argparse
import base64
import html
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import nbformat
from PIL import Image
from sphinx.cmd.build import main as sphinx

from tools import draw_page
from tools.stamp_notebooks import ADDRESS, BADGE_LINE, CELL, LESSONS, README_BADGES, REF, ROOT, colab_address, label

SITE = ROOT / "site"
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)")  # to a file
ATTACHED = re.compile(r"!\[([^\]]*)\]\(attachment:([^)]*)\)")
TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
PLAYER = "step-viewer"  # the class of helpers/player.html


def block(kind: str, text: str) -> str:
    """A text as a block of MyST, such as ``` or ```{raw} html, whatever fences it holds itself."""
    fence = "`" * (1 + max(map(len, re.findall(r"`{3,}", text)), default=2))
    return f"{fence}{kind}\n{text}\n{fence}\n"


def raw(text: str) -> str:
    return block("{raw} html", text)


def relinked(text: str, folder: Path) -> str:
    """Markdown that stands in `folder`, with its links to lessons turned to their pages, and those to other files
    turned to the repository's address.
    """

    def target(link: re.Match) -> str:
        path = (folder / link[0]).resolve()
        if path in LESSONS:
            return link[0].removesuffix(".ipynb") + ".md"
        if path.suffix in {".png", ".svg", ".jpg"} or not path.exists():  # of a file that is not there Sphinx warns
            return link[0]
        return f"{ADDRESS}/{'tree' if path.is_dir() else 'blob'}/{REF}/{path.relative_to(ROOT).as_posix()}"

    return LINK.sub(target, text)


def picture(data: str, metadata: dict, path: Path) -> str:
    """The HTML of an output's picture, in the size and with the words it has in the notebook; writes its file."""
    content = base64.b64decode(data)
    path.write_bytes(content)
    width, height = Image.open(io.BytesIO(content)).size
    shown = metadata.get("width", width)
    size = f'width="{shown}" height="{round(height * shown / width)}"'
    alt = html.escape(metadata.get("alt", ""))
    return f'<div class="picture"><img src="pictures/{path.name}" alt="{alt}" {size} loading="lazy"></div>'


def with_attachments(cell: nbformat.NotebookNode, folder: Path, name: str) -> str:
    """A Markdown cell's text, with the pictures that it brings in files that begin with `name`."""

    def shown(image: re.Match) -> str:
        ((kind, data),) = cell.attachments[image[2]].items()
        return picture(data, {"alt": image[1]}, folder / f"{name}-{Path(image[2]).stem}.{PICTURES[kind]}")

    return ATTACHED.sub(shown, BADGE_LINE.sub("", cell.source))


def outputs(cell: nbformat.NotebookNode, folder: Path, name: str) -> Iterator[str]:
    """The outputs of a code cell, in Markdown. Their pictures go into `folder`, in files that begin with `name`.

    Raises ValueError for an output that the site cannot show, so that none gets lost.
    """
    for number, (output, after) in enumerate(pairwise([*cell.outputs, {}])):
        data = output.get("data", {})
        kind = next((kind for kind in PICTURES if kind in data), None)
        if "text/html" in data:
            yield raw(data["text/html"])
        elif kind:
            path = folder / f"{name}-{number}.{PICTURES[kind]}"
            shown = picture(data[kind], output.metadata.get(kind, {}), path)
            # The film before a player is for readers without scripts.
            is_film = PLAYER in after.get("data", {}).get("text/html", "")
            yield raw(f"<noscript>{shown}</noscript>" if is_film else shown)
        elif "text/plain" in data or output.output_type == "stream":
            text = TERMINAL_COLOUR.sub("", data.get("text/plain", output.get("text")))
            yield block("{code-block} text\n:class: output\n", text.strip("\n"))
        else:
            raise ValueError(
                f"{name}: the site has no form for an output of the type {output.output_type}, {list(data)}"
            )


def page(lesson: Path, pictures: Path) -> str:
    """A lesson as Markdown; writes its pictures into a folder."""
    notebook = nbformat.read(lesson, as_version=4)
    doors = (
        f'<p class="doors"><a href="{colab_address(lesson.name)}">Open in Colab</a> '
        f'<a href="{lesson.name}" download>Download the notebook</a></p>'
    )
    parts = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            text = relinked(with_attachments(cell, pictures, f"{label(lesson)}-{number}"), lesson.parent)
            heading, _, rest = text.partition("\n")
            parts += [heading, raw(doors), rest] if number == 0 else [text]
        elif cell.cell_type == "code" and CELL not in cell.metadata.get("tags", []):
            code = block("python", cell.source)
            if cell.metadata.get("jupyter", {}).get("source_hidden"):
                code = raw("<details><summary>Code</summary>") + "\n" + code + "\n" + raw("</details>")
            parts += [code, *outputs(cell, pictures, f"{label(lesson)}-{number}")]
    return "\n\n".join(parts)


def index() -> str:
    """The first page, with parts of the README in their places."""
    text = README_BADGES.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    top, *sections = re.split(r"^## ", relinked(text, ROOT), flags=re.MULTILINE)
    parts = {name: part.strip() for name, _, part in (section.partition("\n") for section in sections)}
    parts["top"] = top.partition("\n")[2].strip()
    parts["table of lessons"] = re.search(r"(^\|.*\n)+", parts["The lessons"], re.MULTILINE)[0]
    parts["first lesson"], parts["address"] = LESSONS[0].stem, ADDRESS

    def part(place: re.Match) -> str:
        if place[1] not in parts:
            raise ValueError(f"site/index.md wants {place[1]!r} of the README, which has {', '.join(parts)}")
        return parts[place[1]]

    return re.sub(r"\{\{ (.+?) \}\}", part, (SITE / "index.md").read_text(encoding="utf-8"))


def beside_the_first(file: Path) -> str:
    """The text of a page that stands on the site beside the first one."""
    return relinked(file.read_text(encoding="utf-8"), file.parent).replace("](../", "](")


def build(folder: Path, lessons: Sequence[Path] = LESSONS, *, model: bool = True) -> int:
    """Make the site in `folder`, which is new or empty; the exit status of Sphinx, 0 for success.

    model: whether the page that draws gets a model to draw with, which takes a minute the first time and needs
    onnxruntime-web: FileNotFoundError says what to do where that is missing.
    """
    draw_page.copy_programs(folder)
    if model:
        draw_page.add_model(folder)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        shutil.copytree(ROOT / "images", source / "images", ignore=shutil.ignore_patterns("*.md"))
        (source / "index.md").write_text(index(), encoding="utf-8")
        for file in (SITE / "try.md", ROOT / "TEACHING.md"):
            (source / file.name.lower()).write_text(beside_the_first(file), encoding="utf-8")
        pictures = folder / "notebooks" / "pictures"
        pictures.mkdir(parents=True)
        (source / "notebooks").mkdir()
        for lesson in lessons:
            (source / "notebooks" / f"{lesson.stem}.md").write_text(page(lesson, pictures), encoding="utf-8")
            shutil.copy(lesson, folder / "notebooks")
        options = ["-c", str(SITE), "-d", f"{temporary}/doctrees", "--fail-on-warning", "--quiet"]
        return sphinx([*options, str(source), str(folder)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new or empty")
    folder = parser.parse_args().folder
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} holds something already: name a new folder")
    try:
        failed = build(folder)
    except FileNotFoundError as error:
        parser.error(str(error))
    if not failed:
        print(f"The site is in {folder}: open {folder / 'index.html'}")
        print(f"Its page to draw on needs a server: python -m http.server --directory {folder}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
