"""One run of Stable Diffusion as a figure: what stands at each of its seven stations."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from torch import Tensor

from helpers.images import as_numbers, as_picture
from helpers.palette import HAIRLINE, INK, LINE, ROLES, SECOND
from helpers.picture_grids import COLOURS, GAP, LABEL, PADDING, PER_INCH, SIGNED, SMALL, STYLE, WIDEST, hairline

CONTENT = WIDEST - 2 * PADDING
TILE, LARGE, NOISE = 128, 256, 96  # sides of pictures and of the channels of noise
LIMIT = 2.5  # what the strongest blue and red of a latent stand for
HEIGHT = 1124


def seven_stations(
    texts: Sequence[Sequence[tuple[str, int]]],
    vectors: Tensor,
    noise: Tensor,
    steps: Sequence[tuple[int, Tensor, Any]],
    timesteps: Sequence[int],
    latent: Tensor,
    picture: Any,
) -> Figure:
    """The seven stations, top to bottom, filled by one run.

    texts: the empty prompt and the words, each as (token, id). vectors: (2, tokens, width), in the same order. noise,
    latent: (C, h, w), of which four channels are shown. steps: up to six moments: t, the guided noise (C, h, w), the
    estimated picture. timesteps: all of the run. picture: the last one. Pictures are as in `as_picture`.
    """
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(WIDEST / PER_INCH, HEIGHT / PER_INCH))
        _head(figure, 0, 28, 1, "Tokens", "the empty prompt, and the words")
        for row, text in enumerate(texts):
            _chips(figure, 58 + 30 * row, text)

        limit = round(2 * float(vectors.float().std()), 1)
        _head(figure, 0, 134, 2, "Vectors", f"blue −{limit:g}, red {limit:g}")
        for column, values in enumerate(vectors):
            axis = _place(figure, column * (CONTENT + 24) / 2, 162, (CONTENT - 24) / 2, TILE)
            axis.imshow(as_numbers(values), cmap=COLOURS[SIGNED], vmin=-limit, vmax=limit, aspect="auto")

        _head(figure, 0, 308, 3, "Starting noise", f"four channels, ±{LIMIT:g}")
        _channels(figure, noise, 0, 336, NOISE, "eps")
        _head(figure, 476, 308, 4, "Timesteps", f"{len(timesteps)} of 1000")
        _ruler(figure, timesteps)

        _head(figure, 0, 450, 5, "Guided prediction", "its first channel")
        _head(figure, 0, 632, 6, "Step", "the estimate of x0 on the way")
        apart = (CONTENT - TILE) / 5
        for number, (t, eps, estimate) in enumerate(steps):
            axis = _place(figure, number * apart, 478, TILE, TILE, "guidance")
            axis.imshow(as_numbers(eps[0]), cmap=COLOURS[SIGNED], vmin=-LIMIT, vmax=LIMIT, interpolation="nearest")
            axis = _place(figure, number * apart, 660, TILE, TILE, "x0")
            axis.imshow(as_picture(estimate), interpolation="nearest")
            _text(figure, number * apart + TILE / 2, 793, f"t = {t}", ha="center", va="top")

        _head(figure, 0, 822, 7, "Pixels", "from the last latent to the picture")
        middle = 850 + (LARGE - TILE) / 2
        _channels(figure, latent, 0, middle, TILE, "x0")
        _arrow(figure, 4 * (TILE + GAP) + 12, CONTENT - LARGE - 16, middle + TILE / 2)
        axis = _place(figure, CONTENT - LARGE, 850 - 10, LARGE, LARGE, "x0")
        axis.imshow(as_picture(picture), interpolation="nearest")
        hairline(figure)
    return figure


def _place(figure: Figure, x: float, y: float, wide: float, high: float, role: str | None = None) -> Axes:
    """Axes without ticks, their upper left corner x pixels right of the padding and y below the top."""
    place = ((PADDING + x) / WIDEST, 1 - (y + high) / HEIGHT, wide / WIDEST, high / HEIGHT)
    axis = figure.add_axes(place)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, color=ROLES[role].ink if role else HAIRLINE, linewidth=1.8 if role else 0.9)
    return axis


def _text(figure: Figure, x: float, y: float, words: str, **options: Any) -> None:
    figure.text((PADDING + x) / WIDEST, 1 - y / HEIGHT, words, **{"size": SMALL, "color": SECOND, **options})


def _whole(figure: Figure) -> Axes:
    """Axes over the whole figure, in pixels from its upper left corner, for shapes."""
    axis = figure.add_axes((0, 0, 1, 1), zorder=-1)
    axis.set(xlim=(-PADDING, WIDEST - PADDING), ylim=(HEIGHT, 0))
    axis.set_axis_off()
    return axis


def _head(figure: Figure, x: float, y: float, number: int, head: str, note: str) -> None:
    """A station's number in a disc, its name, and a few words."""
    _whole(figure).add_patch(Circle((x + 11, y + 9), 11, color=INK))
    _text(figure, x + 11, y + 9.5, str(number), color="white", weight="bold", ha="center", va="center_baseline")
    _text(figure, x + 30, y + 9, head, color=INK, weight="bold", size=LABEL, va="center")
    _text(figure, x + 46 + 7.7 * len(head), y + 9, note, va="center")


def _chips(figure: Figure, y: float, text: Sequence[tuple[str, int]]) -> None:
    """A row of tokens with their ids; the ends that fill it up are counted in the last chip."""
    shapes, x = _whole(figure), 0.0
    last = text[-1]
    inner = [pair for pair in text if pair[1] != last[1]]
    count = len(text) - len(inner)
    for number, (word, token) in enumerate([*inner, (f"{last[0]} × {count}", last[1])]):
        wide = 18 + 7.4 * len(word)
        frame = number in (0, len(inner))  # start and end
        role = ROLES["words"]
        box = FancyBboxPatch(
            (x, y), wide, 22, boxstyle="round,pad=0,rounding_size=4", edgecolor=role.ink, linewidth=0.9
        )
        box.set_facecolor("white" if frame else role.tint)
        shapes.add_patch(box)
        _text(figure, x + wide / 2, y + 11, word, color=role.ink, ha="center", va="center")
        _text(figure, x + wide + 5, y + 11, str(token), va="center")
        x += wide + 5 + 7.4 * len(str(token)) + 12


def _channels(figure: Figure, latent: Tensor, x: float, y: float, side: int, role: str) -> None:
    for number, channel in enumerate(as_numbers(latent)[:4]):
        axis = _place(figure, x + number * (side + GAP), y, side, side, role)
        axis.imshow(channel, cmap=COLOURS[SIGNED], vmin=-LIMIT, vmax=LIMIT, interpolation="nearest")


def _ruler(figure: Figure, timesteps: Sequence[int]) -> None:
    """All timesteps of a run as points on a line from 1000 to 0."""
    axis = _place(figure, 484, 336, CONTENT - 492, NOISE)
    axis.set_facecolor("none")
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set(xlim=(1000, -12), ylim=(-1, 1))
    axis.plot([1000, 0], [0, 0], color=LINE, linewidth=0.9)
    axis.plot(timesteps, [0] * len(timesteps), "o", color=ROLES["x_t"].ink, markersize=5)
    for t in (timesteps[0], timesteps[-1]):
        axis.annotate(
            str(t), (t, 0), (0, 12), textcoords="offset points", ha="center", color=ROLES["x_t"].ink, size=SMALL
        )
    for t, side in ((1000, "left"), (0, "right")):
        axis.annotate(str(t), (t, 0), (0, -20), textcoords="offset points", ha=side, color=SECOND, size=SMALL)


def _arrow(figure: Figure, start: float, end: float, y: float) -> None:
    style = {"arrowstyle": "-|>", "color": ROLES["vae"].ink, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    _whole(figure).annotate("", (end, y), (start, y), arrowprops=style)
    _text(figure, (start + end) / 2, y - 8, "decoder", color=ROLES["vae"].ink, ha="center", va="bottom")
