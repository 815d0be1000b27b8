"""Pictures and maps in rows: names at the left, heads on top, numbers under the tiles, one scale at the right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from helpers.images import as_numbers, as_picture
from helpers.palette import CARD, HAIRLINE, INK, LINE, ROLES, SECOND

STYLE = Path(__file__).with_name("course.mplstyle")
# Pixels of the page. A figure has twice as many of its own, so that letters stay sharp on any screen.
PER_INCH = 80
WIDEST = 960  # of a figure
PADDING, GAP = 28, 8  # around the tiles, and between them
NAMES, SCALE = 96, 72  # room for row names at the left, and for the scale at the right
HEAD, NUMBER = 22, 20  # height of a line of text above the tiles, and under them
BAR = 9  # width of the scale
SMALL, LABEL = 11.25, 11.7  # points: 12.5 and 13 pixels

SIGNED, SIZES, DISTANCE = "signed", "sizes", "distance"
COLOURS = {
    SIGNED: "RdBu_r",
    SIZES: "magma_r",
    DISTANCE: LinearSegmentedColormap.from_list("distance", [CARD, ROLES["ill"].ink]),
}


@dataclass(frozen=True)
class Map:
    """Numbers as colours: a tile of a grid.

    values: (height, width). kind: "signed", blue below zero and red above; "sizes", from zero upwards, such as how much
    a picture has changed; "distance", from healthy to ill. limit: the value of the strongest colour; by default the
    largest there is among the figure's maps. All maps of one figure have one kind and one scale.
    """

    values: Any
    kind: Literal["signed", "sizes", "distance"] = SIGNED
    limit: float | None = None

    def __post_init__(self) -> None:
        values = as_numbers(self.values)
        if values.ndim != 2 or not values.size:
            raise ValueError(f"A map has the shape (height, width), not {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("A map holds finite numbers, and some of these are not")
        if self.kind not in COLOURS:
            raise ValueError(f"Unknown kind of map {self.kind!r}: choose one of {', '.join(COLOURS)}")
        if self.limit is not None and not self.limit > 0:
            raise ValueError(f"The limit of a map is above 0, not {self.limit}")
        object.__setattr__(self, "values", values)


def difference(before: Any, after: Any) -> Map:
    """How much each pixel has changed, from 0 to 255: the mean over its colours. Both as in `as_picture`, of one size.

    Raises ValueError if their sizes differ.
    """
    one, other = as_picture(before), as_picture(after)
    if one.shape != other.shape:
        raise ValueError(f"A picture of {one.shape[:2]} pixels cannot be compared with one of {other.shape[:2]}")
    return Map(np.abs(one.astype(float) - other).mean(axis=2), SIZES)


def attention(picture: Any, shares: Any, largest: float) -> np.ndarray:
    """A picture under the attention that a word gets: greyed, and the words' green the stronger the larger the share.

    picture: as in `as_picture`. shares: (rows, columns), each place's share, from 0 to 1, drawn as a square; or a list
    of such maps, one for each layer: then their mean is drawn, each enlarged smoothly, because squares of different
    sizes on top of each other look like shapes that no layer has seen. largest: the share that is drawn in full
    colour, the largest of all maps to be compared; a caption should say it.

    Returns (height, width, 3) uint8. Raises ValueError for shares that are not 2-D, and for a largest share of 0.
    """
    pixels = as_picture(picture).astype(float)
    maps = [as_numbers(one) for one in (shares if isinstance(shares, list) else [shares])]
    for one in maps:
        if one.ndim != 2:
            raise ValueError(f"Shares have the shape (rows, columns), not {one.shape}")
    if not largest > 0:
        raise ValueError(f"The largest share is above 0, not {largest}")
    grey = 255 - 0.35 * (255 - pixels.mean(axis=2, keepdims=True))
    way = Image.Resampling.NEAREST if len(maps) == 1 else Image.Resampling.BICUBIC
    size = pixels.shape[1], pixels.shape[0]
    enlarged = [np.asarray(Image.fromarray(one.astype(np.float32)).resize(size, way)) for one in maps]
    strength = np.clip(np.mean(enlarged, axis=0)[..., None] / largest, 0, 1)
    green = np.array([int(ROLES["words"].ink[i : i + 2], 16) for i in (1, 3, 5)])
    return np.rint(grey * (1 - strength) + green * strength).astype(np.uint8)


def grid(
    rows: Sequence[Sequence[Any]],
    *,
    names: Sequence[str] = (),
    heads: Sequence[str] = (),
    numbers: Sequence[Sequence[str]] = (),
    side: int = 128,
    role: str | None = None,
    scale: str = "",
) -> Figure:
    """Pictures and maps in rows.

    rows: each a sequence of tiles: a picture as in `as_picture`, a `Map`, or None for an empty place.
    names: one for each row, at the left. heads: one for each column, on top. numbers: for each row a text under each
        tile. Keep names and heads to 18 characters: they are never wrapped.
    side: of a tile, in pixels of the page, such as 128 or 256: pictures of 128 pixels are enlarged by whole factors and
        keep their square pixels; larger ones are smoothed.
    role: the one of `palette.ROLES` in whose colour the tiles are framed; by default a hairline.
    scale: what the colours of the maps count, such as `of 255`, over their scale; at most 12 characters.

    Raises ValueError for no tiles, for names, heads or numbers that do not match them, for maps of two kinds, and for a
    figure that would be wider than 960 pixels.
    """
    rows = [list(row) for row in rows]
    count = max((len(row) for row in rows), default=0)
    if not count:
        raise ValueError("There are no pictures to show: give at least one row of at least one")
    _check_count("names", names, len(rows), "rows")
    _check_count("heads", heads, count, "columns")
    _check_count("numbers", numbers, len(rows), "rows")
    tiles = [None if tile is None or isinstance(tile, Map) else as_picture(tile) for row in rows for tile in row]
    maps = [tile for row in rows for tile in row if isinstance(tile, Map)]
    kinds = {found.kind for found in maps}
    if len(kinds) > 1:
        raise ValueError(f"One figure has one kind of map, not {' and '.join(sorted(kinds))}")

    left = PADDING + NAMES * bool(names)
    width = left + count * (side + GAP) - GAP + SCALE * bool(maps) + PADDING
    if width > WIDEST:
        raise ValueError(f"{count} tiles of {side} pixels make a figure of {width}: a page has {WIDEST}")
    below = NUMBER * bool(numbers)
    top = PADDING + HEAD * bool(heads)
    height = top + len(rows) * (side + below + GAP) - GAP + PADDING
    norm = _scale(maps)
    tile = iter(tiles)
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(width / PER_INCH, height / PER_INCH))
        for r, row in enumerate(rows):
            y = top + r * (side + below + GAP)
            if names:
                _name_row(figure, names[r], left, y + side / 2)
            for c, cell in enumerate(row):
                picture = next(tile)
                if cell is None:
                    continue
                x = left + c * (side + GAP)
                axis = _tile(figure, x, y, side, side, width, height, role)
                if isinstance(cell, Map):
                    axis.imshow(cell.values, cmap=COLOURS[cell.kind], norm=norm, interpolation="nearest")
                else:
                    whole = 2 * side % max(picture.shape[:2]) == 0 or max(picture.shape[:2]) < side
                    axis.imshow(picture, interpolation="nearest" if whole else "antialiased")
                if numbers and numbers[r][c]:
                    x_middle, foot = (x + side / 2) / width, 1 - (y + side + 4) / height
                    figure.text(x_middle, foot, numbers[r][c], ha="center", va="top", size=SMALL)
        for c, head in enumerate(heads):
            _name_column(figure, head, left + c * (side + GAP) + side / 2, top)
        if maps:
            x, tall = left + count * (side + GAP) + 8, min(side, 128)
            axis = _tile(figure, x, top + (side - tall) / 2, BAR, tall, width, height)
            _draw_scale(axis, COLOURS[maps[0].kind], norm, scale)
        hairline(figure)
    return figure


def heat_map(
    values: Map | Any,
    *,
    names: Sequence[str] = (),
    heads: Sequence[str] = (),
    cell: tuple[int, int] = (36, 28),
    scale: str = "",
) -> Figure:
    """A table of numbers as colours, with its scale at the right.

    values: a `Map`, or what one takes, (rows, columns). names: one for each row, at the left. heads: one for each
    column, on top; leave some empty where they would touch. cell: width and height of a number, in pixels of the page.
    scale: what the colours count, such as `distance`, over their scale; at most 12 characters.

    Raises ValueError for names or heads that do not match, and for a figure wider than 960 pixels.
    """
    found = values if isinstance(values, Map) else Map(values)
    (rows, columns), (wide, high) = found.values.shape, cell
    _check_count("names", names, rows, "rows")
    _check_count("heads", heads, columns, "columns")
    left, top = PADDING + NAMES * bool(names), PADDING + HEAD * bool(heads)
    tall = max(rows * high, 3 * NUMBER)  # the scale has three numbers
    width, height = left + columns * wide + SCALE + PADDING, top + tall + PADDING
    if width > WIDEST:
        raise ValueError(f"{columns} columns of {wide} pixels make a figure of {width}: a page has {WIDEST}")
    norm = _scale([found])
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(width / PER_INCH, height / PER_INCH))
        axis = _tile(figure, left, top, columns * wide, rows * high, width, height)
        axis.imshow(found.values, cmap=COLOURS[found.kind], norm=norm, interpolation="nearest", aspect="auto")
        for r, name in enumerate(names):
            _name_row(figure, name, left, top + (r + 0.5) * high)
        for c, head in enumerate(heads):
            _name_column(figure, head, left + (c + 0.5) * wide, top)
        bar = _tile(figure, left + columns * wide + 16, top, BAR, tall, width, height)
        _draw_scale(bar, COLOURS[found.kind], norm, scale)
        hairline(figure)
    return figure


def _check_count(what: str, given: Sequence[Any], wanted: int, of: str) -> None:
    if given and len(given) != wanted:
        raise ValueError(f"There are {len(given)} {what} for {wanted} {of}")


def _page_size(figure: Figure) -> tuple[float, float]:
    """Width and height of a figure in pixels of the page."""
    wide, high = figure.get_size_inches()
    return wide * PER_INCH, high * PER_INCH


def _name_row(figure: Figure, name: str, left: float, middle: float) -> None:
    """A name that ends before the pixel `left`, its middle at the height `middle`."""
    width, height = _page_size(figure)
    place = (left - 10) / width, 1 - middle / height
    figure.text(*place, name, ha="right", va="center", color=SECOND, size=SMALL)


def _name_column(figure: Figure, head: str, middle: float, top: float) -> None:
    """A head that stands over the pixel `top`, its middle at `middle`."""
    width, height = _page_size(figure)
    figure.text(middle / width, 1 - (top - 6) / height, head, ha="center", va="bottom", color=INK, size=LABEL)


def hairline(figure: Figure) -> None:
    """A thin line round a figure: the card that it stands on, seen on a white page too."""
    box = Rectangle((0, 0), 1, 1, transform=figure.transFigure, fill=False, color=HAIRLINE, linewidth=1.8)
    figure.add_artist(box)


def _tile(
    figure: Figure, x: float, y: float, wide: float, high: float, width: float, height: float, role: str | None = None
) -> Axes:
    """Axes for one tile, its upper left corner at (x, y) pixels, framed."""
    axis = figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, color=ROLES[role].ink if role else HAIRLINE, linewidth=1.8 if role else 0.9)
    return axis


def _scale(maps: Sequence[Map]) -> Normalize | None:
    """What all maps of a figure share: from 0, or from minus the limit, to the limit."""
    if not maps:
        return None
    limits = [found.limit for found in maps if found.limit is not None]
    limit = max(limits) if limits else max(float(np.abs(found.values).max()) for found in maps) or 1.0
    return Normalize(-limit if maps[0].kind == SIGNED else 0, limit)


def _draw_scale(axis: Axes, colours: Any, norm: Normalize, counts: str) -> None:
    """A bar from the lowest to the highest value, with three ticks at its right; over it, what they count."""
    axis.imshow(np.linspace(norm.vmax, norm.vmin, 128)[:, None], cmap=colours, norm=norm, aspect="auto")
    ticks = np.linspace(norm.vmax, norm.vmin, 3)
    axis.yaxis.tick_right()
    axis.set_yticks([0, 63.5, 127], [f"{tick:.3g}".replace("-", "\N{MINUS SIGN}") for tick in ticks])
    if counts:
        axis.annotate(counts, (0, 1), (0, 10), "axes fraction", "offset points", color=SECOND, size=SMALL)
    axis.tick_params(length=0, pad=4, labelsize=SMALL, labelcolor=SECOND)
    for spine in axis.spines.values():
        spine.set(color=LINE, linewidth=0.9)
