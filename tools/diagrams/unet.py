"""The U-Net with data flowing through it: Pocket's with real activations, and Stable Diffusion 1.5's in its sizes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing, Point

SD15_TOKENS = 77
PICTURED = 9  # the step of the run that flows through Pocket's U-Net
COLOURS = {"convolution": kit.LINE, "down": kit.DOWN, "middle": kit.MIDDLE, "up": kit.UP}


@dataclass(eq=False)  # a tensor has no single answer to ==
class Block:
    """A box: what a part of the U-Net hands on.

    kind: a key of COLOURS. words: it attends to the words; it hears the time unless it is a convolution.
    output: (1, C, H, W), on torch's meta device where there are sizes only.
    """

    kind: str
    words: bool
    output: Tensor

    @property
    def channels(self) -> int:
        return self.output.shape[1]

    @property
    def side(self) -> int:
        return self.output.shape[-1]


@dataclass
class Layout:
    """Sizes of one drawing, in pixels: where column 0 is, how far columns are apart, how wide the ribbon is.

    rows: the middle of each level. heights: of the boxes of each level, which are squares if they hold pictures.
    spine: the width of a box beside its picture, of which `least`, and for each number at a place.
    shift: how far a level is to the right of the one above.
    marks: where those of time and words hang below a box with a picture, from its left edge.
    """

    first: float
    pitch: float
    ribbon: float
    rows: tuple[int, ...]
    heights: tuple[int, ...]
    least: float
    spine: float
    shift: float
    marks: tuple[float, float]
    pictures: bool


@dataclass(eq=False)  # a tensor has no single answer to ==
class Box:
    """A block in its place: its level, 0 on top, the middle of it, its width with and without picture, its height."""

    block: Block
    level: int
    x: float
    y: float
    spine: float
    width: float
    height: float

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def top(self) -> float:
        return self.y - self.height / 2


def draw() -> list[Drawing]:
    return [draw_pocket(), draw_sd15()]


def trace(unet: UNet2DConditionModel, latents: Tensor, t: Tensor | int, words: Tensor) -> list[Block]:
    """The boxes of a U-Net in the order in which data pass them, caught with hooks in one call."""
    blocks, hooks = [], []
    for kind, module, hears_words in _parts(unet):

        def keep(module, inputs, output, kind=kind, hears_words=hears_words):
            blocks.append(Block(kind, hears_words, output[0] if isinstance(output, tuple) else output))

        hooks.append(module.register_forward_hook(keep))
    try:
        with torch.no_grad():
            unet(latents, t, encoder_hidden_states=words, return_dict=False)
    finally:
        for hook in hooks:
            hook.remove()
    return blocks


def _parts(unet: UNet2DConditionModel) -> Iterator[tuple[str, nn.Module, bool]]:
    """The modules whose outputs are boxes. Those before the middle are what the skips carry."""
    yield "convolution", unet.conv_in, False
    for stage in unet.down_blocks:
        yield from _layers("down", stage)
        if stage.downsamplers:
            yield "convolution", stage.downsamplers[0], False
    yield "middle", unet.mid_block, True
    for stage in unet.up_blocks:
        yield from _layers("up", stage)


def _layers(kind: str, stage: nn.Module) -> list[tuple[str, nn.Module, bool]]:
    if hasattr(stage, "attentions"):
        return [(kind, attention, True) for attention in stage.attentions]
    return [(kind, residual, False) for residual in stage.resnets]


def sd15() -> tuple[UNet2DConditionModel, list[Block]]:
    """The U-Net of Stable Diffusion 1.5 and its boxes: torch's meta device knows their sizes without any weight."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # the other sizes are the library's own
        return unet, trace(unet, torch.empty(1, 4, 64, 64), torch.tensor(500), torch.empty(1, SD15_TOKENS, 768))


def draw_pocket() -> Drawing:
    run = example.fox()
    step = run.steps[PICTURED]
    words, _, vectors = example.tokens()
    blocks = trace(example.pocket().unet, step.latents, step.t, vectors[None])
    faces = [first_component(block.output[0].numpy()) for block in blocks]
    drawing = Drawing(
        "unet",
        632,
        "The fox shows on the way down to 8 × 8 and in the last box but one; in the last one there is noise",
        f"A latent of the run ({example.SAID}) at t = {step.t} enters at the left. {_way(blocks)} Each box shows the "
        "first principal component of its numbers: the fox is plain in the last box but one, and grain in the last.",
    )
    layout = Layout(146, 82, 14, (134, 268, 390), (64, 48, 36), 2, 1 / 16, 8, (4, 16), True)
    boxes = _place(blocks, layout)
    _u(drawing, boxes, layout, ends=(60, 900), last=853)
    for box, face in zip(boxes, faces, strict=True):
        shade = (box.x - layout.first) / (kit.WIDTH - 2 * layout.first)
        side, colour = box.height, COLOURS[box.block.kind]
        drawing.picture(box.left + box.spine, box.top, side, side, _shaded(face, shade), frame=colour, line=1)
    for x, latents, name, colour in ((28, step.latents, "$x_t$", kit.XT), (868, step.noise_text, "$ε_θ$", kit.EPS)):
        drawing.picture(x, 102, 64, 64, example.as_colours(latents), frame=colour)
        drawing.text(x + 32, 89, name, size=21, colour=colour, anchor="middle")
    kept = float(example.pocket().scheduler.alphas_cumprod[step.t])
    shares = (f"In: {kept**0.5:.2f} fox,", f"{(1 - kept) ** 0.5:.2f} noise.")
    said = (*shares, "A convolution makes", f"{blocks[0].channels} numbers out of 4.")
    drawing.lines(28, 257, said, size=kit.SMALL, colour=kit.SECOND)
    said = (
        "Out: the noise,",
        f"4 numbers out of {blocks[-1].channels}.",
    )
    drawing.lines(932, 257, said, size=kit.SMALL, colour=kit.SECOND, anchor="end")

    drawing.rect(28, 500, 72, 24, fill=kit.WHITE, stroke=kit.SECOND, line=1.25, radius=12)
    drawing.text(64, 516.5, f"$t$ = {step.t}", anchor="middle")
    vector = example.pocket().unet.time_proj(torch.tensor([step.t]))  # (1, width)
    strip = matplotlib.colormaps["RdBu_r"]((vector.numpy() + 1) / 2, bytes=True)[..., :3]
    drawing.arrow([(102, 512), (115, 512)], kit.LINE)
    drawing.picture(120, 504, 192, 16, strip, frame=kit.LINE, line=1)
    x = 372.0
    for word in [*words, f"end × {len(vectors) - len(words)}"]:
        end = word.startswith(("start", "end"))
        x = drawing.chip(x, 500, word, height=24, fill=kit.WHITE if end else kit.WORDS_TINT) + 4
    _legend(
        drawing,
        548,
        ("**time**: sines and cosines of $t$, turned", f"into a vector; {_hearing(blocks)} boxes add their map of it"),
        (
            f"**words**: {len(vectors)} vectors. In the same boxes attention lets every",
            "place look at all places, then at the words",
        ),
        ("pictures: the strongest pattern in a box,", "the first principal component of its numbers"),
    )
    return drawing


def draw_sd15() -> Drawing:
    unet, blocks = sd15()
    drawing = Drawing(
        "unet_sd15",
        730,
        "The U-Net of Stable Diffusion 1.5 is Pocket's with one level more, one block more at every stop, and wider",
        f"Sizes only, no pictures. {_way(blocks)} The lowest level has attention in its middle alone.",
    )
    layout = Layout(60, 45, 8, (146, 282, 412, 530), (80, 60, 44, 36), 5, 1 / 72, 10, (0, 0), False)
    boxes = _place(blocks, layout)
    _u(drawing, boxes, layout, ends=(28, 932), last=902)
    drawing.text(32, 134, "$x_t$", size=19, colour=kit.XT)
    drawing.text(928, 134, "$ε_θ$", size=19, colour=kit.EPS, anchor="end")
    _legend(
        drawing,
        646,
        (
            f"**time**: {unet.time_proj.num_channels} sines and cosines of $t$, turned",
            f"into {unet.time_embedding.linear_2.out_features:,} numbers; "
            f"{_hearing(blocks)} boxes add their map of them",
        ),
        (
            f"**words**: {SD15_TOKENS} vectors of {unet.config.cross_attention_dim} numbers. "
            f"In {sum(block.words for block in blocks)} boxes attention lets",
            "every place look at all places, then at the words",
        ),
        ("the wider a box, the more numbers at each place;", "the higher, the more places; the marks: what it hears"),
    )
    return drawing


def _u(
    drawing: Drawing,
    boxes: list[Box],
    layout: Layout,
    *,
    ends: tuple[float, float],
    last: float,
) -> None:
    """Ribbon, skips, boxes with their marks, and headings. last: x of the last convolution."""
    _ribbon(drawing, boxes, layout, ends)
    _plain(drawing, boxes, layout, last)
    _skips(drawing, boxes, layout)
    for box in boxes:
        _box(drawing, box, layout)
    _headings(drawing, boxes)


def _hearing(blocks: list[Block]) -> int:
    return sum(block.kind != "convolution" for block in blocks)


def _way(blocks: list[Block]) -> str:
    """The description that both drawings share."""
    sides, channels = [block.side for block in blocks], [block.channels for block in blocks]
    large, small, skips = max(sides), min(sides), sum(block.kind == "up" for block in blocks)
    return (
        f"On the way down the grid shrinks from {large} by {large} to {small} by {small} places while the numbers at "
        f"each place grow from {min(channels)} to {max(channels)}; on the way up it is the other way round, and the "
        f"noise leaves at the right. {skips} skips, numbered from 0, carry what each box on the way down holds to its "
        f"partner on the way up. Before each rise the grid is doubled and passes a convolution; a last one makes the "
        f"noise. The time reaches {_hearing(blocks)} boxes, the words "
        f"{sum(block.words for block in blocks)} of them, through attention; the plain convolutions hear neither."
    )


def _place(blocks: list[Block], layout: Layout) -> list[Box]:
    """Every block in its place: to the right of the one before, or below or above it where the side changes."""
    sides = sorted({block.side for block in blocks}, reverse=True)
    boxes, column = [], 0
    for number, block in enumerate(blocks):
        column += number > 0 and block.side == blocks[number - 1].side
        level, spine = sides.index(block.side), layout.least + block.channels * layout.spine
        height = layout.heights[level]
        width = spine + height if layout.pictures else spine
        boxes.append(
            Box(
                block,
                level,
                layout.first + column * layout.pitch + level * layout.shift,
                layout.rows[level],
                spine,
                width,
                height,
            )
        )
    return boxes


def _ribbon(drawing: Drawing, boxes: list[Box], layout: Layout, ends: tuple[float, float]) -> None:
    top = layout.rows[0]
    changes = [(one, two) for one, two in pairwise(boxes) if one.level != two.level]
    turns = [((one.x + two.x) / 2, box.y) for one, two in changes for box in (one, two)]
    way: list[Point] = [(ends[0], top), *turns, (ends[1], top)]
    drawing.ribbon(way, kit.XT, kit.EPS, width=layout.ribbon, radius=layout.ribbon / 2)
    drawing.dots(way, kit.WHITE, size=layout.ribbon * 0.28)
    for (x, y), (_, below) in zip(turns[::2], turns[1::2], strict=True):
        around = _mixed((x - ends[0]) / (ends[1] - ends[0]))
        if layout.pictures:  # else the ribbon is too thin
            drawing.pointer(x, (y + below) / 2, "down" if below > y else "up", kit.WHITE, around)


def _plain(drawing: Drawing, boxes: list[Box], layout: Layout, last: float) -> None:
    """The convolutions that no skip needs: after each enlargement on the way up, and the last one, at x = `last`."""
    for one, two in pairwise(boxes):
        if one.level > two.level:
            x, y, wide = (one.x + two.x) / 2, one.top - 26, max(layout.ribbon + 10, 22)
            drawing.rect(x - wide / 2, y - 4.5, wide, 9, fill=COLOURS["convolution"], stroke=kit.CARD, radius=3)
            drawing.text(x + wide / 2 + 6, y + 4.5, "× 2", size=kit.SMALL, colour=kit.SECOND)
    high = layout.heights[0]
    drawing.rect(last - 4.5, layout.rows[0] - high / 2, 9, high, fill=COLOURS["convolution"], radius=3)


def _skips(drawing: Drawing, boxes: list[Box], layout: Layout) -> None:
    """Arcs from each box before the middle to its partner; beside the ribbon where that enters or leaves on top."""
    middle = next(number for number, box in enumerate(boxes) if box.block.kind == "middle")
    for number, (source, target) in enumerate(zip(boxes[:middle], reversed(boxes), strict=False)):
        inner = sum(box.level == source.level for box in boxes[number + 1 : middle])
        y = source.top - 20 - 24 * inner
        start: Point = (source.x, source.top)
        end: Point = (target.x, target.top)
        if number and boxes[number - 1].level != source.level:
            if layout.pictures:  # a box is wider than the ribbon
                start = (source.left + source.width - 10, source.top)
                end = (target.left + 4, target.top)
            else:
                beside = (layout.pitch - source.width) / 2 * 0.7
                start = (source.left + source.width + beside, source.y)
                end = (target.left - beside, target.y - layout.ribbon / 2)
        way = [start, (start[0], y), (end[0], y), end]
        drawing.arrow(way, kit.LINE, line=1.5)
        drawing.dots([*way[:-1], (end[0], end[1] - 9)], kit.SECOND, size=3)
        drawing.disc((start[0] + end[0]) / 2, y, str(number))


def _box(drawing: Drawing, box: Box, layout: Layout) -> None:
    colour = COLOURS[box.block.kind]
    drawing.rect(box.left, box.top, box.spine + 3 * layout.pictures, box.height, fill=colour, radius=3)
    foot = box.top + box.height + 5
    heard, said = ((box.left + x, foot + 3) for x in layout.marks)
    if not layout.pictures:  # on the box
        heard, said = ((box.x, foot - up) for up in (14, 25))
    if box.block.kind != "convolution":
        _time_mark(drawing, *heard)
    if box.block.words:
        _words_mark(drawing, *said)


def _time_mark(drawing: Drawing, x: float, y: float) -> None:
    drawing.add("circle", cx=x, cy=y, r=4, fill=kit.LINE, stroke=kit.WHITE, stroke_width=1.2)


def _words_mark(drawing: Drawing, x: float, y: float) -> None:
    drawing.path(f"M{x},{y - 5.4} l5,5.4 l-5,5.4 l-5,-5.4 Z", fill=kit.WORDS, stroke=kit.WHITE, line=1.2)


def first_component(values: np.ndarray) -> np.ndarray:
    """The first principal component of (C, h, w), as (h, w) from 0 to 1. Its sign makes the middle the larger part."""
    flat = values.reshape(len(values), -1)
    flat = flat - flat.mean(1, keepdims=True)
    first = np.linalg.svd(flat, full_matrices=False)[2][0].reshape(values.shape[1:])
    inner = tuple(slice(side // 4, side - side // 4) for side in first.shape)
    first = first if first[inner].mean() > first.mean() else -first
    return (first - first.min()) / np.ptp(first)


def _shaded(component: np.ndarray, shade: float) -> np.ndarray:
    """A map (h, w) as a picture: white for 0; for 1 the colour of x_t (shade 0) passing into the noise's (shade 1)."""
    dark = np.array([int(_mixed(shade)[at : at + 2], 16) for at in (1, 3, 5)])
    return (255 + (dark * 0.8 - 255) * component[..., None]).round().astype(np.uint8)


def _mixed(share: float) -> str:
    """The colour of the ribbon, from x_t's (share 0) to the noise's (share 1)."""
    pairs = [(int(kit.XT[at : at + 2], 16), int(kit.EPS[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(one + (two - one) * share):02X}" for one, two in pairs)


def _headings(drawing: Drawing, boxes: list[Box]) -> None:
    """Each level's places and numbers in the middle of its row, or below it where the middle block stands."""
    middle = next(box for box in boxes if box.block.kind == "middle")
    for level in range(middle.level + 1):
        row = [box for box in boxes if box.level == level and box.block.kind != "convolution"]
        x = (row[0].x + row[-1].x) / 2
        places = f"level {level}: {row[0].block.side} × {row[0].block.side} places"
        counts = dict.fromkeys(box.block.channels for box in boxes if box.level == level)  # in the order of the flow
        numbers = f"{' → '.join(f'{count:,}' for count in counts)} numbers each"
        y = row[0].y
        if level == middle.level:
            x, y = x - 5, y + row[0].height / 2 + 42
            width = max(kit.text_width(numbers, kit.SMALL), kit.text_width(places, kit.HEAD, bold=True)) + 2
            drawing.rect(x - width / 2, y - 18, width, 40, fill=kit.CARD, radius=0)
        drawing.text(x, y - 3, places, size=kit.HEAD, anchor="middle", bold=True)
        drawing.text(x, y + 16, numbers, size=kit.SMALL, colour=kit.SECOND, anchor="middle")


def _legend(drawing: Drawing, y: float, time: tuple[str, str], words: tuple[str, str], note: tuple[str, str]) -> None:
    drawing.add("circle", cx=33, cy=y - 4, r=4, fill=kit.LINE)
    drawing.lines(44, y, time, colour=kit.SECOND)
    drawing.path(f"M377,{y - 9} l5,5 l-5,5 l-5,-5 Z", fill=kit.WORDS)
    drawing.lines(388, y, words, colour=kit.SECOND)
    drawing.line([(28, y + 34), (932, y + 34)], kit.HAIRLINE, line=1)
    x = 28.0
    for kind, name in (
        ("convolution", "convolution alone, × 2: enlarged first"),
        ("down", "down"),
        ("middle", "middle"),
        ("up", "up"),
    ):
        drawing.rect(x, y + 46, 9, 14, fill=COLOURS[kind], radius=2)
        drawing.text(x + 15, y + 57, name, size=kit.SMALL, colour=kit.SECOND)
        x += 15 + kit.text_width(name, kit.SMALL) + 20
    drawing.lines(932, y + 52, note, leading=17, size=kit.SMALL, colour=kit.SECOND, anchor="end")
