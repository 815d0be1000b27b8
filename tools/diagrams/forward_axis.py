"""The forward axis from a clean picture to noise, over curves of how much there is of each."""

import numpy as np
import torch

from helpers.scenes import Scene, Thing
from helpers.scenes import draw as draw_scene
from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing, Point

SCENE = Scene((Thing("fox"),), ground="blue")
SEED = 0
TILE = 128
LEFT, RIGHT, TOP, FOOT = 92, 900, 312, 492  # of the curves
AXIS = 258
CLEAN = 38  # before the axis: the picture without noise


def draw() -> list[Drawing]:
    alpha_bar = example.pocket().scheduler.alphas_cumprod.double()
    signal, noise = alpha_bar.sqrt().tolist(), (1 - alpha_bar).sqrt().tolist()
    crossing = crossing_t(alpha_bar)
    last = len(signal) - 1
    drawing = Drawing(
        "forward_axis",
        552,
        f"From a picture to noise: both have the same factor at t = {crossing}, about a third of the way",
        f"A fox on blue (a scene of {TILE} pixels, halved) and the same fox under more and more of one and the same "
        f"noise (seed {SEED}), up to t = {last}. Below each picture stand its shares: x_t is the square root of "
        "alpha_bar times the picture plus the square root of 1 - alpha_bar times the noise. A line leads from each "
        "noisy picture to its place on the axis of t; the clean one stands before it, for at t = 0 there is already a "
        "little noise. Curves below show both shares, bars those of the pictures: the signal falls from "
        f"{signal[0]:.4f} "
        f"to {signal[-1]:.3f}, the noise rises from {noise[0]:.2f} to {noise[-1]:.3f}, and they cross at t = "
        f"{crossing}, "
        "where the signal-to-noise ratio of a picture of variance 1 is 1.",
    )
    shown = [50, 150, crossing, 600, last]
    _tiles(drawing, [None, *shown], signal, noise, crossing)
    _shares(drawing, shown, signal, noise, crossing)
    return [drawing]


def crossing_t(alpha_bar: torch.Tensor) -> int:
    """The timestep whose signal-to-noise ratio, alpha_bar / (1 - alpha_bar), is nearest to 1."""
    return int((alpha_bar - 0.5).abs().argmin())


def _at(t: float | None, last: int) -> float:
    if t is None:
        return CLEAN
    return LEFT + (RIGHT - LEFT) * t / last


def _tiles(drawing: Drawing, shown: list[int | None], signal: list[float], noise: list[float], crossing: int) -> None:
    """The scene, clean (None) and noisy, each with its shares and a line down to its place on the axis."""
    last = len(signal) - 1
    clean = np.asarray(draw_scene(SCENE).reduce(2)) / 127.5 - 1  # halved: noise of full size cannot be compressed
    eps = np.random.default_rng(SEED).standard_normal(clean.shape)
    for t in shown:
        x = 28 + shown.index(t) * (904 - TILE) / (len(shown) - 1)
        middle, place = x + TILE / 2, _at(t, last)
        of_signal, of_noise = (1.0, 0.0) if t is None else (signal[t], noise[t])
        colour = kit.X0 if t is None else kit.XT
        picture = np.clip((of_signal * clean + of_noise * eps + 1) * 127.5, 0, 255).round().astype(np.uint8)
        drawing.text(middle, 46, "$x_0$" if t is None else f"$x_{{{t}}}$", size=19, colour=colour, anchor="middle")
        drawing.picture(x, 58, TILE, TILE, picture, frame=colour, line=3 if t == crossing else 2)
        drawing.text(middle - 3, 207, f"{of_signal:.2f} $x_0$", colour=kit.X0, anchor="end")
        drawing.text(middle + 3, 207, f"+ {of_noise:.2f} $ε$", colour=kit.EPS)
        way = [(middle, 215), (middle, 221), (place, 241), (place, AXIS)]
        marked = t == crossing
        drawing.line(way, kit.XT if marked else kit.LINE, line=2 if marked else 1.25, radius=3)
    middle, ends = (_at(crossing, last), AXIS), ((LEFT, AXIS), (RIGHT, AXIS))
    drawing.line([(CLEAN, AXIS), ends[0]], kit.X0, dash="2 4")
    drawing.text(CLEAN - 6, AXIS + 25, "clean, before $t$ = 0", size=kit.SMALL, colour=kit.X0)
    drawing.ribbon([ends[0], middle], kit.X0, kit.XT)
    drawing.ribbon([middle, ends[1]], kit.XT, kit.EPS)
    drawing.dots(ends, kit.WHITE)
    for t in shown:
        colour = kit.X0 if t is None else kit.XT
        drawing.add("circle", cx=_at(t, last), cy=AXIS, r=6, fill=kit.WHITE, stroke=colour, stroke_width=2)


def _shares(drawing: Drawing, shown: list[int], signal: list[float], noise: list[float], crossing: int) -> None:
    """Both shares as curves, with a pair of bars for each noisy picture, and the point where the curves cross."""
    last = len(signal) - 1

    def point(t: float, value: float) -> Point:
        return _at(t, last), FOOT - (FOOT - TOP) * value

    for value in (0, 0.5, 1):
        y = point(0, value)[1]
        drawing.line([(LEFT - 20, y), (LEFT - 15, y)], kit.LINE, line=1)
        drawing.text(LEFT - 23, y + 4.5, f"{value:g}", size=kit.SMALL, colour=kit.SECOND, anchor="end")
    drawing.line([(LEFT - 15, TOP), (LEFT - 15, FOOT + 0.5), (RIGHT + 15, FOOT + 0.5)], kit.LINE, line=1, radius=0)
    for t in [*range(0, last, 200), last]:
        words = f"{t}" if t else "$t$ = 0"
        drawing.text(_at(t, last), FOOT + 18, words, size=kit.SMALL, colour=kit.SECOND, anchor="middle")
    for t in shown:
        for offset, value, colour in ((-12.5, signal[t], kit.X0), (0.5, noise[t], kit.EPS)):
            x, y = point(t, value)
            drawing.add("rect", x=x + offset, y=y, width=12, height=FOOT - y, fill=colour, fill_opacity=0.3)
    for values, colour, dash in ((signal, kit.X0, None), (noise, kit.EPS, "1 4")):
        way = [point(t, values[t]) for t in [*range(0, last, 10), last]]
        drawing.line(way, colour, line=2.25, dash=dash, radius=0)
    drawing.text(LEFT - 8, TOP - 12, "**signal** $√ᾱ_t$", colour=kit.X0)
    drawing.text(RIGHT + 8, TOP - 12, "**noise** $√(1 − ᾱ_t)$", colour=kit.EPS, anchor="end")

    x, y = point(0, noise[0])
    drawing.add("circle", cx=x, cy=y, r=3.5, fill=kit.EPS)
    drawing.text(LEFT - 23, y - 7, f"{noise[0]:.2f}", size=kit.SMALL, colour=kit.EPS, anchor="end")
    x, y = point(crossing, signal[crossing])
    drawing.line([(x, AXIS + 10), (x, FOOT + 24)], kit.XT, line=1)
    drawing.add("circle", cx=x, cy=y, r=7, fill=kit.WHITE, stroke=kit.XT, stroke_width=2)
    drawing.text(x, FOOT + 37, f"SNR = 1, $t$ = {crossing}", colour=kit.XT, anchor="middle", bold=True)
    words = "for a picture of variance 1: equal factors"
    drawing.text(x + 76, FOOT + 37, words, size=kit.SMALL, colour=kit.SECOND)
