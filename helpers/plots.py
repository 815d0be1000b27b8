"""Pictures side by side and curves, and how a figure is shown in a notebook: in a small file, with its caption.

Functions that take data and return a matplotlib Figure; none of them shows anything. End a cell with

    plots.show(plots.grid([pictures], heads=prompts), "Three pictures: a fox, an owl and a pizza.")

which draws the figure with its description for readers who cannot see it, and closes it. (`plt.show()` works too,
without a description. Outside a notebook, close a figure with `plt.close(figure)` when you are done with it.)
"""

import base64
import html
import io
import warnings
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from helpers.images import as_picture, picture_file
from helpers.line_plots import axes, lines, multiples
from helpers.picture_grids import PER_INCH, Map, attention, difference, grid, heat_map

# What other modules draw is found here too.
__all__ = ["Map", "attention", "axes", "difference", "grid", "heat_map", "lines", "multiples"]
__all__ += ["as_picture", "faults", "figure_file", "folded", "picture_file", "show"]

# A figure is stored as a palette picture if that changes no value of any pixel by more than this, or by more than a
# quarter of what its neighbours differ by, but for a small share of pixels. A mean error will not do: flat backgrounds
# hide the bands that a palette draws across a soft shadow.
PALETTE_ERROR = 8
PALETTE_EXCEPT = 0.001
# Else its values are rounded to multiples of the first of these that makes the file small enough. To multiples of 3 no
# eye sees it; of 6, which halves the file, a plain ground between two of them can get faint patches.
ROUNDED = (3, 6)
# Photographs do not compress as PNG. A figure above PNG_BYTES is stored as JPEG if that is smaller, which notebooks
# show just the same, at the best of these qualities that brings it below FIGURE_BYTES, or the last one.
PNG_BYTES = 45_000  # unless a figure asks for more
FIGURE_BYTES = 60_000
JPEG_QUALITIES = (92, 85, 75, 60)
CAPTION = "max-width: 904px; margin: 6px 0 16px; font-size: 14px; line-height: 1.45"


def figure_file(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file, in its own size and background."""
    buffer = io.BytesIO()
    # Without the Software field the same figure gives the same bytes under another matplotlib.
    figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def show(figure: Figure, caption: str, *, png_bytes: int = PNG_BYTES) -> None:
    """Show a figure in the notebook with its caption beneath, and close it.

    caption: what there is to see, with its number, in one to three sentences: for every reader, and for those who do
    not see the figure.
    png_bytes: a figure that takes more than this as PNG is stored as JPEG in the pixels of the page, half of its own.

    The caption stands in a line below the figure, which every reader shows. It is the image's alt text in the metadata
    too, for those that look there (JupyterLab 4.6 and nbconvert's usual page do not), and the output's plain text (text
    browsers, diffs). An `<img alt=...>` of our own would hide the picture itself: JupyterLab and GitHub remove embedded
    images from untrusted HTML.

    Raises ValueError if the caption is empty. Warns where two texts of the figure overlap, or one is cut off.
    """
    if not caption.strip():
        raise ValueError("A figure needs a caption: tell in a sentence what there is to see")
    for fault in faults(figure):
        warnings.warn(fault, stacklevel=2)
    kind, data, width = _encoded(figure, png_bytes)
    plt.close(figure)
    if get_ipython() is None:  # a plain script: there is nowhere to show a picture
        print(caption)
        return
    bundle = {kind: base64.b64encode(data).decode("ascii"), "text/plain": caption}
    display(bundle, raw=True, metadata={kind: {"alt": caption, "width": width}})
    line = f'<p style="{CAPTION}">{html.escape(caption)}</p>'
    display({"text/html": line, "text/plain": caption}, raw=True)


def folded(summary: str, lines: Sequence[str]) -> None:
    """Show a line that opens on lines of figures: for a reader who wants to guess first. A script prints them all."""
    text = "\n".join(lines)
    if get_ipython() is None:
        print(summary, text, sep="\n")
        return
    body = f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>"
    display({"text/html": body, "text/plain": f"{summary}\n{text}"}, raw=True)


def faults(figure: Figure) -> list[str]:
    """A sentence for each text of a figure that leaves it, and for each two that overlap."""
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


def _encoded(figure: Figure, png_bytes: int) -> tuple[str, bytes, int]:
    """The figure as (MIME type, file, width on the page in pixels): the smallest form that looks the same."""
    image = Image.open(io.BytesIO(figure_file(figure))).convert("RGB")
    width = round(image.width * PER_INCH / figure.dpi)

    palette = image.quantize(256, dither=Image.Dither.NONE)
    rounded = [image.point([min(255, step * round(value / step)) for value in range(256)] * 3) for step in ROUNDED]
    for full in [palette] if _looks_like(palette, image) else rounded:
        # At its fastest, PNG makes no file twice as large as at its best: so that of photographs is not tried in vain.
        if len(picture_file(full, compress_level=1)) <= 2 * png_bytes:
            png = picture_file(full, optimize=True)
            if len(png) <= png_bytes:
                return "image/png", png, width
    # Stored in the pixels of the page: a quarter of them, and each pixel of a picture is still one.
    image = image.reduce(2)
    for quality in JPEG_QUALITIES:
        # optimize=True fails on noise, in Pillow itself
        jpeg = picture_file(image, "JPEG", quality=quality, subsampling=0)
        if len(jpeg) <= FIGURE_BYTES:
            break
    png = picture_file(rounded[-1].reduce(2), optimize=True)
    return ("image/jpeg", jpeg, width) if len(jpeg) < len(png) else ("image/png", png, width)


def _looks_like(palette: Image.Image, image: Image.Image) -> bool:
    """True if hardly a pixel differs by more than the eye sees: little on plain areas, more where neighbours differ."""
    pixels = np.asarray(image)
    error = np.abs(np.asarray(palette.convert("RGB")).astype(np.int16) - pixels).max(axis=2)
    contrast = (_around(pixels, np.maximum) - _around(pixels, np.minimum)).max(axis=2)
    return float((error > np.maximum(PALETTE_ERROR, contrast / 4)).mean()) <= PALETTE_EXCEPT


def _around(pixels: np.ndarray, choose: np.ufunc) -> np.ndarray:
    """For each of the pixels (h, w, 3) the largest or smallest values of the 5 x 5 around it."""
    for axis in (0, 1):
        edges = [(2, 2) if one == axis else (0, 0) for one in range(3)]
        wide = np.pad(pixels, edges, mode="edge")
        pixels = choose.reduce([wide.take(range(at, at + pixels.shape[axis]), axis) for at in range(5)])
    return pixels
