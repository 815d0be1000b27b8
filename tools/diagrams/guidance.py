"""Guidance as geometry: the U-Net's two answers to scale, in the plane they span, and what each s makes of them."""

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from helpers import latents, sampling
from helpers.loading import load_pipeline
from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing, Point

PROMPT, SEED, STEPS, T = "a mushroom", 0, 20, 851
SCALES = (0, 1, 4, 12)
DEFAULT = 4  # the scale of the run that the step is taken from
ENLARGED = 10  # how much stronger the difference is drawn than the answers

COLOURS = {0: kit.SECOND, 1: kit.WORDS}  # by scale; the others are guided
ORIGIN, UNIT = (48.0, 494.0), 420.0  # where the arrows start, and how long the answer without words is drawn
TILE, TOP, PITCH = 128, 52, 152  # the column of pictures
SMALL_TILE, STRIP = 96, 556  # the row of latents


@dataclass
class Answers:
    """One step, measured. Lengths are norms over all numbers of the latent, angles are degrees from `empty`."""

    x_t: Tensor  # (4, h, w), as the next two: what was asked about
    empty: Tensor
    words: Tensor
    angles: dict[int, float]
    push: dict[int, float]  # s times the step from one answer to the other, in lengths of `empty`
    estimates: dict[int, Image.Image]  # the clean picture that each guided answer implies
    finished: dict[int, Image.Image]


def measure() -> Answers:
    """Both answers at one step of a run, and for each scale the step's estimate and the end of a run of its own."""
    pipe = load_pipeline("pocket", device="cpu")
    alpha_bar = pipe.scheduler.alphas_cumprod
    options = {"seed": SEED, "steps": STEPS}
    step = next(one for one in sampling.denoise(pipe, PROMPT, guidance=DEFAULT, **options) if one.t == T)
    empty, words = step.noise_uncond, step.noise_text
    guided = {s: sampling.guide(empty, words, s) for s in SCALES}
    x0 = {s: sampling.predict_x0(step.latents, noise, T, alpha_bar) for s, noise in guided.items()}
    ends = {s: sampling.run(pipe, PROMPT, guidance=s, **options).latents for s in SCALES}
    return Answers(
        x_t=step.latents[0],
        empty=empty[0],
        words=words[0],
        angles={s: angle(empty, noise) for s, noise in guided.items()},
        push={s: float(s * (words - empty).norm() / empty.norm()) for s in SCALES},
        estimates={s: latents.decode(pipe, one)[0] for s, one in x0.items()},
        finished={s: latents.decode(pipe, one)[0] for s, one in ends.items()},
    )


def angle(a: Tensor, b: Tensor) -> float:
    """Degrees between two tensors of one shape, taken as arrows."""
    a, b = a.flatten().double(), b.flatten().double()
    return math.degrees(torch.arccos(((a @ b) / (a.norm() * b.norm())).clamp(-1, 1)).item())


def tips(answers: Answers) -> dict[float, Point]:
    """Where the arrow of each whole s ends, in the plane of both answers; `empty` points to the right."""
    length = float(answers.words.norm() / answers.empty.norm())
    turn = math.radians(answers.angles[1])
    step = (length * math.cos(turn) - 1, length * math.sin(turn))
    return {s: (ORIGIN[0] + UNIT * (1 + s * step[0]), ORIGIN[1] - UNIT * s * step[1]) for s in range(max(SCALES) + 1)}


def draw() -> list[Drawing]:
    answers = measure()
    degrees = {s: f"{value:.1f}°" if value < 10 else f"{value:.0f}°" for s, value in answers.angles.items()}
    weak, strong = SCALES[2:]
    lengths = [float(one.norm()) for one in (answers.empty, answers.words)]
    drawing = Drawing(
        "guidance",
        731,
        f"The words turn the answer by {degrees[1]}; guidance walks on, to {degrees[weak]} and {degrees[strong]}",
        f"To scale, two arrows from one point: the noise that the U-Net predicts at t = {T} without words, and with "
        f"“{PROMPT}” (seed {SEED}). They are {lengths[0]:.1f} and {lengths[1]:.1f} long and {degrees[1]} apart. A "
        f"ruler repeats the step from the first tip to the second: after {weak} steps the answer has turned by "
        f"{degrees[weak]}, after {strong} by {degrees[strong]}, and there the push is {answers.push[strong]:.2f} times "
        "as long as the answer. Below, the first channels of both answers look alike; their difference is drawn "
        f"{ENLARGED} times as strong. At the right, for s = {', '.join(map(str, SCALES))}, the picture that the step "
        "implies and that of a whole run.",
    )
    _formula(drawing, degrees, lengths, answers.push[strong], strong)
    _arrows(drawing, tips(answers), degrees)
    _pictures(drawing, tips(answers), answers, degrees)
    _latents(drawing, answers, lengths)
    return [drawing]


def _formula(drawing: Drawing, degrees: dict[int, str], lengths: list[float], push: float, strong: int) -> None:
    words, empty = ("$ε_{words}$", kit.WORDS), ("$ε_{empty}$", kit.SECOND)
    formula = (
        ("$ε̂$", kit.GUIDANCE),
        (" = ", kit.INK),
        empty,
        (" + ", kit.INK),
        ("$s$", kit.GUIDANCE),
        (" (", kit.INK),
        words,
        (" − ", kit.INK),
        empty,
        (")", kit.INK),
    )
    drawing.formula(28, 62, formula, font_size=26)
    lines = (
        f"One noisy latent, two questions: answers {lengths[0]:.1f} and {lengths[1]:.1f} long.",
        f"The words turn the answer by only {degrees[1]}. Guidance walks on",
        f"that way: at $s$ = {strong} the push is {push:.2f} times the answer’s length.",
    )
    drawing.lines(28, 98, lines, colour=kit.SECOND, leading=20)


def _arrows(drawing: Drawing, tip: dict[float, Point], degrees: dict[int, str]) -> None:
    last = max(SCALES)
    (x0, y0), (x1, y1) = tip[0], tip[last]
    across = ((y0 - y1) / math.dist(tip[0], tip[last]), (x1 - x0) / math.dist(tip[0], tip[last]))
    drawing.line([tip[0], tip[last]], kit.GUIDANCE, line=1.5, dash="2 3.5")
    for s, (x, y) in tip.items():
        reach = 9 if s in SCALES else 5
        ends = [
            (x + sign * reach * across[0], y + sign * reach * across[1])
            for sign in ((0, 1) if s in SCALES else (-1, 1))
        ]
        drawing.line(ends, kit.GUIDANCE, line=1.5 if s in SCALES else 1)
    for s, radius in ((SCALES[2], 350), (last, 120)):
        turn = math.atan2(y0 - tip[s][1], tip[s][0] - ORIGIN[0])
        end = (ORIGIN[0] + radius * math.cos(turn), ORIGIN[1] - radius * math.sin(turn))
        drawing.path(
            f"M{ORIGIN[0] + radius},{ORIGIN[1]} A{radius},{radius} 0 0 0 {end[0]:.1f},{end[1]:.1f}",
            stroke=kit.GUIDANCE,
            line=1.25,
        )
        middle = 0.62 * turn
        at = (ORIGIN[0] + (radius + 7) * math.cos(middle), ORIGIN[1] - (radius + 7) * math.sin(middle))
        drawing.text(*at, degrees[s], colour=kit.GUIDANCE)
    drawing.arrow([ORIGIN, tip[last]], kit.GUIDANCE, line=3, tip=13)
    drawing.arrow([ORIGIN, tip[0]], kit.LINE, line=3, tip=13)
    drawing.arrow([ORIGIN, tip[1]], kit.WORDS, line=3, tip=13)
    drawing.arrow([ORIGIN, tip[SCALES[2]]], kit.GUIDANCE, line=3, tip=13)
    drawing.add("circle", cx=ORIGIN[0], cy=ORIGIN[1], r=5, fill=kit.INK)
    drawing.text(ORIGIN[0] + 0.55 * UNIT, y0 + 18, "without words, $ε_{empty}$", colour=kit.SECOND, anchor="middle")
    turn = math.degrees(math.atan2(y0 - tip[1][1], tip[1][0] - ORIGIN[0]))
    x, y = ORIGIN[0] + 0.55 * UNIT, ORIGIN[1] - 0.55 * UNIT * math.tan(math.radians(turn)) - 8
    drawing.text(
        0,
        0,
        f"with “{PROMPT}”, $ε_{{words}}$",
        colour=kit.WORDS,
        anchor="middle",
        transform=f"translate({x:.1f} {y:.1f}) rotate({-turn:.1f})",
    )
    x, y = (tip[8][0] + tip[9][0]) / 2 - 14, (tip[8][1] + tip[9][1]) / 2
    drawing.text(x, y + 20, "$s$ gaps,", colour=kit.GUIDANCE, anchor="end")
    drawing.text(x, y + 40, "each $ε_{words}$ − $ε_{empty}$", colour=kit.GUIDANCE, anchor="end")


def _pictures(drawing: Drawing, tip: dict[float, Point], answers: Answers, degrees: dict[int, str]) -> None:
    columns = (kit.WIDTH - kit.MARGIN - 2 * TILE - 8, kit.WIDTH - kit.MARGIN - TILE)
    for x, head in zip(columns, ("$x̂_0$ at this step", "after the run"), strict=True):
        drawing.text(x + TILE / 2, 40, head, size=kit.HEAD, bold=True, anchor="middle")
    for row, s in enumerate(reversed(SCALES)):
        y, colour = TOP + row * PITCH, COLOURS.get(s, kit.GUIDANCE)
        middle = y + TILE / 2
        drawing.line([(tip[s][0] + 13, tip[s][1]), (556, middle - 6)], kit.HAIRLINE, line=1.25)
        drawing.text(564, middle, f"$s$ = {s}", size=kit.HEAD, bold=True, colour=colour)
        note = "without words" if s == 0 else f"turned {degrees[s]}"
        drawing.text(564, middle + 19, note, size=kit.SMALL, colour=kit.SECOND)
        for x, picture in zip(columns, (answers.estimates[s], answers.finished[s]), strict=True):
            drawing.picture(x, y, TILE, TILE, picture, smooth=True)


def _latents(drawing: Drawing, answers: Answers, lengths: list[float]) -> None:
    """What is asked about, as colours, and one channel of the answers and their difference."""
    tiles = [answers.empty, answers.words, ENLARGED * (answers.words - answers.empty)]
    limit = max(float(one[0].abs().max()) for one in tiles[:2])
    faces = [latents.channel_pictures(one, limit=limit)[0][0] for one in tiles]
    faces.insert(0, example.as_colours(answers.x_t[None]))
    places = (28, 212, 324, 436)
    frames = (kit.XT, kit.LINE, kit.WORDS, kit.GUIDANCE)
    labels = (f"$x_t$, $t$ = {T}", "$ε_{empty}$", "$ε_{words}$", f"difference × {ENLARGED}")
    y = STRIP
    for x, face, frame, label in zip(places, faces, frames, labels, strict=True):
        drawing.picture(x, y, SMALL_TILE, SMALL_TILE, face, frame=frame)
        drawing.text(
            x + SMALL_TILE / 2,
            y + SMALL_TILE + 19,
            label,
            anchor="middle",
            colour=kit.SECOND if frame == kit.LINE else frame,
        )
    notes = (
        "$x_t$: the latent as colours. The U-Net is asked about it twice: one of the four",
        "channels of both answers, and their difference, red above zero and blue below",
    )
    drawing.lines(28, 700, notes, size=kit.SMALL, colour=kit.SECOND, leading=17)
    middle = y + SMALL_TILE / 2
    _small_unet(drawing, 148, middle)
    drawing.arrow([(128, middle), (142, middle)], kit.XT)
    drawing.arrow([(194, middle), (208, middle)], kit.LINE)


def _small_unet(drawing: Drawing, x: float, middle: float) -> None:
    for number, (high, colour) in enumerate(
        zip((44, 30, 18, 12, 18, 30, 44), [kit.DOWN] * 3 + [kit.MIDDLE] + [kit.UP] * 3, strict=True)
    ):
        drawing.rect(x + 6 * number, middle - high / 2, 4.5, high, fill=colour, radius=1.2)
