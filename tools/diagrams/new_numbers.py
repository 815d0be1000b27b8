"""Where textual inversion, LoRA and ControlNet put their new numbers, and how many they are beside the frozen ones."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from PIL import Image, ImageFilter
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from helpers import latents, sampling
from helpers.loading import load_pipeline
from tests.pipelines import sd15
from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing

PROMPT, SEED, STEPS, T = "a fox on a blue background", 0, 20, 501
SENTENCE, NEW_WORD = ("a", "<flamingo>", "on", "blue", "background"), "<flamingo>"
RANK = 4  # of LoRA
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")  # as in the lesson on fine-tuning
EDGE = 40  # brightness step that counts as an outline

NEW = kit.GUIDANCE  # the bright of "bright on grey"
PALE, DARK = (0xE6, 0xEA, 0xEF), (0x9A, 0xA4, 0xB1)  # frozen numbers, from near 0 to large
LEVELS = 6  # of grey, so that the pictures stay small
COLUMNS = (28, 290, 588)
SQUARE = 92  # the whole model as a square
SQUARES, TEXT, LEGEND = 492, 380, 680  # where their row begins, the text above it, the legend below it


@dataclass
class Counts:
    """How many numbers a pipeline has, and how many each method adds to it."""

    model: int
    row: int
    lora: int
    matrices: int  # that get a LoRA
    control: int
    encoder: int  # of them in the encoder of the outline
    zero: int  # of them in the convolutions that start at zero and lead back to the U-Net


@dataclass
class Numbers:
    """Pocket and Stable Diffusion 1.5 counted, and what the drawing shows of Pocket."""

    pocket: Counts
    sd15: Counts
    table: Tensor  # (tokens, width), the embeddings
    ids: dict[str, int]
    matrix: Tensor  # (out, in), keys of the first layer
    residuals: list[tuple[int, int]]  # (channels, rows) of what a ControlNet adds, the middle last
    x_t: Tensor
    outline: Image.Image


@torch.no_grad()
def measure() -> Numbers:
    """Counts of the live model; those of Stable Diffusion 1.5 come from its configuration, without its weights."""
    pipe = load_pipeline("pocket", device="cpu")
    control = ControlNetModel.from_unet(pipe.unet)
    run = sampling.run(pipe, PROMPT, seed=SEED, steps=STEPS)
    picture = latents.decode(pipe, run.latents)[0]
    step = next(one for one in run.steps if one.t == T)
    text, _ = pipe.encode_prompt(PROMPT, pipe.device, 1, False)
    hint = torch.zeros(1, 3, *picture.size)
    down, middle = control(step.latents, T, text, hint, return_dict=False)
    if any(one.any() for one in (*down, middle)):
        raise ValueError("An untrained ControlNet answered something else than zero")
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**sd15.UNET), AutoencoderKL(**sd15.VAE)
        full = count(
            unet,
            CLIPTextModel(CLIPTextConfig(**sd15.TEXT)),
            vae,
            ControlNetModel.from_unet(unet, load_weights_from_unet=False),
        )
    matrix = next(module for name, module in pipe.unet.named_modules() if name.endswith("attn2.to_k")).weight.detach()
    ids = pipe.tokenizer.convert_tokens_to_ids
    return Numbers(
        pocket=count(pipe.unet, pipe.text_encoder, pipe.vae, control),
        sd15=full,
        table=pipe.text_encoder.get_input_embeddings().weight.detach(),
        ids={word: ids(f"{word}</w>") for word in SENTENCE if word != NEW_WORD},
        matrix=matrix,
        residuals=[tuple(one.shape[1:3]) for one in (*down, middle)],
        x_t=step.latents,
        outline=picture.convert("L").filter(ImageFilter.FIND_EDGES).point(lambda value: 255 * (value > EDGE)),
    )


def count(unet: nn.Module, text: nn.Module, vae: nn.Module, control: ControlNetModel) -> Counts:
    adapted = [module for name, module in unet.named_modules() if name.endswith(ADAPTED)]
    return Counts(
        model=sum(map(_size, (unet, text, vae))),
        row=text.get_input_embeddings().weight.shape[1],
        lora=sum(RANK * (module.in_features + module.out_features) for module in adapted),
        matrices=len(adapted),
        control=_size(control),
        encoder=_size(control.controlnet_cond_embedding),
        zero=_size(control.controlnet_down_blocks) + _size(control.controlnet_mid_block),
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def draw() -> list[Drawing]:
    numbers = measure()
    pocket, full = numbers.pocket, numbers.sd15
    outside, inside = numbers.matrix.shape
    drawing = Drawing(
        "new_numbers",
        702,
        f"{pocket.row:,}, {pocket.lora:,} or {pocket.control:,} new numbers beside {pocket.model:,} frozen ones",
        "New numbers are bright, frozen ones grey. Left, textual inversion: the table of "
        f"{len(numbers.table)} token rows gets one more, for {NEW_WORD}. Middle, LoRA: beside a frozen matrix of "
        f"{outside} × {inside} stand A, {RANK} × {inside}, and B, {outside} × {RANK}; {pocket.matrices} matrices "
        "of the U-Net, most of them larger, get a pair each. Right, ControlNet: down path and middle are copied, "
        f"{pocket.control - pocket.encoder - pocket.zero:,} numbers; an encoder of {pocket.encoder:,} reads an "
        f"outline; {len(numbers.residuals)} convolutions that start at zero, {pocket.zero:,}, add what comes out to "
        "the skips and to the middle; the encoder’s last convolution starts at zero, too. Below, each model, with its "
        "U-Net, text encoder and VAE, as a grey square of the same size, with its new numbers to scale beside it. "
        f"Pocket: {pocket.row:,}, {pocket.lora:,} and {pocket.control:,} beside {pocket.model:,}. Stable Diffusion "
        f"1.5: {full.row:,}, {full.lora:,} and {full.control:,} beside {full.model:,}.",
    )
    for number, (x, head) in enumerate(zip(COLUMNS, ("Textual inversion", "LoRA", "ControlNet"), strict=True), start=1):
        drawing.station(x + 11, 40, number, head)
    _row(drawing, numbers)
    _pair(drawing, numbers)
    _copy(drawing, numbers)
    _squares(drawing, numbers)
    return [drawing]


def _row(drawing: Drawing, numbers: Numbers) -> None:
    """A token table with one more row."""
    left, top, width, high, gap = COLUMNS[0] + 146, 78, 96, 236, 54
    rows = numbers.table.abs()
    group = len(rows) // high + 1  # rows to one line of pixels
    drawing.picture(left, top, width, high, _grey(torch.stack([part.mean(dim=0) for part in rows.split(group)])))
    new = top + high + 8
    drawing.rect(left, new - 4, width, 8, fill=NEW, radius=1)
    for place, word in sorted(enumerate(SENTENCE), key=lambda one: one[1] == NEW_WORD):  # the new one lies on top
        is_new, y = word == NEW_WORD, top + 24 + place * 46
        target = new if is_new else top + high * numbers.ids[word] / len(rows)
        colour = NEW if is_new else kit.LINE
        width = kit.text_width(word, kit.SMALL) + 12
        curve = f"M{left - gap},{y} C{left - gap / 2},{y} {left - gap / 2},{target:.1f} {left - 2},{target:.1f}"
        if is_new:
            drawing.path(curve, stroke=kit.CARD, line=9)
        drawing.path(curve, stroke=colour, line=3 if is_new else 1.5)
        drawing.chip(
            left - gap - width,
            y - 11,
            word,
            width=width,
            height=22,
            colour=NEW if is_new else kit.SECOND,
            fill=kit.GUIDANCE_TINT if is_new else kit.WHITE,
        )
    tokens, size = numbers.table.shape
    drawing.lines(
        COLUMNS[0], TEXT, (f"{tokens} rows of {size} numbers, frozen", f"**one row more**: {size} new numbers")
    )


def _pair(drawing: Drawing, numbers: Numbers) -> None:
    """A matrix W with the thin A and B beside it, whose product has the shape of W."""
    outside, inside = numbers.matrix.shape
    side = 244 / inside
    left, top, thin = COLUMNS[1] + 26, 140, RANK * side
    drawing.picture(left, top, inside * side, outside * side, _grey(numbers.matrix.abs()))
    drawing.rect(left, top - 8 - thin, inside * side, thin, fill=NEW, radius=1)
    drawing.rect(left - 8 - thin, top, thin, outside * side, fill=NEW, radius=1)
    bottom = top + outside * side
    drawing.text(left, top - 16 - thin, f"$A$  {RANK} × {inside}", colour=NEW)
    drawing.text(left - 8 - thin, bottom + 19, f"$B$  {outside} × {RANK}", colour=NEW)
    drawing.text(
        left + inside * side, bottom + 19, f"$W$  {outside} × {inside}, frozen", colour=kit.SECOND, anchor="end"
    )
    formula = (("$y$ = $W$$x$ + ", kit.INK), ("$B$$A$", NEW), ("$x$", kit.INK))
    drawing.formula(left + inside * side / 2, bottom + 60, formula, font_size=23, text_anchor="middle")
    new = RANK * (inside + outside)
    lines = (
        f"{inside * outside:,} numbers, frozen",
        f"**two thin matrices**: {new:,} new ones",
        f"{numbers.pocket.matrices} matrices, most of them larger,",
        f"get a pair each: {numbers.pocket.lora:,} new ones",
    )
    drawing.lines(COLUMNS[1], TEXT, lines)


def _copy(drawing: Drawing, numbers: Numbers) -> None:
    """The U-Net with a copy of its down path and middle, which adds to the skips through zero convolutions."""
    left, grey, bright, boxes = COLUMNS[2] + 104, 148, 272, 212
    pitch, tile = 19.5, 48
    *skips, middle = numbers.residuals
    widest = {rows: channels for channels, rows in skips}  # on the way up all boxes of a level are as wide
    bars = [*skips, middle, *((widest[rows], rows) for _, rows in reversed(skips))]
    places = [left + number * pitch for number in range(len(bars))]
    most = max(channels for channels, _ in bars)

    def bar(x: float, centre: float, shape: tuple[int, int], colour: str) -> float:
        """Draws one, as high as its rows and as wide as its channels say; returns half its height."""
        width, half = 13 * shape[0] / most, 5 + 2.1 * shape[1]
        drawing.rect(x - width / 2, centre - half, width, 2 * half, fill=colour, radius=1.5)
        return half

    halves = [bar(x, grey, shape, kit.LINE) for x, shape in zip(places, bars, strict=True)]
    for number in range(len(skips)):
        start, end, y = places[number], places[-1 - number], 62 + 5 * number
        feet = [(start, grey - 2 - halves[number]), (start, y), (end, y), (end, grey - 2 - halves[number])]
        drawing.arrow(feet, kit.LINE, line=1, tip=5, radius=6)
    joint = places[0] + pitch / 2  # behind the first box, where the outline's code is added
    drawing.line([(places[0] - 18, bright + 8), (joint, bright + 8)], NEW)
    for number, (x, shape) in enumerate(zip(places, [*skips, middle], strict=False)):
        half = bar(x, bright, shape, NEW)
        target = places[-1 - number]
        y = 327 + 5 * (len(skips) - 1 - number)
        beside, box = target - pitch / 2, boxes  # up between two bars of the U-Net, to the skip above the second
        if number == len(skips):
            beside, box = x - 3, boxes + 27  # apart from its neighbour
            drawing.arrow([(beside, bright - half), (beside, grey + halves[number] + 2)], NEW, line=1.5, tip=6)
        else:
            foot = (joint, bright + 13) if number == 0 else (x, bright + half)
            drawing.line([foot, (foot[0], y), (beside, y), (beside, boxes)], NEW, line=1.5, radius=6)
            meet = grey - halves[number] - 13
            drawing.line([(beside, boxes), (beside, meet), (target, meet)], NEW, line=1.5, radius=4)
            drawing.add("circle", cx=target, cy=meet, r=3.4, fill=NEW, stroke=kit.CARD, stroke_width=1)
        drawing.rect(beside - 7, box - 8, 14, 16, fill=kit.CARD, stroke=NEW, line=1.5, radius=3)
        drawing.text(beside, box + 4.5, "0", size=kit.SMALL, colour=NEW, anchor="middle", bold=True)

    x = COLUMNS[2]
    drawing.picture(x, grey - tile / 2, tile, tile, example.as_colours(numbers.x_t), frame=kit.XT)
    drawing.picture(x, bright - tile / 2, tile, tile, numbers.outline, smooth=True, frame=kit.INK)
    first = places[0] - 8
    drawing.arrow([(x + tile + 2, grey), (first, grey)], kit.XT)
    drawing.arrow([(x + tile + 12, grey), (x + tile + 12, bright - 28), (first, bright - 28)], kit.XT)
    drawing.arrow([(x + tile + 2, bright + 8), (x + tile + 10, bright + 8)], kit.INK, tip=6)
    funnel = f"M{x + tile + 11},{bright - 14} L{first - 10},{bright} V{bright + 16} L{x + tile + 11},{bright + 30} Z"
    drawing.path(funnel, fill=NEW)
    drawing.add("circle", cx=joint, cy=bright + 8, r=5.5, fill=kit.INK, stroke=kit.CARD, stroke_width=1)
    drawing.text(joint, bright + 12, "+", size=kit.SMALL, colour=kit.WHITE, anchor="middle", bold=True)
    drawing.text(x, grey - tile / 2 - 9, f"$x_t$, $t$ = {T}", size=kit.SMALL, colour=kit.XT)
    drawing.text(x, bright + tile / 2 + 18, "outline,", size=kit.SMALL)
    drawing.text(x, bright + tile / 2 + 35, "its encoder", size=kit.SMALL, colour=NEW)
    counts = numbers.pocket
    copied = counts.control - counts.encoder - counts.zero
    lines = (
        "the U-Net, frozen, and new beside it:",
        f"**down path and middle copied**, {copied:,}",
        f"**an encoder** of the outline, {counts.encoder:,}",
        f"**{len(numbers.residuals)} convolutions** to the U-Net, first at **0**, {counts.zero:,}",
    )
    drawing.lines(x, TEXT, lines)


def _squares(drawing: Drawing, numbers: Numbers) -> None:
    """Each model as a square, its new numbers as another beside it, both to scale."""
    drawing.line([(kit.MARGIN, 452), (kit.WIDTH - kit.MARGIN, 452)], kit.HAIRLINE, line=1)
    foot = SQUARES + SQUARE
    for left, pitch, kind in zip(COLUMNS, (130, 140, 176), ("row", "lora", "control"), strict=True):
        for x, name, counts in ((left, "Pocket", numbers.pocket), (left + pitch, "SD 1.5", numbers.sd15)):
            new = getattr(counts, kind)
            side = SQUARE * math.sqrt(new / counts.model)
            drawing.rect(x, SQUARES, SQUARE, SQUARE, fill=_hex(PALE), stroke=kit.LINE, radius=0)
            beside = x + SQUARE + 4
            drawing.rect(beside, foot - side, side, side, fill=NEW, radius=0)
            if side < 4:
                middle = {"cx": beside + side / 2 + 4, "cy": foot - side / 2}
                drawing.add("circle", **middle, r=8, fill="none", stroke=NEW, stroke_width=1.5)
            drawing.text(x, SQUARES - 10, name, bold=True)
            drawing.text(x, foot + 22, f"+{new:,}", colour=NEW, bold=True)
            share = (f"{_percent(new / counts.model)} of", f"{counts.model:,}")
            drawing.lines(x, foot + 40, share, size=kit.SMALL, colour=kit.SECOND)
    x = kit.MARGIN
    for fill, stroke, word in ((_hex(PALE), kit.LINE, "frozen: U-Net, text encoder, VAE"), (NEW, None, "new")):
        drawing.rect(x, LEGEND - 11, 12, 12, fill=fill, stroke=stroke, radius=0)
        drawing.text(x + 20, LEGEND, word, size=kit.SMALL)
        x += 20 + kit.text_width(word, kit.SMALL) + 24
    drawing.add("circle", cx=x + 8, cy=LEGEND - 5, r=8, fill="none", stroke=NEW, stroke_width=1.5)
    drawing.text(x + 24, LEGEND, "new, too small to see; areas to scale within each model", size=kit.SMALL)


def _percent(share: float) -> str:
    """A share as per cent with one or two digits that count, never in powers of ten."""
    digits = max(0, -math.floor(math.log10(100 * share)))
    return f"{100 * share:.{digits}f} %"


def _grey(sizes: Tensor) -> np.ndarray:
    """Sizes of frozen numbers (rows, columns) in a few levels of grey, the largest tenth alike."""
    level = (sizes / sizes.quantile(0.9)).clamp(0, 1).mul(LEVELS - 1).round().div(LEVELS - 1).numpy()[..., None]
    return (np.array(PALE) + level * (np.array(DARK) - np.array(PALE))).round().astype(np.uint8)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{value:02X}" for value in colour)
