"""Curves that carry their names at their ends, in the colours of what they show."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from helpers.images import as_numbers
from helpers.palette import CARD, PLAIN, ROLES, Role
from helpers.picture_grids import LABEL, PADDING, PER_INCH, SMALL, STYLE, hairline

MARKERS = ("o", "s", "^", "D")
STEPS = [1, 2, 2.5, 5, 10]  # between ticks, times a power of ten
APART = 15  # pixels, at least, between the names at the ends of two curves
BELOW, LEFT, ABOVE = 58, 80, 30  # pixels for the axes' names, and over them
LETTER = 7.4  # pixels, about, that a letter of a name takes


def axes(
    width: int = 904, height: int = 300, *, xlabel: str, ylabel: str, ends: Sequence[str] = ()
) -> tuple[Figure, Axes]:
    """A figure with one empty pair of axes in the course's look, for what no function here draws.

    width, height: of the figure, in pixels of the page. ends: what will be written at the ends of curves: room is left
    for the longest.
    """
    room = _room(ends)
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(width / PER_INCH, height / PER_INCH))
        axis = _panel(figure, (0, 0, width, height), (width, height), room)
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        hairline(figure)
    return figure, axis


def lines(
    x: Any,
    curves: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    roles: Mapping[str, str] | None = None,
    marks: Sequence[tuple[str, float, str]] = (),
    logx: bool = False,
    logy: bool = False,
    falling: bool = False,
    width: int = 904,
    height: int = 300,
) -> Figure:
    """Curves over one axis, each with its name at its end.

    x: (n,) values along the horizontal axis.
    curves: name -> (n,) values, or (seeds, n): then each seed's are drawn as points, their mean as a line, and a band
        of two standard errors round it.
    xlabel, ylabel: what the axes mean, with the unit: `time (s)`, `timestep t (of 1000)`.
    roles: name -> one of `palette.ROLES`, for curves of things that have a colour in all lessons. The others are told
        apart by colour and mark.
    marks: (name, x, text): a ring on that curve at that x, with a few words.
    logx, logy: logarithmic axes. falling: x falls from left to right, as t does in a run.
    width, height: of the figure, in pixels of the page.

    Raises ValueError for no curves, for values that do not match x, and for a role or a name that is not there.
    """
    across, values, styles = _checked(x, curves, roles or {})
    figure, axis = axes(width, height, xlabel=xlabel, ylabel=ylabel, ends=list(values))
    with plt.style.context(STYLE):
        _draw(axis, across, values, styles, logx, logy, falling)
        if not logx:
            _tick_within(axis, across)
        for name, at, text in marks:
            if name not in values:
                raise ValueError(f"There is no curve {name!r} to mark: choose one of {', '.join(values)}")
            _mark(axis, across, values[name], styles[name][0], at, text)
        _name_ends(figure, axis, across, values, styles)
    return figure


def multiples(
    x: Any,
    panels: Mapping[str, Mapping[str, Any]],
    *,
    xlabel: str,
    ylabel: str,
    roles: Mapping[str, str] | None = None,
    logx: bool = False,
    logy: bool = False,
    falling: bool = False,
    width: int = 904,
    height: int = 260,
) -> Figure:
    """Small plots side by side on the same axes, each with its title: panels maps a title to curves as in `lines`.

    Raises ValueError as `lines` does.
    """
    if not panels:
        raise ValueError("There are no panels to draw: give at least one")
    checked = {title: _checked(x, curves, roles or {}) for title, curves in panels.items()}
    room = _room([name for curves in panels.values() for name in curves])
    each = (width - LEFT + PADDING) / len(panels)
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(width / PER_INCH, height / PER_INCH))
        first: Axes | None = None
        for number, (title, (across, values, styles)) in enumerate(checked.items()):
            box = (number * each, 0, each + LEFT - PADDING, height)
            axis = _panel(figure, box, (width, height), room, first)
            axis.set_title(title, fontsize=LABEL, loc="left", pad=8)
            _draw(axis, across, values, styles, logx, logy, falling)
            axis.set_xlabel(xlabel)
            if first is None:
                first = axis
                axis.set_ylabel(ylabel)
            else:
                axis.tick_params(labelleft=False)
        if not logx:
            _tick_within(figure.axes[0], np.concatenate([across for across, _, _ in checked.values()]))
        for axis, (across, values, styles) in zip(figure.axes, checked.values(), strict=True):
            _name_ends(figure, axis, across, values, styles)
        hairline(figure)
    return figure


def _room(names: Sequence[str]) -> float:
    """Pixels right of the axes that the longest name at an end needs."""
    return max(map(len, names), default=0) * LETTER + 12


def _panel(
    figure: Figure,
    box: tuple[float, float, float, float],
    size: tuple[float, float],
    room: float,
    sharing: Axes | None = None,
) -> Axes:
    """Axes in a box (left, top, width, height) of a figure of that size, all in pixels, with `room` at the right."""
    left, top, wide, high = box
    inner = (left + LEFT, top + ABOVE, wide - LEFT - room - PADDING / 2, high - ABOVE - BELOW)
    place = (inner[0] / size[0], 1 - (inner[1] + inner[3]) / size[1], inner[2] / size[0], inner[3] / size[1])
    return figure.add_axes(place, sharex=sharing, sharey=sharing)


def _checked(
    x: Any, curves: Mapping[str, Any], roles: Mapping[str, str]
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, tuple[Role, str]]]:
    """x, the curves as (seeds, n), and how each is drawn: its role and its marker, "" for those with a role."""
    if not curves:
        raise ValueError("There are no lines to draw: give at least one")
    across, values, styles = as_numbers(x), {}, {}
    for name, given in curves.items():
        array = np.atleast_2d(as_numbers(given))
        if array.ndim != 2 or array.shape[1:] != across.shape:
            raise ValueError(f"The line {name!r} has the shape {as_numbers(given).shape}, but x has {across.shape}")
        values[name] = array
    if unknown := [role for role in roles.values() if role not in ROLES]:
        raise ValueError(f"Unknown role {unknown[0]!r}: choose one of {', '.join(ROLES)}")
    if lost := [name for name in roles if name not in values]:
        raise ValueError(f"There is no line {lost[0]!r} to give a role: choose one of {', '.join(values)}")
    plain = [name for name in values if name not in roles]
    for name in values:
        if name in roles:
            styles[name] = ROLES[roles[name]], ""
        else:
            number = plain.index(name)
            styles[name] = ROLES[PLAIN[number % len(PLAIN)]], MARKERS[number % len(MARKERS)] if len(plain) > 1 else ""
    return across, values, styles


def _draw(
    axis: Axes,
    across: np.ndarray,
    values: Mapping[str, np.ndarray],
    styles: Mapping[str, tuple[Role, str]],
    logx: bool,
    logy: bool,
    falling: bool,
) -> None:
    """All curves of one pair of axes; scales with few ticks and plain numbers."""
    every = np.concatenate(list(values.values()))
    for wanted, ruler, which in ((logx, axis.xaxis, "x"), (logy, axis.yaxis, "y")):
        if wanted:
            getattr(axis, f"set_{which}scale")("log")
            ends = every if which == "y" else across
            decades = np.log10(ends[ends > 0].max() / ends[ends > 0].min())
            ruler.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1,)))
            ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ruler.set_minor_formatter(NullFormatter())
            if which == "x" and len(across) <= 8:
                ruler.set_ticks(across)
                ruler.set_ticks([], minor=True)
        else:
            ruler.set_major_locator(MaxNLocator(5, steps=STEPS))
            ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
    axis.margins(x=0.02)  # a name stands right of the axes, and so near its curve's end
    if falling and not axis.xaxis_inverted():
        axis.invert_xaxis()
    for name in values:
        _curve(axis, across, values[name], *styles[name])


def _tick_within(axis: Axes, across: np.ndarray) -> None:
    """Ticks along x where there are values only: round numbers, but the end itself where one is just beside it."""
    low, high = float(across.min()), float(across.max())
    ticks = MaxNLocator(4, steps=STEPS).tick_values(low, high)  # four spaces: five ticks
    near = (high - low) / 100
    ticks = [next((end for end in (low, high) if abs(tick - end) <= near), tick) for tick in ticks]
    axis.set_xticks([tick for tick in ticks if low <= tick <= high])


def _curve(axis: Axes, across: np.ndarray, values: np.ndarray, role: Role, marker: str) -> None:
    mean = values.mean(axis=0)
    every = max(1, len(across) // 6)
    axis.plot(across, mean, color=role.ink, linestyle=role.dash, linewidth=role.width, marker=marker, markevery=every)
    if len(values) > 1:
        error = 2 * values.std(axis=0, ddof=1) / len(values) ** 0.5
        axis.fill_between(across, mean - error, mean + error, color=role.ink, alpha=0.18, linewidth=0)
        for row in values:
            axis.plot(across, row, "o", color=role.ink, alpha=0.35, markersize=3, markeredgewidth=0)


def _mark(axis: Axes, across: np.ndarray, values: np.ndarray, role: Role, at: float, text: str) -> None:
    """A ring with a white core on the curve, a thin line down to the axis, and a few words at its side."""
    order = np.argsort(across)
    y = float(np.interp(at, across[order], values.mean(axis=0)[order]))
    axis.plot([at, at], [axis.get_ylim()[0], y], color=role.ink, linewidth=0.9, zorder=1)
    axis.plot(at, y, "o", color=CARD, markeredgecolor=role.ink, markersize=6.3, markeredgewidth=1.8, zorder=5)
    axis.annotate(text, (at, axis.get_ylim()[0]), (6, 6), textcoords="offset points", color=role.ink, fontsize=SMALL)


def _name_ends(
    figure: Figure,
    axis: Axes,
    across: np.ndarray,
    values: Mapping[str, np.ndarray],
    styles: Mapping[str, tuple[Role, str]],
) -> None:
    """Each curve's name right of its last point, moved apart where two ends are near each other."""
    axis.get_xlim(), axis.get_ylim()  # they are found when they are asked for, and places in the figure depend on them
    last = int(across.argmin() if axis.xaxis_inverted() else across.argmax())
    scale = figure.dpi / PER_INCH  # pixels of the figure for one of the page
    ends = {name: axis.transData.transform((across[last], rows.mean(axis=0)[last])) for name, rows in values.items()}
    names = sorted((name for name in ends if name), key=lambda name: ends[name][1])
    heights = [ends[name][1] for name in names]
    for _ in range(100):
        for low in range(len(heights) - 1):
            missing = APART * scale - (heights[low + 1] - heights[low])
            if missing > 0:
                heights[low] -= missing / 2
                heights[low + 1] += missing / 2
    edge = axis.transAxes.transform((1, 0))[0]
    for name, height in zip(names, heights, strict=True):
        x, y = figure.transFigure.inverted().transform((max(edge, ends[name][0]) + 8 * scale, height))
        figure.text(x, y, name, color=styles[name][0].ink, va="center", ha="left", size=LABEL)
