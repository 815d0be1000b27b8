"""What a viewer shows, and the film of it: an animated PNG that moves where no script may run.

JupyterLab shows it in a notebook that was just opened and is not trusted yet, GitHub and other readers always. The
other half is `player`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from helpers.palette import CARD, HAIRLINE, INK, LINE, SECOND
from helpers.plots import picture_file

FILM_BYTES = 45_000  # unless a viewer asks for more; a third more as text in a notebook
# Frames, colours of all their pictures, largest side of a picture: the first that fits is taken, or the last.
FILMS = (
    *((12, 96, 128), (12, 40, 128), (8, 40, 128), (12, 24, 128), (8, 24, 128), (6, 32, 128)),
    *((8, 32, 96), (6, 24, 96)),
)
SAMPLE = 10_000  # pixels of all frames, from which the palette is chosen
FRAME, FIRST, LAST = 167, 1000, 2000  # milliseconds: six frames a second, and time to look at both ends

PADDING, GAP, ROW_NAMES = 16, 8, 96
WIDEST = 904  # a curve beside the pictures goes below them where both would be wider
TEXT, TEXT_HEIGHT = 13, 18


@dataclass(frozen=True)
class Curve:
    """A drawn curve and, for each frame, where its point stands.

    picture: uint8 (height, width, 3). width: pixels on the page. points: (x, y) as shares of width and height, from the
    top left; None hides the point of a frame.
    """

    picture: np.ndarray
    width: int
    points: list[tuple[float, float] | None]

    @property
    def height(self) -> int:
        """Pixels on the page."""
        return round(self.width * self.picture.shape[0] / self.picture.shape[1])


@dataclass(frozen=True)
class Reel:
    """The frames of a viewer: for each a label, and a picture for every place in a grid, row by row.

    pictures: for each frame uint8 (height, width, 3) for each place. names, rows: of the grid's columns and rows.
    factors: for each place, how many pixels of the page a pixel of its picture takes. alt: all of it in a sentence.
    """

    pictures: list[list[np.ndarray]]
    labels: list[str]
    names: tuple[str, ...]
    rows: tuple[str, ...]
    factors: list[int]
    curve: Curve | None
    alt: str

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) on the page, for each place; all frames are shown in the size of the first."""
        places = zip(self.pictures[0], self.factors, strict=True)
        return [(picture.shape[1] * factor, picture.shape[0] * factor) for picture, factor in places]


def enlargement(picture: np.ndarray, side: int) -> int:
    """The whole factor, at least 1, that brings a picture to about `side` pixels; 5 in 100 more are let pass."""
    return max(1, int(side * 1.05) // max(picture.shape[:2]))


def film(reel: Reel, largest: int = FILM_BYTES) -> tuple[bytes, int, int]:
    """The film of a reel as (animated PNG, width, height), of the best kind in `FILMS` with at most `largest` bytes,
    or else of the last kind."""
    for frames, colours, side in FILMS:
        chosen = sorted({round(index) for index in np.linspace(0, len(reel.labels) - 1, frames)})
        drawn = [_frame(reel, index, side) for index in chosen]
        data = _animated(drawn, colours)
        if len(data) <= largest:
            break
    return data, *drawn[0].size


def _animated(frames: list[Image.Image], colours: int) -> bytes:
    """Frames of one size as an animated PNG with one palette, which is all that such a file can have."""
    width, height = frames[0].size
    column = Image.new("RGB", (width, height * len(frames)))
    for index, frame in enumerate(frames):
        column.paste(frame, (0, index * height))
    # Those of pictures are chosen from a sample, which takes a tenth of the time; the text keeps its own. The last
    # frame counts as much as all others together: a run begins with noise of every colour, which need not be true.
    pixels = [np.asarray(frame).reshape(-1, 3) for frame in frames]
    sample = [some[:: 1 + len(frames) * len(some) // SAMPLE] for some in pixels]
    sample = Image.fromarray(np.concatenate(sample + sample[-1:] * len(frames))[None])
    chosen = sample.quantize(colours, kmeans=1)  # without it rare colours, such as a fox's orange, are lost
    own = [part for colour in (CARD, HAIRLINE, LINE, SECOND, INK) for part in ImageColor.getrgb(colour)]
    palette = [*own, *chosen.getpalette()[: 3 * colours]]
    whole = Image.new("P", (1, 1))
    whole.putpalette(palette + palette[-3:] * (256 - len(palette) // 3))
    indices = np.asarray(column.quantize(palette=whole, dither=Image.Dither.NONE))
    column = Image.fromarray(np.minimum(indices, len(palette) // 3 - 1), "P")
    column.putpalette(palette)
    first, *rest = (column.crop((0, index * height, width, (index + 1) * height)) for index in range(len(frames)))
    if not rest:
        return picture_file(first)
    durations = [FIRST, *[FRAME] * (len(rest) - 1), LAST]
    return picture_file(first, save_all=True, append_images=rest, duration=durations, loop=0)


def _frame(reel: Reel, index: int, side: int) -> Image.Image:
    """One frame: names above pictures, the curve beside or below them, then how far the run is, and the label."""
    count = len(reel.names)
    scaled = [_scaled(*pair, side) for pair in zip(reel.pictures[0], reel.factors, strict=True)]
    widths = [max(width for width, _ in scaled[column::count]) for column in range(count)]
    heights = [max(height for _, height in scaled[start : start + count]) for start in range(0, len(scaled), count)]
    heads = [_wrapped(name, width) for name, width in zip(reel.names, widths, strict=True)]
    sides = [_wrapped(name, ROW_NAMES - GAP) for name in reel.rows]
    head = TEXT_HEIGHT * max(map(len, heads))
    left = ROW_NAMES if any(reel.rows) else 0
    grid = left + sum(widths) + GAP * (count - 1), head + sum(heights) + GAP * (len(heights) - 1)

    curve, place = reel.curve, (0, 0)
    inner = grid
    if curve is not None:
        drawn = round(curve.width * side / 128), round(curve.height * side / 128)
        if grid[0] + 3 * GAP + drawn[0] <= WIDEST:
            place, inner = (grid[0] + 3 * GAP, 0), (grid[0] + 3 * GAP + drawn[0], max(grid[1], drawn[1]))
        else:
            place, inner = (0, grid[1] + GAP), (max(grid[0], drawn[0]), grid[1] + GAP + drawn[1])
    wide = max(inner[0], *(int(_font().getlength(label)) + 1 for label in reel.labels))
    below = PADDING + inner[1] + 2 * GAP  # where the bar stands

    canvas = Image.new("RGB", (wide + 2 * PADDING, below + GAP + TEXT_HEIGHT + PADDING - 4), CARD)
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, 0, canvas.width - 1, canvas.height - 1), outline=HAIRLINE)
    y = PADDING + head
    for row, height in enumerate(heights):
        _write(pen, (PADDING, y), sides[row], SECOND)
        x = PADDING + left
        for column, width in enumerate(widths):
            if row == 0:
                _write(pen, (x, PADDING), heads[column], INK)
            number = row * count + column
            # Latents are enlarged dot by dot: smoothed noise would be other noise.
            kind = Image.Resampling.NEAREST if reel.factors[number] > 1 else Image.Resampling.LANCZOS
            canvas.paste(Image.fromarray(reel.pictures[index][number]).resize(scaled[number], kind), (x, y))
            x += width + GAP
        y += height + GAP
    if curve is not None:
        place = PADDING + place[0], PADDING + place[1]
        canvas.paste(Image.fromarray(curve.picture).resize(drawn, Image.Resampling.LANCZOS), place)
        if curve.points[index] is not None:
            x, y = (place[axis] + curve.points[index][axis] * drawn[axis] for axis in range(2))
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill="white", outline=INK, width=2)

    done = index / max(1, len(reel.labels) - 1)
    pen.line((PADDING, below, PADDING + wide - 1, below), fill=HAIRLINE, width=2)
    if len(reel.labels) > 1:
        pen.line((PADDING, below, PADDING + round(done * (wide - 1)), below), fill=INK, width=2)
    _write(pen, (PADDING, below + GAP), [reel.labels[index]], INK)
    return canvas


def _scaled(picture: np.ndarray, factor: int, side: int) -> tuple[int, int]:
    """(width, height) of a picture in the film: as on the page, but no more than about `side` pixels."""
    height, width, _ = picture.shape
    if max(height, width) <= side:
        factor = min(factor, enlargement(picture, side))
        return width * factor, height * factor
    scale = side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], colour: str) -> None:
    for number, line in enumerate(lines):
        pen.text((place[0], place[1] + number * TEXT_HEIGHT), line, fill=colour, font=_font())


def _wrapped(text: str, width: int) -> list[str]:
    """Lines that are no wider than `width` pixels, as far as words can be parted; none for an empty text."""
    measure: Callable[[str], float] = _font().getlength
    lines: list[str] = []
    for word in text.split():
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: a font of the system would draw other films on other machines."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), TEXT)
