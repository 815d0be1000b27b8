"""A U-Net drawn from the shapes that pass through it."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers.plots import COLOURS, DPI, FONT

Shape = tuple[int, int, int]  # channels, height, width

WIDTH = 8.0  # inches of the whole figure
TALLEST, WIDEST = 1.0, 0.42  # inches of the box with the most rows, and of the one with the most channels
SMALLEST = 0.05  # inches: a box thinner than this could not be seen
STEP = 0.11  # inches between arrows above each other
TEXT = 0.2  # inches that the line below a box needs
MARGIN = 0.7  # inches left of the boxes, for the resolutions


def unet_diagram(down: Sequence[Shape], middle: Shape, up: Sequence[Shape]) -> Figure:
    """The U of a U-Net (Ronneberger et al., 2015, arXiv:1505.04597, figure 1) from shapes (channels, height, width).

    A box is a tensor: as high as it has rows of numbers, as wide as it has channels, whose number stands below it.
    Boxes of one resolution stand on one line. Arrows are the skip connections.

    down: what the contracting path keeps for the skips, in the order in which it is made. middle: at the bottom.
    up: what leaves each part of the expanding path that takes a skip, in order: the first takes the last of `down`.

    Raises ValueError if there is nothing to draw, if the two paths have different lengths, or if a skip joins tensors
    of different height and width.
    """
    if not down or len(down) != len(up):
        raise ValueError(f"There are {len(down)} skips and {len(up)} parts to take them: give equally many, at least 1")
    for number, (source, target) in enumerate(zip(down, reversed(up), strict=True)):
        if tuple(source[1:]) != tuple(target[1:]):
            raise ValueError(f"Skip {number} joins {tuple(source)} with {tuple(target)}: their sizes must be equal")

    shapes = [*down, middle, *up]
    rows = sorted({shape[1] for shape in shapes}, reverse=True)
    pairs = {row: [n for n, shape in enumerate(down) if shape[1] == row] for row in rows}
    high = {row: max(SMALLEST, TALLEST * row / rows[0]) for row in rows}
    slot = (WIDTH - MARGIN) / len(shapes)  # inches for each box
    widest = min(WIDEST, 0.8 * slot)
    wide = [max(SMALLEST, widest * shape[0] / max(shape[0] for shape in shapes)) for shape in shapes]
    centres = [MARGIN + (index + 0.5) * slot for index in range(len(shapes))]

    base, bottom = {}, 0.0  # where the boxes of each resolution stand, downwards from the top
    for row in rows:
        base[row] = bottom - STEP * (len(pairs[row]) + 1) - high[row]
        bottom = base[row] - TEXT

    figure, axis = plt.subplots(figsize=(WIDTH, -bottom), dpi=DPI, facecolor="white")
    axis.set_position((0, 0, 1, 1))
    axis.set(xlim=(0, WIDTH), ylim=(bottom, 0))
    axis.set_axis_off()
    text = {"fontsize": FONT - 1, "color": "black", "ha": "center", "va": "top"}  # 1280 fits below a narrow box

    for index, (shape, width, centre) in enumerate(zip(shapes, wide, centres, strict=True)):
        colour = COLOURS[0] if index < len(down) else COLOURS[2] if index == len(down) else COLOURS[1]
        foot = centre - width / 2, base[shape[1]]
        axis.add_patch(Rectangle(foot, width, high[shape[1]], color=colour, linewidth=0))
        axis.text(centre, foot[1] - 0.03, str(shape[0]), **text)
    for row in rows:
        columns = next(shape[2] for shape in shapes if shape[1] == row)
        axis.text(
            MARGIN / 2 - 0.05,
            base[row] + high[row] / 2,
            f"{row} × {columns}",
            **text | {"va": "center", "fontsize": FONT},
        )
        for level, number in enumerate(reversed(pairs[row]), start=1):  # the inner pair is made last, and is lowest
            top = base[row] + high[row]
            start, end = centres[number], centres[len(shapes) - 1 - number]
            axis.plot([start, start, end], [top, top + level * STEP, top + level * STEP], color="#777777", linewidth=1)
            tip = {"arrowstyle": "-|>", "color": "#777777", "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
            axis.annotate("", (end, top), (end, top + level * STEP), arrowprops=tip)
    return figure
