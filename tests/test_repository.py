"""What is committed is fit to be read: links that lead somewhere, clean outputs, no traces of any one machine."""

import itertools
import json
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from tests.committed import ROOT, committed_files

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# A machine's own folders, at the start of a path: not the end of an address such as https://example.org/home
MACHINE_PATH = re.compile(r"(?<![\w.~/:-])/(work|root|home|tmp)\b")
MACHINE_PATH_IN_FILES = re.compile(r"(?<![\w.~-])/(work|root)/")
LINK = re.compile(r"\]\(([^()\s]+)\)")  # of Markdown
ELSEWHERE = ("http://", "https://", "attachment:", "#")  # what is not a file of the repository
PICTURES = {".gif", ".jpg", ".jpeg", ".png", ".webp"}


def texts(value):
    """The texts of one output value, which nbformat keeps as a string or, for JSON, as nested lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def output_texts(output):
    """Everything in an output that a reader sees as text (pictures are base64, where any letters may occur)."""
    yield from texts(output.get("text", ""))
    yield from texts(output.get("traceback", []))
    for mime, value in output.get("data", {}).items():
        if not mime.startswith("image/") or mime == "image/svg+xml":
            yield from texts(value)


def test_no_machine_paths_in_committed_text():
    found = []
    for path in committed_files():
        if path.suffix == ".ipynb":  # base64 pictures; checked below, output by output
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture or weights
            continue
        lines = enumerate(text.splitlines(), start=1)
        found += [f"{path.relative_to(ROOT)}:{n}" for n, line in lines if MACHINE_PATH_IN_FILES.search(line)]
    assert not found, f"paths of one machine: {found}"


def markdown() -> dict[Path, str]:
    """The committed texts in Markdown, those of the notebooks among them."""
    found = {}
    for path in committed_files():
        if path.suffix == ".md":
            found[path] = path.read_text(encoding="utf-8")
        elif path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells
            found[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return found


def test_links_lead_to_files_that_are_committed():
    there = set(committed_files())
    there |= {folder for path in there for folder in path.parents}
    broken = []
    for path, text in markdown().items():
        for link in LINK.findall(text):
            target = unquote(link.partition("#")[0])
            if not link.startswith(ELSEWHERE) and (path.parent / target).resolve() not in there:
                broken.append(f"{path.relative_to(ROOT)}: {link}")
    assert not broken


def test_the_readme_says_of_how_many_pictures_its_figures_are():
    kinds = json.loads((ROOT / "models" / "pocket-diffusion" / "evaluation.json").read_text(encoding="utf-8"))["kinds"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    counted = re.search(r"\((\d+) of each kind, (\d+) and (\d+) of the held-out ones;", readme)
    assert counted, "the sentence above the figures"
    each, *held_out = map(int, counted.groups())
    drawn = [result["model"]["words"]["pictures"] for result in kinds.values()]
    assert [each] * 3 + held_out == drawn


def test_pictures_and_weights_have_their_licence_beside_them():
    bare = []
    for path in committed_files():
        picture = path.suffix in PICTURES
        if not picture and path.suffix != ".safetensors":
            continue
        # The parts of a model lie in folders of their own, below models/NAME.
        folder = path.parent if picture else ROOT.joinpath(*path.relative_to(ROOT).parts[:2])
        beside = folder / "README.md"
        said = beside.read_text(encoding="utf-8") if beside.is_file() else ""
        if not re.search("licen[cs]e", said, re.IGNORECASE) or (picture and path.name not in said):
            bare.append(str(path.relative_to(ROOT)))
    assert not bare, f"no README.md beside them says whose they are: {bare}"


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def lesson(request):
    return request.param, nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_lesson_is_small_and_valid(lesson):
    path, notebook = lesson
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_000_000, "GitHub shows larger notebooks slowly or not at all"


def test_lesson_was_run_from_top_to_bottom(lesson):
    path, notebook = lesson
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run it again with `make notebooks`"
    drawn = any(cell.outputs for cell in code_cells(notebook))
    # The playground's page is a widget, which its kernel alone can show.
    assert drawn or path.stem == "playground", "outputs are committed, so that it can be read on GitHub"


def test_nothing_that_is_dead_without_a_kernel_is_committed(lesson):
    _, notebook = lesson
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {"text/plain": output.get("text", "")})
            assert "application/vnd.jupyter.widget-view+json" not in data
            text = "".join(data.get("text/plain", ""))
            assert not re.search(r"\w+Box\(|Loading widget|\d%\|", text), text[:80]


def test_lesson_carries_no_state_and_no_timings(lesson):
    _, notebook = lesson
    assert "widgets" not in notebook.metadata, "widget state makes GitHub say Invalid Notebook"
    timed = [n for n, cell in enumerate(notebook.cells) if "execution" in cell.metadata]
    assert not timed, f"cells with recorded times: {timed}"


def test_lesson_shows_no_errors_and_no_warnings(lesson):
    _, notebook = lesson
    outputs = [(cell.execution_count, output) for cell in code_cells(notebook) for output in cell.outputs]
    assert not [n for n, output in outputs if output.output_type == "error"]
    stderr = {n: output.text for n, output in outputs if output.output_type == "stream" and output.name == "stderr"}
    assert not stderr


def test_a_printed_table_is_one_output(lesson):
    """Each output has air around it on a page; a table in several would fall apart."""
    _, notebook = lesson
    kinds = {cell.execution_count: [output.output_type for output in cell.outputs] for cell in code_cells(notebook)}
    assert not [n for n, found in kinds.items() if ("stream", "stream") in itertools.pairwise(found)]


def test_lesson_names_no_machine_paths(lesson):
    _, notebook = lesson
    found = [f"cell {n}: {cell.source}" for n, cell in enumerate(notebook.cells) if MACHINE_PATH.search(cell.source)]
    for cell in code_cells(notebook):
        seen = (text for output in cell.outputs for text in output_texts(output))
        found += [f"output [{cell.execution_count}]: {text[:200]}" for text in seen if MACHINE_PATH.search(text)]
    assert not found
