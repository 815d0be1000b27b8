"""A pytest plugin beside nbval: what a cell draws is compared with what is committed, and nothing may stand on stderr.

nbval runs the cells and compares their texts; pictures it leaves out, and of a cell tagged `nbval-ignore-output` it
compares nothing. This looks at each cell after nbval has: at stderr and at the number of pictures of every one, and at
the pictures themselves where outputs are compared. `--pictures=count` counts them everywhere and no more: other
versions of the libraries draw the same with other pixels.
"""

import base64
import io
import re

import numpy as np
import pytest
from nbformat import from_dict
from nbval.plugin import IPyNbCell, NbCellError
from PIL import Image, ImageChops

KINDS = ("image/png", "image/jpeg", "image/webp", "image/gif")
WIDGET = "application/vnd.jupyter.widget-view+json"  # dead without its kernel, and so not committed
# The mean difference of a pixel, from 0 to 255, within the square of BLOCK pixels where it is largest: over the whole
# of a large figure a tile that was swapped or a word that was changed would drown. Measured: pictures of lessons 00 to
# 07 and 10 drawn with one thread differ from those drawn with two by 0.7 at most (0.03 over a whole picture); those of
# 01, 02 and 06 drawn without AVX-512, as on other processors, by 0.6. A black mark of 5 by 8 pixels, the size of a
# letter, gives 30; a swapped tile gives more.
BLOCK, TOLERANCE = 16, 4.0
# A viewer's player holds compressed pictures, and its film has few colours, so that a rounding counts for more: where
# between one in a hundred and seven in ten numbers of a run of 20 steps were changed by one, they differed by 11 and by
# 30 at most. Neighbouring steps may be as near; their labels and their number are compared as text.
PLAYER_TOLERANCE, FILM_TOLERANCE = 16.0, 32.0
# Of a cell tagged `trained`, whose picture was drawn by weights that the lesson has just trained: each step of training
# makes a rounding larger. Between a processor with AVX-512 and one without, such pictures differed by 16.
TRAINED, TRAINED_TOLERANCE = "trained", 40.0
EMBEDDED = re.compile(r"data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)")  # pictures of a player


def pytest_addoption(parser):
    parser.addoption(
        "--pictures",
        choices=("compare", "count"),
        default="compare",
        help="whether the lessons' fresh pictures are compared with the committed ones, or only counted",
    )


def pytest_itemcollected(item):
    if isinstance(item, IPyNbCell):
        item.add_marker("lesson")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    if not isinstance(item, IPyNbCell):
        return (yield)
    follow_updates(item.parent)
    item.cell.outputs = [output for output in item.cell.outputs if WIDGET not in output.get("data", {})]
    try:
        result = yield
    except NbCellError as error:  # another text, or an exception; the rest may say why
        error.inner_traceback = "\n".join([error.inner_traceback or "", *troubles(item)])
        raise
    if found := troubles(item):
        item.raise_cell_error("Cell outputs differ", "\n".join(found))
    return result


def follow_updates(notebook) -> None:
    """Have nbval see outputs as they are in a saved notebook: renewed ones as they are in the end, and no new widgets.

    nbval itself leaves such messages out. It keeps a NotebookNode that it is given, so that can be changed later.
    Widgets that a notebook has kept are left out as well.
    """
    shown, received = {}, type(notebook).get_kernel_message

    def get_kernel_message(*args, **options):
        message = received(notebook, *args, **options)
        content, kind = message["content"], message["msg_type"]
        number = content.get("transient", {}).get("display_id")
        if WIDGET in content.get("data", {}):
            message["msg_type"] = "comm_msg"  # which nbval passes over
        elif kind == "display_data" and number:
            shown[number] = content["data"] = from_dict(content["data"])
        elif kind == "update_display_data" and number in shown:
            shown[number].clear()
            shown[number].update(from_dict(content["data"]))
        return message

    notebook.get_kernel_message = get_kernel_message


def troubles(item: IPyNbCell) -> list[str]:
    """Sentences on what a cell that has run drew otherwise than committed, and on what it wrote on stderr."""
    fresh = item.test_outputs or []
    found = [f"on stderr: {output.text}" for output in fresh if output.get("name") == "stderr"]
    exact = item.options["check"] and item.config.option.pictures == "compare"
    trained = TRAINED in item.cell.metadata.get("tags", ())
    return found + differences(pictures(item.cell.outputs), pictures(fresh), exact=exact, trained=trained)


def pictures(outputs) -> list[Image.Image]:
    """The pictures among a cell's outputs, in order; an animated one gives each of its frames, a player all it has.

    What each may differ by is in its `info`.
    """
    found = []
    for output in outputs:
        data = output.get("data", {})
        embedded = EMBEDDED.findall("".join(data.get("text/html", "")))
        for text in [*(data[kind] for kind in KINDS if kind in data), *embedded]:
            picture = Image.open(io.BytesIO(base64.b64decode(text)))
            frames = getattr(picture, "n_frames", 1)
            for frame in range(frames):
                picture.seek(frame)
                found.append(picture.convert("RGB"))
                found[-1].info["tolerance"] = (
                    FILM_TOLERANCE if frames > 1 else PLAYER_TOLERANCE if text in embedded else TOLERANCE
                )
    return found


def differences(
    committed: list[Image.Image], fresh: list[Image.Image], *, exact: bool = True, trained: bool = False
) -> list[str]:
    """Sentences on how fresh pictures differ from committed ones: in number, in size, by more than the tolerance.

    exact: whether sizes and pixels count too. trained: whether weights drew them that were trained just before.
    """
    if len(committed) != len(fresh):
        return [f"committed are {len(committed)} pictures, and this run drew {len(fresh)}"]
    found = []
    for number, (old, new) in enumerate(zip(committed, fresh, strict=True) if exact else (), start=1):
        if old.size != new.size:
            found.append(f"picture {number} is {new.size} pixels large, and {old.size} as committed")
            continue
        difference, place = largest_difference(old, new)
        tolerance = max(old.info.get("tolerance", TOLERANCE), TRAINED_TOLERANCE if trained else 0.0)
        if difference > tolerance:
            found.append(
                f"picture {number} differs by {difference:.1f} of 255 around the pixel {place} of {new.size}, "
                f"and may by {tolerance}"
            )
    return found


def largest_difference(old: Image.Image, new: Image.Image) -> tuple[float, tuple[int, int]]:
    """The mean difference in the square that differs most, and that square's middle (x, y).

    old, new: RGB pictures of one size.
    """
    apart = np.asarray(ImageChops.difference(old, new), float).mean(axis=2)  # (height, width)
    height, width = apart.shape
    apart = np.pad(apart, ((0, -height % BLOCK), (0, -width % BLOCK)))
    blocks = apart.reshape(len(apart) // BLOCK, BLOCK, -1, BLOCK).mean(axis=(1, 3))  # (rows, columns)
    row, column = np.unravel_index(blocks.argmax(), blocks.shape)
    return float(blocks.max()), (int(column) * BLOCK + BLOCK // 2, int(row) * BLOCK + BLOCK // 2)
