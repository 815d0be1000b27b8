"""Cross-attention: one place of the latent asks, the words answer, and their shares decide what is mixed for it."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from helpers import attention, latents, sampling
from helpers.loading import load_pipeline
from tools.diagrams import kit
from tools.diagrams.kit import Drawing

PROMPT, WORD, SEED, STEPS, T = "a fox left of a pizza on a white background", "fox", 0, 20, 501
GREYED = 0.35  # how much of the picture is left under a map

TILE, TILE_TOP = 176, 200  # eleven pixels for each of 16 places
ASKS, QUERY, KEYS, CHIPS, VALUES, MIXED, MAP = 28, 222, 336, 406, 542, 668, 704  # where the columns begin
CHIP, STRIP, BAR = 90, 64, 192  # px: of a chip, and of the numbers of a key or value and of a query
ROWS, PITCH, ROW = 92, 33, 22  # the words, one below the other; the ends of the text stand together below them
ALL = 48  # px of all shares together
RETURN = 524  # the height of the way back


@dataclass
class Look:
    """One place of one layer at one step; shares are the mean of the heads and add up to 1."""

    layer: str
    heads: int
    x_t: Tensor  # (4, h, w)
    place: tuple[int, int]  # row and column of the place that asks
    words: list[str]  # start, the prompt's, end
    ends: int  # how many ends fill the text
    shares: Tensor  # (tokens,)
    query: Tensor  # (channels,), of the place
    keys: Tensor  # (tokens, channels)
    values: Tensor  # (tokens, channels)
    mixed: Tensor  # (channels,)
    map: Tensor  # (h, w), the share of WORD at every place
    picture: Image.Image


@torch.no_grad()
def measure() -> Look:
    """The layer at full size and the place in it where WORD gets its largest share, in a run with guidance."""
    pipe = load_pipeline("pocket", device="cpu")
    inputs = {}  # of each layer at the step, as the hooks below see them
    with attention.capture(pipe, keep_heads=True) as record:
        steps = sampling.run(pipe, PROMPT, seed=SEED, steps=STEPS)
    step = next(one for one in steps.steps if one.t == T)
    token, largest = attention.find_word(pipe.tokenizer, PROMPT, WORD), max(record.layers.values())
    maps = {
        name: record.maps(layer=name, step=step.index, token=token)
        for name, size in record.layers.items()
        if size == largest
    }
    layer = max(maps, key=lambda name: maps[name].max())
    row, column = divmod(int(maps[layer].argmax()), largest[1])

    module = pipe.unet.get_submodule(layer)
    keep = module.register_forward_pre_hook(
        lambda _, args, kwargs: inputs.update(x=args[0], **kwargs), with_kwargs=True
    )
    text, _ = pipe.encode_prompt(PROMPT, pipe.device, 1, False)
    pipe.unet(step.latents, T, encoder_hidden_states=text)
    keep.remove()
    by_head = attention.probabilities(module, inputs["x"], text)[0, :, row * largest[1] + column]  # (heads, tokens)
    values = module.to_v(text)[0]  # (tokens, channels)
    mixed = torch.einsum("ht,thd->hd", by_head, values.unflatten(-1, (module.heads, -1)))
    ids = pipe.tokenizer(PROMPT).input_ids
    return Look(
        layer=layer,
        heads=module.heads,
        x_t=step.latents[0],
        place=(row, column),
        words=[
            "start",
            *(word for word, tokens in attention.word_tokens(pipe.tokenizer, PROMPT) for _ in tokens),
            "end",
        ],
        ends=text.shape[1] - len(ids) + 1,
        shares=by_head.mean(dim=0),
        query=module.to_q(inputs["x"])[0, row * largest[1] + column],
        keys=module.to_k(text)[0],
        values=values,
        mixed=mixed.flatten(),
        map=maps[layer],
        picture=latents.decode(pipe, steps.latents)[0],
    )


def draw() -> list[Drawing]:
    look = measure()
    best = look.words.index(WORD)
    share, ends = float(look.shares[best]), float(look.shares[len(look.words) - 1 :].sum())
    if share < look.shares.max():
        raise ValueError(
            f"{WORD!r} gets {share:.0%} and another token more: choose a place, step or seed that says more"
        )
    drawing = Drawing(
        "cross_attention",
        572,
        f"This place on the {WORD} gives “{WORD}” {share:.0%} of its attention, more than any other token",
        f"Left, the noisy latent at t = {T} (seed {SEED}); the place in row {look.place[0] + 1}, column "
        f"{look.place[1] + 1} asks with a query of {len(look.query)} numbers. Middle, the tokens of “{PROMPT}”, each "
        "with a key, a share and a value; bands as thick as the shares run from the query to the keys and from the "
        f"values to the mixture, which returns to the place. The {look.ends} ends of the text share {ends:.0%}. Right, "
        f"the share of “{WORD}” at all places, green over the greyed picture, at most {float(look.map.max()):.0%}; "
        f"{attention.mass_share(look.map, 'left'):.0%} of it lies in the left half. Below, the picture after the run. "
        f"Layer {look.layer}, mean of its {look.heads} heads.",
    )
    _heads(drawing)
    _place(drawing, look)
    _words(drawing, look)
    _map(drawing, look)
    drawing.text(
        kit.MARGIN,
        555,
        f"Layer {look.layer.split('.transformer')[0]}, mean of its {look.heads} heads, seed {SEED}.",
        size=kit.SMALL,
        colour=kit.SECOND,
    )
    return [drawing]


def _heads(drawing: Drawing) -> None:
    for number, (x, head) in enumerate(
        ((ASKS, "A place asks"), (KEYS, "Words answer"), (VALUES + 14, "Shares mix"), (MAP, "All places")), start=1
    ):
        drawing.station(x + 11, 40, number, head)


def _place(drawing: Drawing, look: Look) -> None:
    """The latent, the place that asks, its query, and the mixture's way back to it."""
    face = latents.channel_pictures(look.x_t)[0][0]
    side, middle = TILE / face.shape[1], TILE_TOP + TILE / 2
    row, column = look.place
    x, y = ASKS + column * side, TILE_TOP + row * side
    drawing.text(ASKS, TILE_TOP - 30, f"$x_t$, t = {T}", colour=kit.XT)
    drawing.text(ASKS, TILE_TOP - 12, f"{face.shape[0]} × {face.shape[1]} places", size=kit.SMALL, colour=kit.SECOND)
    back = [
        (MIXED + 6, middle + BAR / 2 + 22),
        (MIXED + 6, RETURN),
        (x + side / 2, RETURN),
        (x + side / 2, TILE_TOP + TILE + 6),
    ]
    drawing.arrow(back, kit.LINE)
    drawing.dots(back, kit.SECOND, size=3)
    drawing.picture(ASKS, TILE_TOP, TILE, TILE, face, frame=kit.XT)
    drawing.line([(x + side, y + side / 2), (ASKS + TILE, y + side / 2)], kit.WHITE, line=5)
    drawing.arrow([(x + side, y + side / 2), (QUERY - 4, y + side / 2)], kit.INK)
    _mark(drawing, x, y, side)
    _bar(drawing, QUERY, middle, look.query, "$q$")
    _bar(drawing, MIXED, middle, look.mixed, "mix")
    drawing.lines(
        x + side / 2 + 14,
        TILE_TOP + TILE + 50,
        ("share$_i$ = softmax($q$·$k_i$ / √$d$)", "mix = Σ share$_i$ $v_i$"),
        colour=kit.WORDS,
        leading=22,
    )
    drawing.text(
        (x + MIXED) / 2,
        RETURN - 9,
        "through one more matrix, added to what the place holds",
        size=kit.SMALL,
        colour=kit.SECOND,
        anchor="middle",
    )


def _words(drawing: Drawing, look: Look) -> None:
    """The tokens with keys, shares and values, and the bands between them, the query and the mixture."""
    for x, head in ((KEYS + STRIP / 2, "$k$"), (VALUES + STRIP / 2, "$v$")):
        drawing.text(x, ROWS - 12, head, size=17, colour=kit.WORDS, anchor="middle")
    drawing.text(VALUES - 8, ROWS - 12, "share", size=kit.SMALL, colour=kit.SECOND, anchor="end")
    count = len(look.words) - 1  # all but the ends
    at = TILE_TOP + TILE / 2 - ALL / 2
    centres = [ROWS + PITCH * n + ROW / 2 for n in range(count)]
    ends = [ROWS + PITCH * count + 2 * n + 1 for n in range(look.ends)]
    for token, (y, share) in enumerate(zip(centres + ends, look.shares.tolist(), strict=True)):
        width = ALL * share
        colour = kit.WORDS if look.words[min(token, count)] not in ("start", "end") else kit.LINE
        for left, right in (
            ((QUERY + 14, at + width / 2), (KEYS - 3, y)),
            ((VALUES + STRIP + 3, y), (MIXED - 2, at + width / 2)),
        ):
            drawing.path(
                _band(left, right),
                stroke=colour,
                line=max(width, 0.4),
                stroke_opacity=None if token == look.words.index(WORD) else 0.75,
            )
        at += width
    for token, word in enumerate(look.words):
        last = token == count
        y, height = (ROWS + PITCH * token, ROW if not last else 2 * look.ends)
        rows = slice(token, token + (look.ends if last else 1))
        special = word in ("start", "end")
        share = float(look.shares[rows].sum())
        for x, numbers in ((KEYS, look.keys), (VALUES, look.values)):
            drawing.picture(x, y, STRIP, height, _colours(numbers[rows], float(numbers.abs().max())))
        drawing.chip(
            CHIPS,
            y + height / 2 - ROW / 2,
            f"end × {look.ends}" if last else word,
            width=CHIP,
            height=ROW,
            colour=kit.SECOND if special else kit.WORDS,
            fill=kit.WHITE if special else kit.WORDS_TINT,
        )
        best = word == WORD
        drawing.text(
            VALUES - 8,
            y + height / 2 + 4.5,
            f"{share:.0%}" if share >= 0.005 else "0%",
            size=kit.LABEL if best else kit.SMALL,
            bold=best,
            colour=kit.WORDS if best else kit.SECOND,
            anchor="end",
        )


def _map(drawing: Drawing, look: Look) -> None:
    """WORD's share at all places over the greyed picture, and the picture itself."""
    top, largest = ROWS - 4, float(look.map.max())
    grey = np.asarray(look.picture.convert("L"), dtype=float)
    greyed = np.repeat((255 - GREYED * (255 - grey)).round().astype(np.uint8)[..., None], 3, axis=2)
    drawing.picture(MAP, top, TILE, TILE, greyed, smooth=True)
    side = TILE / look.map.shape[1]
    for (row, column), share in np.ndenumerate(look.map.numpy()):
        if share / largest > 0.01:
            drawing.add(
                "rect",
                x=MAP + column * side,
                y=top + row * side,
                width=side,
                height=side,
                fill=kit.WORDS,
                fill_opacity=float(share / largest),
            )
    _mark(drawing, MAP + look.place[1] * side, top + look.place[0] * side, side)
    _scale(drawing, MAP + TILE + 8, top, largest)
    drawing.text(MAP, top + TILE + 18, f"share of “{WORD}” at {look.map.numel()} places", colour=kit.WORDS)
    drawing.picture(MAP, top + TILE + 36, TILE, TILE, look.picture, smooth=True)
    drawing.text(MAP, top + 2 * TILE + 54, "after the run", colour=kit.SECOND)


def _scale(drawing: Drawing, x: float, top: float, largest: float) -> None:
    """The bar of the map's colours, with three ticks."""
    stops = "".join(kit.element("stop", offset=n, stop_color=kit.WORDS, stop_opacity=1 - n) for n in (0, 1))
    key = f"{drawing.name}-scale"
    drawing.add("linearGradient", stops, id=key, x1=0, y1=0, x2=0, y2=1)
    drawing.rect(x, top, 9, TILE, fill=f"url(#{key})", stroke=kit.HAIRLINE, radius=0)
    for share in (1, 0.5, 0):
        y = top + TILE * (1 - share)
        drawing.text(
            x + 13, min(max(y + 4.5, top + 10), top + TILE), f"{largest * share:.0%}", size=kit.SMALL, colour=kit.SECOND
        )


def _mark(drawing: Drawing, x: float, y: float, side: float) -> None:
    drawing.rect(x - 1, y - 1, side + 2, side + 2, stroke=kit.WHITE, line=4, radius=2)
    drawing.rect(x - 1, y - 1, side + 2, side + 2, stroke=kit.INK, line=2, radius=2)


def _bar(drawing: Drawing, x: float, middle: float, numbers: Tensor, name: str) -> None:
    """A vector as an upright bar with its name below."""
    drawing.picture(x, middle - BAR / 2, 12, BAR, _colours(numbers[:, None], float(numbers.abs().max())))
    drawing.text(x + 6, middle + BAR / 2 + 17, name, size=17 if name.startswith("$") else kit.LABEL, anchor="middle")


def _band(left: kit.Point, right: kit.Point) -> str:
    """Path data of a curve that leaves `left` and reaches `right` level."""
    (x, y), (end, low) = left, right
    middle = (x + end) / 2
    return f"M{x:.1f},{y:.1f} C{middle:.1f},{y:.1f} {middle:.1f},{low:.1f} {end:.1f},{low:.1f}"


def _colours(numbers: Tensor, limit: float) -> np.ndarray:
    """Signed numbers (rows, columns) in the colours of the course."""
    return colormaps[latents.DIVERGING]((numbers.numpy() / limit + 1) / 2, bytes=True)[..., :3]
