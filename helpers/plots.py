"""Pictures side by side, film strips and curves: functions that take data and return a matplotlib Figure.

None of them shows anything. End a cell with

    plots.show(plots.picture_grid(pictures, prompts), "Three pictures: a fox, an owl and a pizza.")

which draws the figure with its description for readers who cannot see it, and closes it. (`plt.show()` works too,
without a description. Outside a notebook, close a figure with `plt.close(figure)` when you are done with it.)
"""

import base64
import html
import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image, ImageFilter

from helpers.images import as_numbers, as_picture, picture_file
from helpers.line_plots import axes, lines, multiples
from helpers.picture_grids import PER_INCH, Map, attention, difference, grid, heat_map

# What other modules draw is found here too.
__all__ = ["Map", "attention", "axes", "difference", "grid", "heat_map", "lines", "multiples"]
__all__ += ["as_picture", "curves", "faults", "figure_file", "film_strip", "picture_file", "picture_grid", "show"]

# 1.6 inches at 80 dots per inch are 128 pixels: a picture of Pocket's is drawn dot for dot, and the file stays small.
DPI = 80
SIZE = 1.6
GAP = 0.1  # inches between and around pictures; like the rest a whole number of dots, so that nothing is blurred
FONT = 8  # points
LINE = 0.15  # inches that one line of text needs

# Okabe and Ito's colours, told apart with any common kind of colour blindness. Their yellow is left out: too pale on
# white. The dashes repeat the difference for print and for those who see no colour at all.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")

# A figure is stored as a palette picture if that changes no value of any pixel by more than this, or by more than a
# quarter of what its neighbours differ by, but for a small share of pixels. A mean error will not do: flat backgrounds
# hide the bands that a palette draws across a soft shadow.
PALETTE_ERROR = 8
PALETTE_EXCEPT = 0.001
# Else its values are rounded to multiples of this: an error of 3, which no eye sees and which halves the file.
ROUNDED = 6
# Photographs do not compress as PNG. A figure above PNG_BYTES is stored as JPEG if that is smaller, which notebooks
# show just the same, at the best of these qualities that brings it below FIGURE_BYTES, or the last one.
PNG_BYTES = 45_000
FIGURE_BYTES = 60_000
JPEG_QUALITIES = (92, 85, 75, 60)
CAPTION = "max-width: 904px; margin: 6px 0 16px; font-size: 14px; line-height: 1.45"


def figure_file(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file, in its own size and background."""
    buffer = io.BytesIO()
    # Without the Software field the same figure gives the same bytes under another matplotlib.
    figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def picture_grid(
    pictures: Sequence[Any], titles: Sequence[Any] | None = None, *, columns: int | None = None, size: float = SIZE
) -> Figure:
    """Pictures in rows, each with its title above it.

    pictures: at least one; what each may be is said in `as_picture`.
    titles: one for each picture; long ones are wrapped.
    columns: pictures in a row; by default all in one row up to five, otherwise rows of about equal length up to six.
    size: side of a picture in inches, at 80 pixels an inch.

    Raises ValueError for no pictures, another number of titles, and columns or size below what can be drawn.
    """
    arrays = [as_picture(picture) for picture in pictures]
    if not arrays:
        raise ValueError("There are no pictures to show: give at least one")
    if titles is not None and len(titles) != len(arrays):
        raise ValueError(f"There are {len(arrays)} pictures and {len(titles)} titles: give one title for each")
    if columns is None:
        columns = len(arrays) if len(arrays) <= 5 else math.ceil(len(arrays) / math.ceil(len(arrays) / 6))
    if columns < 1:
        raise ValueError(f"A grid has at least 1 column, not {columns}")
    if size <= 0:
        raise ValueError(f"A picture's size in inches is above 0, not {size}")
    size = max(1, round(size * DPI)) / DPI  # whole dots
    columns = min(columns, len(arrays))
    rows = math.ceil(len(arrays) / columns)

    width = max(8, int(size * 15))  # characters of this font that fit above a picture
    captions = [textwrap.fill(str(title), width) for title in titles or [""] * len(arrays)]
    above = LINE * max(caption.count("\n") + bool(caption) for caption in captions) + GAP
    inches = columns * (size + GAP) + GAP, rows * (size + above) + GAP

    # Every picture gets exactly `size` inches; a layout engine would give it a few pixels less and blur it.
    figure, places = plt.subplots(rows, columns, figsize=inches, dpi=DPI, facecolor="white", squeeze=False)
    for index, axis in enumerate(places.flat):
        row, column = divmod(index, columns)
        left, top = GAP + column * (size + GAP), row * (size + above) + above
        bottom = inches[1] - top - size
        axis.set_position((left / inches[0], bottom / inches[1], size / inches[0], size / inches[1]))
        axis.set_axis_off()
        if index < len(arrays):
            # "auto" is nearest neighbour at whole multiples, so that pixels stay square and sharp; else it smooths.
            axis.imshow(arrays[index], interpolation="auto")
            axis.set_title(captions[index], fontsize=FONT, color="black", pad=3)
    return figure


def film_strip(
    pictures: Sequence[Any], labels: Sequence[Any], title: str | None = None, *, size: float = SIZE
) -> Figure:
    """One row of frames, each with its label above it, such as `t = 981`; up to about eight fit a notebook's width.

    pictures, labels: equally many; what a picture may be is said in `as_picture`.
    title: a line above the whole strip.

    Raises ValueError as `picture_grid` does.
    """
    figure = picture_grid(pictures, labels, columns=max(1, len(pictures)), size=size)
    if title:
        width, height = figure.get_size_inches()
        room = 2 * LINE
        for axis in figure.axes:
            box = axis.get_position()
            axis.set_position((box.x0, box.y0 * height / (height + room), box.width, size / (height + room)))
        figure.set_size_inches(width, height + room)
        figure.suptitle(title, x=GAP / width, y=1 - GAP / (height + room), ha="left", va="top", fontsize=FONT + 2)
        figure.texts[-1].set_color("black")
    return figure


def curves(x: Any, named: Mapping[str, Any], *, xlabel: str, ylabel: str, logy: bool = False) -> Figure:
    """Lines over one axis, told apart by colour and by dashes.

    x: values along the horizontal axis, one-dimensional.
    named: label -> values, each as long as x; a single line with an empty label gets no legend.
    xlabel, ylabel: what the axes mean, with the unit: `time (s)`, `step t (of 1000)`.
    logy: a logarithmic vertical axis.

    Raises ValueError for no lines and for a line that is not as long as x.
    """
    if not named:
        raise ValueError("There are no lines to draw: give at least one")
    across = as_numbers(x)
    values = {label: as_numbers(line) for label, line in named.items()}
    for label, line in values.items():
        if line.shape != across.shape or line.ndim != 1:
            raise ValueError(f"The line {label!r} has the shape {line.shape}, but x has {across.shape}")
    figure, axis = plt.subplots(figsize=(6, 3.2), dpi=DPI, facecolor="white", layout="constrained")
    axis.set_facecolor("white")
    for index, (label, line) in enumerate(values.items()):
        dashes = DASHES[index % len(DASHES)]  # 7 colours and 4 dashes meet again only after 28 lines
        axis.plot(across, line, dashes, color=COLOURS[index % len(COLOURS)], linewidth=1.8, label=label)
    if logy:
        axis.set_yscale("log")
    axis.set_xlabel(xlabel, fontsize=FONT + 1, color="black")
    axis.set_ylabel(ylabel, fontsize=FONT + 1, color="black")
    axis.tick_params(colors="black", labelsize=FONT, which="both")
    axis.grid(color="#DDDDDD", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["bottom", "left"]].set_color("black")
    if any(values):
        axis.legend(fontsize=FONT, frameon=False, labelcolor="black")
    return figure


def show(figure: Figure, caption: str) -> None:
    """Show a figure in the notebook with its caption beneath, and close it.

    caption: what there is to see, with its number, in one to three sentences: for every reader, and for those who do
    not see the figure.

    It stands in a line below the figure, which every reader shows. It is the image's alt text in the metadata too, for
    those that look there (JupyterLab 4.6 and nbconvert's usual page do not), and the output's plain text (text
    browsers, diffs). An `<img alt=...>` of our own would hide the picture itself: JupyterLab and GitHub remove embedded
    images from untrusted HTML.

    Raises ValueError if the caption is empty. Warns where two texts of the figure overlap, or one is cut off.
    """
    if not caption.strip():
        raise ValueError("A figure needs a caption: tell in a sentence what there is to see")
    for fault in faults(figure):
        warnings.warn(fault, stacklevel=2)
    kind, data, width = _encoded(figure)
    plt.close(figure)
    if get_ipython() is None:  # a plain script: there is nowhere to show a picture
        print(caption)
        return
    bundle = {kind: base64.b64encode(data).decode("ascii"), "text/plain": caption}
    display(bundle, raw=True, metadata={kind: {"alt": caption, "width": width}})
    line = f'<p style="{CAPTION}">{html.escape(caption)}</p>'
    display({"text/html": line, "text/plain": caption}, raw=True)


def faults(figure: Figure) -> list[str]:
    """A sentence for each text of a figure that leaves it, and for each two that overlap."""
    if figure.dpi == DPI:  # of the first edition, whose titles were laid out by a rule of their own
        return []
    figure.draw_without_rendering()  # places the texts
    rulers = [ruler for axis in figure.axes for ruler in (axis.xaxis, axis.yaxis)]
    beyond = {  # the labels of ticks that lie outside their axis are never drawn
        label
        for ruler in rulers
        for tick in ruler.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not min(ruler.get_view_interval()) <= tick.get_loc() <= max(ruler.get_view_interval())
    }
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text not in beyond]
    whole = figure.bbox.padded(0.5)
    found = [
        f"This text is cut off at the edge of its figure: {text!r}"
        for text, box in boxes
        if not (whole.contains(*box.min) and whole.contains(*box.max))
    ]
    for number, (text, box) in enumerate(boxes):
        for other, second in boxes[:number]:
            wide = min(box.x1, second.x1) - max(box.x0, second.x0)
            high = min(box.y1, second.y1) - max(box.y0, second.y0)
            if wide > 1 and high > 3:  # pixels: letters are not as high as their line
                found.append(f"Two texts of this figure overlap: {other!r} and {text!r}")
    return found


def _encoded(figure: Figure) -> tuple[str, bytes, int]:
    """The figure as (MIME type, file, width on the page in pixels): the smallest form that looks the same."""
    image = Image.open(io.BytesIO(figure_file(figure))).convert("RGB")
    width = round(image.width * PER_INCH / figure.dpi)
    first = figure.dpi == DPI  # a figure of the first edition is stored as it was, until its lesson is written anew

    palette = image.quantize(256, dither=Image.Dither.NONE)
    exact = image if first else image.point(lambda value: min(255, ROUNDED * round(value / ROUNDED)))
    png = picture_file(palette if _looks_like(palette, image, first) else exact, optimize=True)
    if len(png) <= PNG_BYTES:
        return "image/png", png, width
    if not first:  # stored in the pixels of the page: a quarter of them, and each pixel of a picture is still one
        image = image.reduce(2)
        png = picture_file(exact.reduce(2), optimize=True)
    for quality in JPEG_QUALITIES:
        # optimize=True fails on noise, in Pillow itself
        jpeg = picture_file(image, "JPEG", quality=quality, subsampling=0)
        if len(jpeg) <= FIGURE_BYTES:
            break
    return ("image/jpeg", jpeg, width) if len(jpeg) < len(png) else ("image/png", png, width)


def _looks_like(palette: Image.Image, image: Image.Image, first: bool) -> bool:
    """True if hardly a pixel differs by more than the eye sees: little on plain areas, more where neighbours differ."""
    error = np.abs(np.asarray(palette.convert("RGB"), np.int16) - np.asarray(image, np.int16)).max(axis=2)
    if first:
        return bool(error.max() <= PALETTE_ERROR)
    around = (np.asarray(image.filter(kind(5)), np.int16) for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter))
    contrast = np.subtract(*around).max(axis=2)
    return float((error > np.maximum(PALETTE_ERROR, contrast / 4)).mean()) <= PALETTE_EXCEPT
