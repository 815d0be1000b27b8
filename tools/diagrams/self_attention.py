"""Self-attention: one place of 256 asks, and lines as thick as its shares lead to the places that it looks at."""

import math

import numpy as np
import torch
from torch import Tensor

from helpers import surgery
from helpers.latents import channel_pictures, encode
from helpers.sampling import normal
from helpers.scenes import Scene, Thing
from helpers.scenes import draw as draw_scene
from helpers.schedules import add_noise
from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing

SCENE, PROMPT = Scene((Thing("fox"),), ground="snow", style="noto"), "a fox in the snow"
SEED, T, HEAD = 1, 100, 2
PLACES = {  # name -> (row, column) of 16 x 16; the first one asks, the others by their shares
    "ear": (2, 5),
    "beside it": (2, 4),
    "other ear": (2, 11),
    "left eye": (8, 6),
    "right eye": (8, 9),
    "forehead": (6, 7),
    "snow": (14, 2),
}
LEFT, TOP, SIDE = 28, 56, 432  # of the picture
CELL = SIDE / 16
KEYS, SCORE, SHARE, VALUES, STRIP = 566, 706, 718, 826, 104  # columns at the right
ROW, PITCH = 178, 50


def measure() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values (places, d), and shares (places, places), of one head of the last layer."""
    pipe = example.pocket()
    x0 = encode(pipe, draw_scene(SCENE))
    with torch.no_grad():
        words = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]
        x_t = add_noise(x0, normal(1, SEED, x0), T, pipe.scheduler.alphas_cumprod)
        layer = list(surgery.self_attention(pipe.unet).values())[-1]
        ((goes_in, _),) = surgery.passing(pipe.unet, [layer], x_t, T, words)
        q, k, v = (
            part(goes_in)[0].unflatten(-1, (layer.heads, -1))[:, HEAD] for part in (layer.to_q, layer.to_k, layer.to_v)
        )
    return q, k, v, (q @ k.T / math.sqrt(q.shape[1])).softmax(dim=1)


def draw() -> list[Drawing]:
    q, k, v, shares = measure()
    index = {name: row * 16 + column for name, (row, column) in PLACES.items()}
    asks, *others = PLACES
    mine = shares[index[asks]]
    said = {name: f"{mine[index[name]]:.0%}" for name in PLACES}
    eyes = float(mine[index["left eye"]] + mine[index["right eye"]])
    drawing = Drawing(
        "self_attention",
        536,
        f"The tip of an ear looks at the other ({said['other ear']}) and at both eyes ({eyes:.0%}): at what is dark",
        f"Left, a fox in the snow (“{PROMPT}”, t = {T}, seed {SEED}; last self-attention layer, head {HEAD + 1} of 4). "
        "From one of its 256 places, the tip of an ear, lines lead to the others, as thick as their shares: "
        + ", ".join(f"{name} {said[name]}" for name in others)
        + ". Right, how the shares arise: the place's query is multiplied with the key of every place, the products "
        "become shares that add up to 100 %, and with these shares the values are added up to the answer.",
    )
    _picture(drawing, mine, index[asks])
    note = f"“{PROMPT}”, $t$ = {T}; last self-attention layer, head {HEAD + 1} of 4"
    drawing.text(LEFT, TOP + SIDE + 22, note, size=kit.SMALL, colour=kit.SECOND)
    _table(drawing, q, k, v, mine, index)
    return [drawing]


def _middle(place: int) -> tuple[float, float]:
    return LEFT + (place % 16 + 0.5) * CELL, TOP + (place // 16 + 0.5) * CELL


def _picture(drawing: Drawing, mine: Tensor, asks: int) -> None:
    scene = draw_scene(SCENE).resize((SIDE * 2, SIDE * 2))
    grey = np.asarray(scene).astype(float)
    grey = 255 - 0.55 * (255 - (0.45 * grey + 0.55 * grey.mean(axis=2, keepdims=True)))
    drawing.text(LEFT, 38, "**One of 256 places asks**", size=kit.HEAD)
    drawing.picture(LEFT, TOP, SIDE, SIDE, grey.round().astype(np.uint8), smooth=True)
    x0, y0 = _middle(asks)
    for place in mine.argsort().tolist():
        share = float(mine[place])
        if place == asks or share < 0.004:
            continue
        x, y = _middle(place)
        bend = 0.16 * math.dist((x0, y0), (x, y))
        drawing.path(
            f"M{x0:.1f},{y0:.1f} Q{(x0 + x) / 2:.1f},{(y0 + y) / 2 - bend:.1f} {x:.1f},{y:.1f}",
            stroke=kit.XT,
            line=max(0.7, 44 * share),
            stroke_opacity=0.8,
            stroke_linecap="round",
        )
    for name, (row, column) in list(PLACES.items())[1:5]:
        place = row * 16 + column
        x, y = _middle(place)
        drawing.add("circle", cx=x, cy=y, r=5, fill=kit.WHITE, stroke=kit.XT, stroke_width=2)
        drawing.text(
            x + (-9 if name == "beside it" else 9),
            y - 9 if row < 5 else y + 22,
            f"{name} {mine[place]:.0%}",
            colour=kit.XT,
            bold=True,
            anchor="end" if name in ("left eye", "beside it") else "start",
            stroke=kit.WHITE,
            stroke_width=4,
            paint_order="stroke",
        )
    drawing.rect(x0 - CELL / 2, y0 - CELL / 2, CELL, CELL, stroke=kit.XT, line=3, radius=2)


def _table(drawing: Drawing, q: Tensor, k: Tensor, v: Tensor, mine: Tensor, index: dict[str, int]) -> None:
    asks, *others = index
    limit = float(max(q[index[asks]].abs().max(), k[list(index.values())].abs().max()))
    of_values = float(v[list(index.values())].abs().max())
    crop_x, strip_x = KEYS - 78, KEYS
    drawing.text(crop_x, 38, "**Query times key, then a mix of values**", size=kit.HEAD)
    _crop(drawing, crop_x, 56, index[asks])
    drawing.text(strip_x, 68, "$q$, what the ear asks for", colour=kit.XT)
    _strip(drawing, strip_x, 78, q[index[asks]], limit)
    for x, words, colour, anchor in (
        (KEYS, "keys $k$", kit.INK, "start"),
        (SCORE + 8, f"$q·k$ / {math.sqrt(q.shape[1]):g}", kit.INK, "end"),
        (SHARE + 18, "share", kit.XT, "start"),
        (VALUES, "values $v$", kit.INK, "start"),
    ):
        drawing.text(x, ROW - 24, words, colour=colour, anchor=anchor)
    scores = k @ q[index[asks]] / math.sqrt(q.shape[1])
    for number, name in enumerate(others):
        y, place = ROW + number * PITCH, index[name]
        _crop(drawing, crop_x, y - 14, place)
        drawing.text(KEYS, y - 4, name, size=kit.SMALL, colour=kit.SECOND)
        _strip(drawing, KEYS, y, k[place], limit)
        words = f"{scores[place]:.1f}".replace("-", "\N{MINUS SIGN}")
        drawing.text(SCORE + 8, y + 14, words, anchor="end")
        drawing.rect(SHARE + 4, y + 1, max(1.0, 130 * float(mine[place])), 16, fill=kit.XT, radius=2)
        share = f"{mine[place]:.0%}" if mine[place] >= 0.005 else "< 1%"
        drawing.text(SHARE + 10 + 130 * float(mine[place]), y + 14, share, colour=kit.XT, bold=True)
        _strip(drawing, VALUES, y, v[place], of_values)
    y = ROW + len(others) * PITCH - 4
    rest = 1 - float(mine[[index[name] for name in others]].sum())
    drawing.text(crop_x, y + 6, f"all other {len(mine) - len(others)} places", size=kit.SMALL, colour=kit.SECOND)
    drawing.text(crop_x, y + 23, "(itself too)", size=kit.SMALL, colour=kit.SECOND)
    drawing.rect(SHARE + 4, y - 7, 130 * rest, 16, fill=kit.LINE, radius=2)
    drawing.text(SHARE + 10 + 130 * rest, y + 6, f"{rest:.0%}", colour=kit.SECOND, bold=True)
    side = VALUES + STRIP + 12  # a bracket over all values
    drawing.line([(side - 5, ROW), (side, ROW), (side, y + 31)], kit.LINE, line=1.5, radius=3)
    drawing.arrow([(side, y + 20), (side, y + 31), (side - 8, y + 31)], kit.LINE, line=1.5, tip=7, radius=3)
    _strip(drawing, VALUES, y + 22, mine @ v, of_values)
    drawing.text(VALUES - 10, y + 36, "the answer: all values × shares", anchor="end")


def _crop(drawing: Drawing, x: float, y: float, place: int) -> None:
    """The place with beside its, 3 x 3 places."""
    row, column = (max(1, min(14, number)) for number in divmod(place, 16))
    box = ((column - 1) * 8, (row - 1) * 8, (column + 2) * 8, (row + 2) * 8)
    crop = draw_scene(SCENE).crop(box).resize((88, 88))
    drawing.picture(x, y, 44, 44, crop, smooth=True, frame=kit.LINE, line=1)
    side = 44 / 3
    inside = (x + (place % 16 - column + 1) * side, y + (place // 16 - row + 1) * side)
    drawing.rect(*inside, side, side, stroke=kit.WHITE, line=3, radius=1)
    drawing.rect(*inside, side, side, stroke=kit.XT, line=1.5, radius=1)


def _strip(drawing: Drawing, x: float, y: float, numbers: Tensor, limit: float) -> None:
    (pixels,), _ = channel_pictures(numbers[None, None], limit=limit)
    drawing.picture(x, y, STRIP, 18, pixels)
