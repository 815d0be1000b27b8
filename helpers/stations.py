"""Lesson 07 in figures: one run of Stable Diffusion, part by part."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from torch import Tensor

from helpers.images import as_numbers, as_picture
from helpers.palette import HAIRLINE, INK, LINE, ROLES, SECOND
from helpers.picture_grids import COLOURS, GAP, NAMES, PADDING, PER_INCH, SIGNED, SMALL, STYLE, WIDEST, hairline

CONTENT = WIDEST - 2 * PADDING
TILE, LARGE, NOISE = 128, 256, 96  # sides of pictures and of the channels of noise
RUN = TILE + GAP + NAMES  # where the steps begin: at their left a picture's width, and room for the rows' names
MARKS = 76  # room at the right of the vectors for what their rows belong to
LIMIT = 2.5  # what the strongest blue and red of a latent stand for
HEAD = 14.4  # points: 16 pixels
SYMBOL = {"size": 17.1, "color": INK}  # 19 pixels
HEIGHT = 1506


class Moment(NamedTuple):
    """One step of a run: t, the latent (C, h, w), the guided noise (C, h, w), its factor, the estimated picture."""

    t: int
    x: Tensor
    eps: Tensor
    factor: float
    estimate: Any


def seven_parts(
    texts: Sequence[Sequence[tuple[str, int]]],
    vectors: Tensor,
    noise: Tensor,
    moments: Sequence[Moment],
    timesteps: Sequence[int],
    latent: Tensor,
    painted: Tensor,
    picture: Any,
) -> Figure:
    """What each of the seven parts gives in one run, top to bottom.

    texts: the empty prompt and the words, each as (token, id). vectors: (2, tokens, width), in the same order. noise,
    latent: (C, h, w), of which four channels are shown. moments: five. timesteps: all of the run. painted: (3, H, W),
    what the decoder gives, about -1 to 1. picture: the last one. Pictures are as in `as_picture`.
    """
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(WIDEST / PER_INCH, HEIGHT / PER_INCH))
        _head(figure, 0, 28, 1, "Tokens", "of the empty prompt, and of the words; after the first end: padding")
        for row, text in enumerate(texts):
            _chips(figure, 58 + 30 * row, text)

        limit = round(2 * float(vectors.float().std()), 1)
        _head(figure, 0, 134, 2, "Vectors", f"left the empty prompt, right the words; a row for each token; ±{limit:g}")
        for column, values in enumerate(vectors):
            wide = (CONTENT - 24 - MARKS) / 2
            axis = _place(figure, column * (wide + 24), 162, wide, TILE)
            axis.imshow(as_numbers(values), cmap=COLOURS[SIGNED], vmin=-limit, vmax=limit, aspect="auto")
        _mark_rows(figure, texts[1], 162)

        _head(figure, 0, 312, 3, "Starting noise", f"four channels, ±{LIMIT:g}")
        for number, channel in enumerate(as_numbers(noise)[:4]):
            _latent(figure, channel, number * (NOISE + GAP), 340, NOISE, "eps")
        _head(figure, 476, 312, 4, "Timesteps", f"{len(timesteps)} of 1000")
        _ruler(figure, timesteps)

        _head(
            figure,
            0,
            458,
            5,
            "Guided prediction",
            f"first channel, ±{LIMIT:g}; below, the standard deviation of all four",
        )
        for number, moment in enumerate(moments):
            x = RUN + number * (TILE + GAP)
            _text(figure, x + TILE / 2, 503, f"t = {moment.t}", color=INK, ha="center", va="bottom")
            rows = {"x_t": moment.x, "guidance": moment.eps, "eps": moment.factor * moment.eps}
            for row, (role, values) in enumerate(rows.items()):
                y = 508 + row * 156
                _latent(figure, as_numbers(values[0]), x, y, TILE, role)
                factor = f"; factor {moment.factor:.3f}" if role == "eps" else ""
                _text(figure, x + TILE / 2, y + 131, _spread(values) + factor, ha="center", va="top")
            axis = _place(figure, x, 1012, TILE, TILE, "x0")
            axis.imshow(as_picture(moment.estimate), interpolation="nearest")
        _latent(figure, as_numbers(noise[0]), 0, 664, TILE, "eps")  # once more, beside the answers
        _text(figure, TILE / 2, 659, "starting noise", color=INK, ha="center", va="bottom")
        _text(figure, TILE / 2, 795, _spread(noise), ha="center", va="top")
        for row, name in enumerate(("$x_t$", r"$\hat{\epsilon}$", r"$\sqrt{1-\bar{\alpha}_t}\ \hat{\epsilon}$")):
            _text(figure, RUN - 12, 508 + row * 156 + TILE / 2, name, ha="right", va="center", **SYMBOL)
        _head(figure, 0, 984, 6, "Step", "the x0 estimates of these steps, decoded")
        _text(figure, RUN - 12, 1012 + TILE / 2, r"$\hat{x}_0$", ha="right", va="center", **SYMBOL)

        _head(figure, 0, 1160, 7, "Pixels", "")
        small = (LARGE - GAP) / 2
        for number, channel in enumerate(as_numbers(latent)[:4]):
            row, column = divmod(number, 2)
            _latent(figure, channel, column * (small + GAP), 1192 + row * (small + GAP), small, "x0")
        beyond = _beyond(painted)
        most = max(float(np.abs(beyond).max()), 1.0)
        axis = _place(figure, CONTENT - LARGE, 1192, LARGE, LARGE)
        axis.imshow(beyond, cmap=COLOURS[SIGNED], vmin=-most, vmax=most, interpolation="nearest")
        axis = _place(figure, 324, 1192, LARGE, LARGE, "x0")
        axis.imshow(as_picture(picture), interpolation="nearest")
        _arrow(figure, LARGE + 6, 318, 1192 + LARGE / 2, "decoder", "clamp")
        under = {
            LARGE / 2: f"last latent, four channels, ±{LIMIT:g}",
            324 + LARGE / 2: "the picture",
            CONTENT - LARGE / 2: f"cut off by the clamp: up to {most:.0f} of 255",
        }
        for x, words in under.items():
            _text(figure, x, 1192 + LARGE + 4, words, ha="center", va="top")
        hairline(figure)
    return figure


def _spread(values: Tensor) -> str:
    return f"{float(values.float().std()):.2f}"


def _beyond(painted: Tensor) -> np.ndarray:
    """How far each pixel's worst colour lies above 255 or below 0, (H, W): what clamping cuts off."""
    excess = (as_numbers(painted) / 2 + 0.5) * 255
    excess = excess - excess.clip(0, 255)
    worst = np.abs(excess).argmax(axis=0)
    return np.take_along_axis(excess, worst[None], axis=0)[0]


def _place(figure: Figure, x: float, y: float, wide: float, high: float, role: str | None = None) -> Axes:
    """Axes without ticks, their upper left corner x pixels right of the padding and y below the top."""
    place = ((PADDING + x) / WIDEST, 1 - (y + high) / HEIGHT, wide / WIDEST, high / HEIGHT)
    axis = figure.add_axes(place)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, color=ROLES[role].ink if role else HAIRLINE, linewidth=1.8 if role else 0.9)
    return axis


def _latent(figure: Figure, channel: np.ndarray, x: float, y: float, side: float, role: str) -> None:
    axis = _place(figure, x, y, side, side, role)
    axis.imshow(channel, cmap=COLOURS[SIGNED], vmin=-LIMIT, vmax=LIMIT, interpolation="nearest")


def _text(figure: Figure, x: float, y: float, words: str, **options: Any) -> None:
    figure.text((PADDING + x) / WIDEST, 1 - y / HEIGHT, words, **{"size": SMALL, "color": SECOND, **options})


def _whole(figure: Figure) -> Axes:
    """Axes over the whole figure, in pixels from its upper left corner, for shapes."""
    axis = figure.add_axes((0, 0, 1, 1), zorder=-1)
    axis.set(xlim=(-PADDING, WIDEST - PADDING), ylim=(HEIGHT, 0))
    axis.set_axis_off()
    return axis


def _head(figure: Figure, x: float, y: float, number: int, head: str, note: str) -> None:
    """A part's number in a disc, its name, and a few words."""
    _whole(figure).add_patch(Circle((x + 11, y + 9), 11, color=INK))
    _text(figure, x + 11, y + 9.5, str(number), color="white", weight="bold", ha="center", va="center_baseline")
    _text(figure, x + 30, y + 9, head, color=INK, weight="bold", size=HEAD, va="center")
    _text(figure, x + 48 + 10 * len(head), y + 9, note, va="center")


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


def _ruler(figure: Figure, timesteps: Sequence[int]) -> None:
    """All timesteps of a run as points on a line from 999 to 0."""
    axis = _place(figure, 484, 340, CONTENT - 492, NOISE)
    axis.set_facecolor("none")
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set(xlim=(999, -12), ylim=(-1, 1))
    axis.plot([999, 0], [0, 0], color=LINE, linewidth=0.9)
    axis.plot(timesteps, [0] * len(timesteps), "o", color=ROLES["x_t"].ink, markersize=5)
    for t in (timesteps[0], timesteps[-1]):
        axis.annotate(
            str(t), (t, 0), (0, 12), textcoords="offset points", ha="center", color=ROLES["x_t"].ink, size=SMALL
        )
    for t, side in ((999, "left"), (0, "right")):
        axis.annotate(str(t), (t, 0), (0, -20), textcoords="offset points", ha=side, color=SECOND, size=SMALL)


def _mark_rows(figure: Figure, text: Sequence[tuple[str, int]], y: float) -> None:
    """At the right of a map with a row for each token, TILE high: which rows are the words', and which padding."""
    shapes, role = _whole(figure), ROLES["words"]
    end = sum(token != text[-1][1] for _, token in text)  # the first of the end tokens; those after it are padding
    x = CONTENT - MARKS + 8
    for name, first, last in (("words", 1, end), ("padding", end + 1, len(text))):
        if first < last:
            top, bottom = (y + TILE * place / len(text) for place in (first, last))
            shapes.plot([x, x], [top + 1, bottom - 1], color=role.ink, linewidth=1.8, solid_capstyle="butt")
            _text(figure, x + 6, (top + bottom) / 2, name, color=role.ink, va="center")


def _arrow(figure: Figure, start: float, end: float, y: float, above: str, below: str) -> None:
    style = {"arrowstyle": "-|>", "color": ROLES["vae"].ink, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    _whole(figure).annotate("", (end, y), (start, y), arrowprops=style)
    _text(figure, (start + end) / 2, y - 8, above, color=ROLES["vae"].ink, ha="center", va="bottom")
    _text(figure, (start + end) / 2, y + 8, below, color=ROLES["vae"].ink, ha="center", va="top")
