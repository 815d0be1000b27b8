"""Why one look is an average: how likely each of many scenes is under a noisy latent, and the mean that follows."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from helpers.latents import decode, encode
from helpers.sampling import normal, predict
from helpers.sampling import predict_x0 as estimate
from helpers.scenes import STYLES, Scene, Thing, vary
from helpers.scenes import draw as draw_scene
from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing

SCENE = Scene((Thing("rocket"),), ground="space")
PROMPT = "a rocket in space"
COUNT, SHOWN, SEED, TRUE = 300, 15, 2, 5  # scenes; of them in the row; of scenes and noise; the one under the noise
EARLY, LATE = 999, 700
SMALL, TILE, ROW = 48, 128, 246  # the row of scenes and its top
PITCH = (kit.WIDTH - 2 * kit.MARGIN - SMALL) / SHOWN
ALL = 30  # px of all the weight together
LEAST = 0.005  # of the weight, for a band to be drawn
COLUMNS = (214, 416, 618)  # the left edges of x_t, the mean and the look


def draw() -> list[Drawing]:
    pipe = example.pocket()
    alpha_bar = pipe.scheduler.alphas_cumprod
    rng = np.random.default_rng(SEED)
    scenes = [vary(replace(SCENE, style=str(rng.choice(STYLES))), rng) for _ in range(COUNT)]
    truths = encode(pipe, [draw_scene(scene) for scene in scenes])
    with torch.no_grad():
        words = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]
    eps = normal(1, SEED, truths)
    fans = {}
    for t in (EARLY, LATE):
        a = float(alpha_bar[t])
        x_t = math.sqrt(a) * truths[TRUE : TRUE + 1] + math.sqrt(1 - a) * eps
        shares = weights(x_t, truths, a)
        mean = (shares[:, None, None, None] * truths).sum(dim=0, keepdim=True)
        look = estimate(x_t, predict(pipe, x_t, t, words), t, alpha_bar)
        fans[t] = x_t, shares, *decode(pipe, torch.cat([mean, look]))
    early, late = (fans[t][1] for t in (EARLY, LATE))
    row = [index for index in sorted(early.argsort(descending=True)[:SHOWN].tolist()) if index != TRUE]
    row.insert(SHOWN // 3, TRUE)
    rest = 1 - float(early[row].sum())

    drawing = Drawing(
        "why_average",
        2 * ROW + SMALL,
        f"At t = {EARLY} the likeliest of {COUNT} scenes has {early.max():.0%} and the mean is a blur; at t = {LATE} "
        f"it has {late.max():.0%}",
        f"A row of {SHOWN} scenes of “{PROMPT}”: the likeliest of {COUNT} (seed "
        f"{SEED}). One scene, framed, was hidden under noise. Above the row, at t = {EARLY}, a fan of lines leads from "
        f"the scenes to their mean; each is as wide as the scene is likely under the noisy latent, at most "
        f"{early.max():.0%}, and the other {COUNT - SHOWN} have {rest:.0%} together. The mean with these shares is a "
        f"blur, and so is the network's own look. Below, at t = {LATE}, all the width is one line, {late.max():.0%} "
        "for the scene that is really there: the mean is that rocket, and the network's look a softer one.",
    )
    for t, down in ((EARLY, False), (LATE, True)):
        _fan(drawing, t, fans[t][0], fans[t][1][row], *fans[t][2:], down)
    drawing.rect(_left(SHOWN), ROW, SMALL, SMALL, fill=kit.PANEL, stroke=kit.LINE, radius=3)
    for line, words in enumerate((f"{COUNT - SHOWN}", "more")):
        drawing.text(
            _left(SHOWN) + SMALL / 2, ROW + 21 + 16 * line, words, size=kit.SMALL, colour=kit.SECOND, anchor="middle"
        )
    for place, index in enumerate(row):
        picture = draw_scene(scenes[index]).resize((2 * SMALL, 2 * SMALL))
        frame = kit.X0 if index == TRUE else kit.HAIRLINE
        drawing.picture(_left(place), ROW, SMALL, SMALL, picture, smooth=True, frame=frame)
    return [drawing]


def weights(x_t: Tensor, truths: Tensor, a: float) -> Tensor:
    """How likely each of the truths (n, ...) is to lie under x_t, before which all were equally likely: (n,)."""
    squares = (x_t - math.sqrt(a) * truths).flatten(1).square().sum(dim=1)
    return torch.softmax(-squares / (2 * (1 - a)), dim=0)


def _left(index: int) -> float:
    return kit.MARGIN + index * PITCH


def _fan(drawing: Drawing, t: int, x_t: Tensor, shares: Tensor, mean, look, down: bool) -> None:
    """Bands from the scenes to the mean, as wide as their shares; beside it the noisy latent and the network's look."""
    top = ROW + SMALL + ROW - 28 - TILE - 22 if down else 50
    edge = top - 8 if down else top + TILE + 8  # of the tiles, towards the scenes
    near = ROW + SMALL + 2 if down else ROW - 2
    every = [*shares.tolist(), 1 - float(shares.sum())]
    ends = np.cumsum([COLUMNS[1] + (TILE - ALL) / 2, *(ALL * share for share in every)])  # side by side
    for index in sorted(range(len(every)), key=lambda index: -every[index]):  # the thin ones over the wide
        share, to = every[index], float(ends[index] + ends[index + 1]) / 2
        if share >= LEAST:
            data = _way((_left(index) + SMALL / 2, near), (to, edge), round_corners=share > 0.5)
            colour = kit.X0 if index < SHOWN else kit.LINE
            drawing.path(data, stroke=colour, line=max(0.6, ALL * share), stroke_opacity=0.75)
    likeliest = int(shares.argmax())
    if down:
        place = _left(likeliest) + SMALL / 2 - 68
        drawing.text(place, near + 21, "the one under the noise", size=kit.SMALL, colour=kit.X0, anchor="end")
    y = near + 21 if down else near - 9
    for index in {likeliest, SHOWN} if not down else {likeliest}:
        left = down or index == SHOWN  # of a wide band
        drawing.text(
            _left(index) + SMALL / 2 + (-20 if left else 8),
            y,
            f"{every[index]:.0%}",
            colour=kit.X0 if index < SHOWN else kit.SECOND,
            anchor="end" if left else "start",
            bold=True,
            stroke=kit.CARD,
            stroke_width=5,
            paint_order="stroke",
        )
    heads = (f"$x_{{{t}}}$", "mean, by likelihood", "the network’s look")
    head = top + TILE + 20 if down else top - 12
    for left, words, colour in zip(COLUMNS, heads, (kit.XT, kit.X0, kit.X0), strict=True):
        size = 19 if words.startswith("$") else kit.LABEL
        drawing.text(left + TILE / 2, head, words, size=size, colour=colour, anchor="middle")
    drawing.picture(COLUMNS[0], top, TILE, TILE, example.as_colours(x_t), frame=kit.XT)
    drawing.picture(COLUMNS[1], top, TILE, TILE, mean, smooth=True, frame=kit.X0)
    drawing.picture(COLUMNS[2], top, TILE, TILE, look, smooth=True, frame=kit.X0)
    early = f"of {COUNT} scenes drawn,", "many could lie there"
    late = f"one of the {COUNT} fits;", "the network’s", "look is softer"
    drawing.lines(kit.MARGIN, top + 52, (f"$t$ = {t}:", *(late if down else early)), colour=kit.INK, leading=20)


def _way(start: kit.Point, end: kit.Point, *, round_corners: bool) -> str:
    """Path data from a scene to the mean, upright at both ends.

    round_corners: for a wide band, whose inner edge a smooth curve would fold over itself.
    """
    (x, y), (to, low) = start, end
    bend = (y + low) / 2
    if round_corners:
        return kit.route([start, (x, bend), (to, bend), end], abs(low - y) / 2)
    return f"M{x:.1f},{y} C{x:.1f},{bend} {to:.1f},{bend} {to:.1f},{low}"
