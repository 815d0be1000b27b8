"""What nbval alone would miss, the lessons' run does not: pictures, and stderr of cells that are not compared."""

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nbformat import v4, write
from PIL import Image

from helpers.viewers import step_viewer
from tests.lesson_outputs import differences, pictures

ROOT = Path(__file__).resolve().parent.parent
DRAW = "from IPython.display import Image, display; import base64; display(Image(base64.b64decode('{}'), format='{}'))"


def sheet(tiles=12, seed=0):
    """A picture of tiles of random colours, 32 pixels each, four in a row."""
    colours = np.random.default_rng(seed).integers(256, size=(tiles // 4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours.repeat(32, axis=0).repeat(32, axis=1))


def swapped(picture):
    """The picture with its first two tiles the other way round."""
    first, second = picture.crop((0, 0, 32, 32)), picture.crop((32, 0, 64, 32))
    changed = picture.copy()
    changed.paste(second, (0, 0))
    changed.paste(first, (32, 0))
    return changed


def encoded(picture, kind="png"):
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return base64.b64encode(buffer.getvalue()).decode()


def drawn(*pictures, kind="png"):
    return [v4.new_output("display_data", {f"image/{kind}": encoded(picture, kind)}) for picture in pictures]


def test_rounding_is_forgiven_and_a_swapped_tile_is_not():
    old = sheet()
    rounded = Image.fromarray(np.asarray(old) ^ 1)  # every number by one, which no processor comes near to
    assert differences([old], [rounded]) == []
    (sentence,) = differences([old], [swapped(old)])
    assert re.match(r"picture 1 differs by \d+\.\d of 255 around the pixel \(\d+, \d+\) of \(128, 96\)", sentence)


def test_a_small_mark_on_a_large_figure_is_seen():
    figure = Image.new("RGB", (800, 600), "white")
    marked = figure.copy()
    marked.paste("black", (700, 500, 705, 508))  # as large as a letter
    assert len(differences([figure], [marked])) == 1


def test_number_and_size_count():
    old = sheet()
    assert differences([old, old], [old]) == ["committed are 2 pictures, and this run drew 1"]
    assert differences([], [old]) == ["committed are 0 pictures, and this run drew 1"]
    assert differences([old], [old.crop((0, 0, 128, 95))]) == [
        "picture 1 is (128, 95) pixels large, and (128, 96) as committed"
    ]


def test_with_other_versions_only_the_number_counts():
    assert differences([sheet()], [sheet(16, seed=1)], exact=False) == []
    assert differences([sheet()], [], exact=False) != []


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_every_kind_of_picture_is_found(kind):
    (found,) = pictures(drawn(sheet(), kind=kind))
    assert found.mode == "RGB" and found.size == (128, 96)


def test_every_frame_of_an_animation_is_compared():
    buffer = io.BytesIO()
    sheet().save(buffer, format="webp", save_all=True, append_images=[swapped(sheet())], lossless=True)
    output = v4.new_output("display_data", {"image/webp": base64.b64encode(buffer.getvalue()).decode()})
    assert len(pictures([output])) == 2


def viewed(pictures):
    """The outputs of a viewer of pictures."""
    viewer = step_viewer(pictures, [str(number) for number in range(len(pictures))])
    film = {"image/png": base64.b64encode(viewer.film).decode(), "text/plain": viewer.alt}
    player = {"text/html": viewer.html, "text/plain": viewer.alt}
    return [v4.new_output("display_data", data) for data in (film, player)]


def test_film_and_player_are_compared_frame_by_frame():
    old = pictures(viewed([sheet(), swapped(sheet())]))
    assert len(old) == 4
    rounded = [Image.fromarray(np.asarray(picture) ^ 1) for picture in (sheet(), swapped(sheet()))]
    assert differences(old, pictures(viewed(rounded))) == []
    found = differences(old, pictures(viewed([sheet(), sheet(seed=1)])))
    assert [sentence[:19] for sentence in found] == ["picture 2 differs b", "picture 4 differs b"]


RENEWED = (
    "shown = display({'text/plain': 'one'}, raw=True, display_id=True); shown.update({'text/plain': 'two'}, raw=True)"
)


def test_a_lesson_fails_at_the_cells_that_differ_and_says_how(tmp_path):
    """nbval runs them in order: what is committed, what the cell does, and what must be said of it, if anything."""
    png, other = encoded(sheet()), encoded(swapped(sheet()))
    lighter, unlike = (encoded(Image.fromarray(np.asarray(sheet()) ^ change)) for change in (16, 255))
    warn = "import sys; print('a warning', file=sys.stderr)"
    cells = [
        (drawn(sheet()), DRAW.format(png, "png"), (), None),
        (drawn(sheet()), DRAW.format(other, "png"), (), "picture 1 differs by"),
        (drawn(sheet(), kind="jpeg"), DRAW.format(encoded(sheet(), "jpeg"), "jpeg"), (), None),
        (drawn(sheet()), "None", (), "committed are 1 pictures, and this run drew 0"),
        ([], DRAW.format(png, "png"), (), "committed are 0 pictures, and this run drew 1"),
        (drawn(sheet()), DRAW.format(other, "png"), ("nbval-ignore-output",), None),
        (drawn(sheet()), "None", ("nbval-ignore-output",), "committed are 1 pictures, and this run drew 0"),
        (drawn(sheet()), DRAW.format(lighter, "png"), (), "picture 1 differs by"),
        (drawn(sheet()), DRAW.format(lighter, "png"), ("trained",), None),
        (drawn(sheet()), DRAW.format(unlike, "png"), ("trained",), "picture 1 differs by"),
        ([], warn, (), "on stderr: a warning"),
        ([], warn, ("nbval-ignore-output",), "on stderr: a warning"),
        ([v4.new_output("stream", text="one")], "print('two', end='')", (), "mismatch 'stdout'"),
        ([v4.new_output("display_data", {"text/plain": "two"})], RENEWED, (), None),
        ([], "import ipywidgets; display(ipywidgets.IntProgress())", (), None),
        ([v4.new_output("display_data", {"text/plain": "one"})], RENEWED, (), "mismatch 'text/plain'"),
        ([v4.new_output("stream", text="0.12344")], "print('0.12345', end='')", (), None),  # the fifth decimal
    ]
    made = [
        v4.new_code_cell(source, execution_count=n, outputs=outputs, metadata={"tags": list(tags)})
        for n, (outputs, source, tags, _) in enumerate(cells, start=1)
    ]
    for output in (output for cell in made for output in cell.outputs if output.output_type == "display_data"):
        output.data.setdefault("text/plain", "<IPython.core.display.Image object>")
    write(v4.new_notebook(cells=made), tmp_path / "lesson.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.lesson_outputs", "--nbval"]
    command += ["--nbval-current-env", "--nbval-sanitize-with", "tests/nbval_sanitize.cfg", "--color=no"]
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*command, str(tmp_path / "lesson.ipynb")], cwd=ROOT, env=os.environ | path, capture_output=True, text=True
    )
    said = dict(re.findall(r"^Cell (\d+): (.*?)(?=^_{3,}|^={3,})", done.stdout, re.MULTILINE | re.DOTALL))
    assert said.keys() == {str(n) for n, cell in enumerate(cells) if cell[3]}, done.stdout
    assert [n for n, text in said.items() if cells[int(n)][3] not in text] == [], done.stdout
