"""Cross-attention: one place inside the U-Net asks, the words answer, and one head mixes their values for it."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from helpers import attention, latents, sampling
from helpers.loading import load_pipeline
from tools.diagrams import example, kit, unet
from tools.diagrams.kit import Drawing

PROMPT, WORD, SEED, STEPS, T = "a fox left of a pizza on a white background", "fox", 0, 20, 501
HEAD = 1  # of the layer's heads one that mixes: the next gives WORD everything, the other two the ends
GREYED = 0.35  # how much of the picture is left under a map

TILE, TILE_TOP = 144, 216  # nine pixels for each of 16 places
LARGE = 176  # the map and the picture
ASKS, HELD, QUERY, KEYS, CHIPS, VALUES, MIXED, MAP = 28, 186, 236, 334, 402, 544, 668, 704  # where the columns begin
CHIP, STRIP, NUMBER = 90, 64, 3  # px: of a chip, of the numbers of a key or value, and of one number of a bar
ROWS, PITCH, ROW = 92, 33, 22  # the words, one below the other; the ends of the text stand together below them
ALL = 28  # px of all shares together: less than the pitch, so that a band ends at one word
RETURN = 524  # the height of the way back


@dataclass
class Look:
    """One place of one layer at one step, as one of its heads sees it; shares add up to 1."""

    layer: str
    heads: int
    head: int  # the one that is shown
    x_t: Tensor  # (1, 4, h, w)
    hidden: Tensor  # (channels, h, w), what the layer adds its answer to
    place: tuple[int, int]  # row and column of the place that asks
    words: list[str]  # start, the prompt's, end
    ends: int  # how many ends fill the text
    shares: Tensor  # (tokens,)
    query: Tensor  # (d,), of the place
    keys: Tensor  # (tokens, d)
    values: Tensor  # (tokens, d)
    mixed: Tensor  # (heads, d)
    mean: float  # share of WORD at the place, over all heads
    map: Tensor  # (h, w), the share of WORD at every place
    picture: Image.Image


@torch.no_grad()
def measure() -> Look:
    """Head HEAD of the layer at full size where WORD gets its largest share, at that place, in a run with guidance."""
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
    norm = pipe.unet.get_submodule(layer.replace("attn2", "norm2"))  # its input is what the answer is added to
    keep_hidden = norm.register_forward_pre_hook(lambda _, args: inputs.update(hidden=args[0]))
    keep = module.register_forward_pre_hook(
        lambda _, args, kwargs: inputs.update(x=args[0], **kwargs), with_kwargs=True
    )
    text, _ = pipe.encode_prompt(PROMPT, pipe.device, 1, False)
    pipe.unet(step.latents, T, encoder_hidden_states=text)
    keep.remove()
    keep_hidden.remove()
    at = row * largest[1] + column
    by_head = attention.probabilities(module, inputs["x"], text)[0, :, at]  # (heads, tokens)
    query, keys, values = (
        numbers.unflatten(-1, (module.heads, -1))  # (places or tokens, heads, d)
        for numbers in (module.to_q(inputs["x"])[0], module.to_k(text)[0], module.to_v(text)[0])
    )
    ids = pipe.tokenizer(PROMPT).input_ids
    return Look(
        layer=layer,
        heads=module.heads,
        head=HEAD,
        x_t=step.latents,
        hidden=inputs["hidden"][0].T.unflatten(1, largest),
        place=(row, column),
        words=[
            "start",
            *(word for word, tokens in attention.word_tokens(pipe.tokenizer, PROMPT) for _ in tokens),
            "end",
        ],
        ends=text.shape[1] - len(ids) + 1,
        shares=by_head[HEAD],
        query=query[at, HEAD],
        keys=keys[:, HEAD],
        values=values[:, HEAD],
        mixed=torch.einsum("ht,thd->hd", by_head, values),
        mean=float(by_head[:, token].mean()),
        map=record.maps(layer=layer, step=step.index, token=token, head=HEAD),
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
        f"In one head this place on the {WORD} gives “{WORD}” {share:.0%} of its attention, more than any other token",
        f"Left, small, the noisy latent at t = {T} (seed {SEED}); inside the U-Net it has become {len(look.hidden)} "
        f"numbers at each place. The place in row {look.place[0] + 1}, column {look.place[1] + 1} asks with a query of "
        f"{len(look.query)} of its own, for one head. Middle, the tokens of “{PROMPT}”, each with a key, a share and a "
        "value; bands as thick as the shares run from the query to the keys and from the values to the mixture. The "
        f"mixtures of all {look.heads} heads are joined, pass one more matrix and are added to the place’s numbers. "
        f"The {look.ends} ends of the text share {ends:.0%}. Right, the share of “{WORD}” at all places, green over "
        f"the greyed picture, at most {float(look.map.max()):.0%}; {attention.mass_share(look.map, 'left'):.0%} of it "
        f"lies in the left half. Below, the picture after the run. Layer {look.layer}, head {look.head + 1} of "
        f"{look.heads}; the mean of the heads gives “{WORD}” {look.mean:.0%}.",
    )
    _heads(drawing)
    _place(drawing, look)
    _words(drawing, look)
    _map(drawing, look)
    drawing.text(
        kit.MARGIN,
        555,
        f"Layer {look.layer.split('.transformer')[0]}, head {look.head + 1} of {look.heads} (mean of all heads: {WORD} "
        f"{look.mean:.0%}), seed {SEED}. Inside the U-Net: first principal component.",
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
    """The place that asks, its numbers and its query, and the mixture's way back to it."""
    rows, columns = look.hidden.shape[1:]
    side, middle = TILE / columns, TILE_TOP + TILE / 2
    x, y = ASKS + look.place[1] * side, TILE_TOP + look.place[0] * side
    drawing.picture(ASKS, 66, 64, 64, example.as_colours(look.x_t), frame=kit.XT)
    drawing.text(ASKS + 74, 79, "$x_t$", size=17, colour=kit.XT)
    drawing.text(ASKS + 74, 99, f"$t$ = {T}", size=kit.SMALL, colour=kit.SECOND)
    drawing.arrow([(ASKS + 32, 134), (ASKS + 32, TILE_TOP - 53)], kit.UP)
    drawing.text(ASKS + 46, 152, "inside the U-Net", colour=kit.UP, bold=True)
    size = f"{rows} × {columns} places, {len(look.hidden)} numbers each"
    drawing.text(ASKS, TILE_TOP - 35, size, size=kit.SMALL, colour=kit.SECOND)

    foot = TILE_TOP + TILE
    joined = _joined(drawing, look)
    drawing.arrow([(MIXED + 6, middle + 50), (MIXED + 6, RETURN), (joined[1], RETURN)], kit.LINE)
    way = [(joined[0], RETURN), (x + side / 2, RETURN), (x + side / 2, foot)]
    drawing.line(way, kit.LINE)
    drawing.dots(way, kit.SECOND, size=3)
    shade = _rgb(kit.UP)
    face = 255 + (shade - 255) * unet.first_component(look.hidden.numpy())[..., None]
    drawing.picture(ASKS, TILE_TOP, TILE, TILE, face.round().astype(np.uint8), frame=kit.UP)
    drawing.line([(x + side, y + side / 2), (ASKS + TILE, y + side / 2)], kit.WHITE, line=5)
    drawing.line([(x + side / 2, y + side + 4), (x + side / 2, foot)], kit.WHITE, line=5)
    drawing.arrow([(x + side / 2, foot), (x + side / 2, y + side + 2)], kit.INK)
    drawing.arrow([(x + side, y + side / 2), (HELD - 4, y + side / 2)], kit.INK)
    _mark(drawing, x, y, side)
    here = look.hidden[:, look.place[0], look.place[1]]
    _bar(drawing, HELD, middle, here, "")
    drawing.arrow([(HELD + 15, middle), (QUERY - 4, middle)], kit.INK)
    _bar(drawing, QUERY, middle, look.query, "$q$")
    _bar(drawing, MIXED, middle, look.mixed[look.head], "mix")
    d = len(look.query)
    drawing.lines(
        x + side / 2 + 14,
        foot + 54,
        (f"share$_i$ = softmax($q$·$k_i$ / √{d})", "mix = Σ share$_i$ $v_i$"),
        colour=kit.WORDS,
        leading=22,
    )
    notes = ("in each head,", f"with $d$ = {d} numbers")
    drawing.lines(x + side / 2 + 14, foot + 95, notes, size=kit.SMALL, colour=kit.SECOND)
    note = f"through one more matrix, added to the place’s {len(here)} numbers"
    drawing.text(x + side / 2 + 14, RETURN - 10, note, size=kit.SMALL, colour=kit.SECOND)


def _joined(drawing: Drawing, look: Look) -> tuple[float, float]:
    """The mixtures of all heads as one strip on the way back, the head that is shown framed; returns its ends."""
    heads, d = look.mixed.shape
    width = 2 * d
    left, right = MIXED - 26 - heads * width, MIXED - 26
    limit = float(look.mixed.abs().max())
    drawing.picture(left, RETURN - 6, heads * width, 12, _colours(look.mixed.reshape(1, -1), limit))
    drawing.rect(left + look.head * width - 1, RETURN - 7, width + 2, 14, stroke=kit.INK, line=2, radius=1.5)
    text = f"{heads} heads: {heads} × {d}"
    drawing.text((left + right) / 2, RETURN - 13, text, size=kit.SMALL, colour=kit.SECOND, anchor="middle")
    return left, right


def _words(drawing: Drawing, look: Look) -> None:
    """The tokens with keys, shares and values, and the bands between them, the query and the mixture."""
    for x, head in ((KEYS + STRIP / 2, "$k$"), (VALUES + STRIP / 2, "$v$")):
        drawing.text(x, ROWS - 12, head, size=17, colour=kit.WORDS, anchor="middle")
    drawing.text(VALUES - 8, ROWS - 12, "share", size=kit.SMALL, colour=kit.SECOND, anchor="end")
    count = len(look.words) - 1  # all but the ends
    at = TILE_TOP + TILE / 2 - ALL / 2
    centres = [ROWS + PITCH * n + ROW / 2 for n in range(count)]
    centres.append(ROWS + PITCH * count + look.ends)  # the ends together
    shares = [*look.shares[:count].tolist(), float(look.shares[count:].sum())]
    for token, (y, share) in enumerate(zip(centres, shares, strict=True)):
        width = ALL * share
        colour = kit.WORDS if look.words[token] not in ("start", "end") else kit.LINE
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
            f"{share:.0%}" if share >= 0.005 else "< 1%",
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
    drawing.picture(MAP, top, LARGE, LARGE, greyed, smooth=True)
    side = LARGE / look.map.shape[1]
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
    _scale(drawing, MAP + LARGE + 8, top, largest)
    drawing.text(MAP, top + LARGE + 18, f"share of “{WORD}” at {look.map.numel()} places", colour=kit.WORDS)
    drawing.picture(MAP, top + LARGE + 36, LARGE, LARGE, look.picture, smooth=True)
    drawing.text(MAP, top + 2 * LARGE + 54, "after the run", colour=kit.SECOND)


def _scale(drawing: Drawing, x: float, top: float, largest: float) -> None:
    """The bar of the map's colours, with three ticks."""
    stops = "".join(kit.element("stop", offset=n, stop_color=kit.WORDS, stop_opacity=1 - n) for n in (0, 1))
    key = f"{drawing.name}-scale"
    drawing.add("linearGradient", stops, id=key, x1=0, y1=0, x2=0, y2=1)
    drawing.rect(x, top, 9, LARGE, fill=f"url(#{key})", stroke=kit.HAIRLINE, radius=0)
    for share in (1, 0.5, 0):
        y = top + LARGE * (1 - share)
        drawing.text(
            x + 13,
            min(max(y + 4.5, top + 10), top + LARGE),
            f"{largest * share:.0%}",
            size=kit.SMALL,
            colour=kit.SECOND,
        )


def _mark(drawing: Drawing, x: float, y: float, side: float) -> None:
    drawing.rect(x - 1, y - 1, side + 2, side + 2, stroke=kit.WHITE, line=4, radius=2)
    drawing.rect(x - 1, y - 1, side + 2, side + 2, stroke=kit.INK, line=2, radius=2)


def _bar(drawing: Drawing, x: float, middle: float, numbers: Tensor, name: str) -> None:
    """A vector as an upright bar, a cell for each number, with its name, if it has one, below."""
    high = NUMBER * len(numbers)
    drawing.picture(x, middle - high / 2, 12, high, _colours(numbers[:, None], float(numbers.abs().max())))
    if name:
        size = 17 if name.startswith("$") else kit.LABEL
        drawing.text(x + 6, middle + high / 2 + 17, name, size=size, anchor="middle")


def _band(left: kit.Point, right: kit.Point) -> str:
    """Path data of a curve that leaves `left` and reaches `right` level."""
    (x, y), (end, low) = left, right
    middle = (x + end) / 2
    return f"M{x:.1f},{y:.1f} C{middle:.1f},{y:.1f} {middle:.1f},{low:.1f} {end:.1f},{low:.1f}"


def _colours(numbers: Tensor, limit: float) -> np.ndarray:
    """Signed numbers (rows, columns) in the colours of the course."""
    return colormaps[latents.DIVERGING]((numbers.numpy() / limit + 1) / 2, bytes=True)[..., :3]


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
