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
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

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

# A figure of few colours is stored as a palette picture if that changes no value of any pixel by more than this. A mean
# error will not do: flat backgrounds hide the bands that a palette draws across a soft shadow.
PALETTE_ERROR = 8
# Noise does not compress as PNG. A figure above PNG_BYTES is stored as JPEG if that is smaller, which notebooks show
# just the same, at the best of these qualities that brings it below FIGURE_BYTES, or the last one.
PNG_BYTES = 60_000
FIGURE_BYTES = 100_000
JPEG_QUALITIES = (92, 85, 75)


def as_picture(x: Any) -> np.ndarray:
    """The picture as a uint8 array of shape (height, width, 3).

    x: one of
        a PIL image, 8 or 16 bits a channel; what is transparent becomes white;
        a NumPy array of shape (height, width, 3), uint8, or float with values in [0, 1];
        a torch tensor of shape (3, height, width), float, in the range of the VAE, -1 (black) to 1 (white). Values
        beyond are clipped, because noisy pictures have them, up to 10.

    Raises TypeError for anything else, ValueError for another shape, dtype or range.
    """
    if isinstance(x, Image.Image):
        if x.mode.startswith("I;16"):  # Pillow itself clips these, so that nearly all becomes white
            x = Image.fromarray(np.rint(np.asarray(x) / 257).astype(np.uint8))
        if x.mode in ("I", "F"):
            raise ValueError(
                f"A picture in Pillow's mode {x.mode!r} does not say what white is: "
                "scale its values to 0 to 255 and convert it to 'L' or 'RGB'"
            )
        rgba = x.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    if isinstance(x, np.ndarray):
        if x.ndim != 3 or x.shape[2] != 3 or not x.size:
            raise ValueError(f"A picture as an array has the shape (height, width, 3), not {x.shape}")
        if x.dtype == np.uint8:
            return x
        if not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"A picture as an array holds uint8, or floats from 0 to 1, not {x.dtype}")
        if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
            raise ValueError(f"A picture as a float array holds 0 to 1, not {x.min():.3g} to {x.max():.3g}")
        return np.rint(x * 255).astype(np.uint8)
    if isinstance(x, torch.Tensor):
        if x.ndim != 3 or x.shape[0] != 3 or not x.numel():
            hint = "; show a batch one by one" if x.ndim == 4 else ""
            raise ValueError(f"A picture as a tensor has the shape (3, height, width), not {tuple(x.shape)}{hint}")
        if not x.is_floating_point():
            raise ValueError(f"A picture as a tensor holds floats from -1 to 1, not {x.dtype}")
        x = x.detach().float().cpu()
        if not (torch.isfinite(x).all() and x.abs().max() <= 10):
            raise ValueError(f"A picture as a tensor holds about -1 to 1, not {x.min():.3g} to {x.max():.3g}")
        values = (x.clamp(-1, 1) + 1) * 127.5
        return values.round().to(torch.uint8).permute(1, 2, 0).numpy()  # (height, width, 3)
    raise TypeError(f"A picture is a PIL image, a NumPy array or a torch tensor, not {type(x).__name__}")


def picture_file(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as the bytes of a file. kind, options: as Pillow's `save` takes them."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


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
    figure, axes = plt.subplots(rows, columns, figsize=inches, dpi=DPI, facecolor="white", squeeze=False)
    for index, axis in enumerate(axes.flat):
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


def curves(x: Any, lines: Mapping[str, Any], *, xlabel: str, ylabel: str, logy: bool = False) -> Figure:
    """Lines over one axis, told apart by colour and by dashes.

    x: values along the horizontal axis, one-dimensional.
    lines: label -> values, each as long as x; a single line with an empty label gets no legend.
    xlabel, ylabel: what the axes mean, with the unit: `time (s)`, `step t (of 1000)`.
    logy: a logarithmic vertical axis.

    Raises ValueError for no lines and for a line that is not as long as x.
    """
    if not lines:
        raise ValueError("There are no lines to draw: give at least one")
    across = _values(x)
    values = {label: _values(line) for label, line in lines.items()}
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


def _values(x: Any) -> np.ndarray:
    return x.detach().float().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, dtype=float)


def show(figure: Figure, alt: str) -> None:
    """Show a figure in the notebook with a description, and close it.

    alt: one or two sentences that tell what there is to see, for readers who do not see it.

    The description goes three ways, because no single one reaches every reader: as alt text in the image's metadata
    (the HTML that nbconvert makes reads it; JupyterLab 4.6 drops it, its image renderer knows only width and height),
    as the plain-text form of the output (text browsers, diffs), and as a line below that JupyterLab keeps for screen
    readers and does not show (GitHub, which strips styles, shows it as a caption). An `<img alt=...>` of our own would
    hide the picture itself: JupyterLab and GitHub remove embedded images from untrusted HTML.

    Raises ValueError if the description is empty.
    """
    if not alt.strip():
        raise ValueError("A figure needs a description: tell in a sentence what there is to see")
    kind, data, width = _encoded(figure)
    plt.close(figure)
    if get_ipython() is None:  # a plain script: there is nowhere to show a picture
        print(alt)
        return
    bundle = {kind: base64.b64encode(data).decode("ascii"), "text/plain": alt}
    display(bundle, raw=True, metadata={kind: {"alt": alt, "width": width}})
    hidden = f'<div style="height: 1px; overflow: hidden; opacity: 0">{html.escape(alt)}</div>'
    display({"text/html": hidden, "text/plain": alt}, raw=True)


def _encoded(figure: Figure) -> tuple[str, bytes, int]:
    """The figure as (MIME type, file, width in pixels): the smallest form that looks the same."""
    image = Image.open(io.BytesIO(figure_file(figure))).convert("RGB")

    palette = image.quantize(256, dither=Image.Dither.NONE)
    error = np.abs(np.asarray(palette.convert("RGB"), np.int16) - np.asarray(image, np.int16)).max()
    png = picture_file(palette if error <= PALETTE_ERROR else image, "PNG", optimize=True)
    if len(png) <= PNG_BYTES:
        return "image/png", png, image.width
    for quality in JPEG_QUALITIES:
        jpeg = picture_file(
            image, "JPEG", quality=quality, subsampling=0
        )  # optimize=True fails on noise, in Pillow itself
        if len(jpeg) <= FIGURE_BYTES:
            break
    return ("image/jpeg", jpeg, image.width) if len(jpeg) < len(png) else ("image/png", png, image.width)
