"""Which numbers textual inversion, LoRA and full fine-tuning train, and how many they are beside the frozen ones."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from helpers.loading import load_pipeline
from tests.pipelines import sd15
from tools.diagrams import kit
from tools.diagrams.kit import Drawing

SENTENCE, NEW_WORD = ("a", "<flamingo>", "on", "blue", "background"), "<flamingo>"
RANK = 4  # of LoRA
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")  # as in the lesson on fine-tuning

NEW = kit.GUIDANCE  # the bright of "bright on grey"
PALE, DARK = (0xE6, 0xEA, 0xEF), (0x9A, 0xA4, 0xB1)  # frozen numbers, from near 0 to large
FAINT, BRIGHT = (0xF4, 0xB9, 0xC9), (0xC0, 0x10, 0x4A)  # the same for numbers that are trained
LEVELS = 6  # of grey, so that the pictures stay small
COLUMNS = (28, 290, 616)
SQUARE = 92  # the whole model as a square
SQUARES, TEXT, LEGEND = 492, 380, 680  # where their row begins, the text above it, the legend below it


@dataclass
class Counts:
    """How many numbers a pipeline has, and how many of its own or of new ones each method trains."""

    model: int
    row: int
    lora: int
    matrices: int  # that get a LoRA
    unet: int


@dataclass
class Numbers:
    """Pocket and Stable Diffusion 1.5 counted, and what the drawing shows of Pocket."""

    pocket: Counts
    sd15: Counts
    table: Tensor  # (tokens, width), the embeddings
    ids: dict[str, int]
    matrix: Tensor  # (out, in), keys of the first layer


@torch.no_grad()
def measure() -> Numbers:
    """Counts of the live model; those of Stable Diffusion 1.5 come from its configuration, without its weights."""
    pipe = load_pipeline("pocket", device="cpu")
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**sd15.UNET), AutoencoderKL(**sd15.VAE)
        full = count(unet, CLIPTextModel(CLIPTextConfig(**sd15.TEXT)), vae)
    matrix = next(module for name, module in pipe.unet.named_modules() if name.endswith("attn2.to_k")).weight.detach()
    ids = pipe.tokenizer.convert_tokens_to_ids
    return Numbers(
        pocket=count(pipe.unet, pipe.text_encoder, pipe.vae),
        sd15=full,
        table=pipe.text_encoder.get_input_embeddings().weight.detach(),
        ids={word: ids(f"{word}</w>") for word in SENTENCE if word != NEW_WORD},
        matrix=matrix,
    )


def count(unet: nn.Module, text: nn.Module, vae: nn.Module) -> Counts:
    adapted = [module for name, module in unet.named_modules() if name.endswith(ADAPTED)]
    return Counts(
        model=sum(map(_size, (unet, text, vae))),
        row=text.get_input_embeddings().weight.shape[1],
        lora=sum(RANK * (module.in_features + module.out_features) for module in adapted),
        matrices=len(adapted),
        unet=_size(unet),
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
        f"{pocket.row:,} or {pocket.lora:,} new numbers beside {pocket.model:,} frozen ones, or {pocket.unet:,} of "
        "these trained",
        "Numbers that are trained are bright, frozen ones grey. Left, textual inversion: the table of "
        f"{len(numbers.table)} token rows gets one more, for {NEW_WORD}. Middle, LoRA: beside a frozen matrix of "
        f"{outside} × {inside} stand A, {RANK} × {inside}, and B, {outside} × {RANK}; {pocket.matrices} matrices "
        "of the U-Net, most of them larger, get a pair each. Right, full fine-tuning: the same matrix is bright, and "
        f"with it all {pocket.unet:,} weights of the U-Net; none is new. Below, each model, with its U-Net, text "
        "encoder and VAE, as a square of the same size. New numbers stand to scale beside it; with full fine-tuning "
        f"the U-Net’s part of the square is bright. Pocket: {pocket.row:,}, {pocket.lora:,} and {pocket.unet:,}, of "
        f"{pocket.model:,}. Stable Diffusion 1.5: {full.row:,}, {full.lora:,} and {full.unet:,}, of {full.model:,}.",
    )
    heads = ("Textual inversion", "LoRA", "Full fine-tuning")
    for number, (x, head) in enumerate(zip(COLUMNS, heads, strict=True), start=1):
        drawing.station(x + 11, 40, number, head)
    _row(drawing, numbers)
    _pair(drawing, numbers)
    _whole(drawing, numbers)
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


def _whole(drawing: Drawing, numbers: Numbers) -> None:
    """The matrix of `_pair`, every number of it bright."""
    outside, inside = numbers.matrix.shape
    side = 244 / inside
    left, top = COLUMNS[2], 140
    bottom = top + outside * side
    drawing.picture(left, top, inside * side, outside * side, _shades(numbers.matrix.abs(), FAINT, BRIGHT))
    drawing.text(left, bottom + 19, f"$W$  {outside} × {inside}, every number may change", colour=NEW)
    formula = (("$y$ = ", kit.INK), ("$W$", NEW), ("$x$", kit.INK))
    drawing.formula(left + inside * side / 2, bottom + 60, formula, font_size=23, text_anchor="middle")
    lines = (
        "no new numbers",
        f"**all old ones**: the {inside * outside:,} of this matrix,",
        f"and with the rest of the U-Net {numbers.pocket.unet:,}",
    )
    drawing.lines(left, TEXT, lines)


def _squares(drawing: Drawing, numbers: Numbers) -> None:
    """Each model as a square; what is trained lies beside it, or in it where it is the model's own, to scale."""
    drawing.line([(kit.MARGIN, 452), (kit.WIDTH - kit.MARGIN, 452)], kit.HAIRLINE, line=1)
    foot = SQUARES + SQUARE
    for left, pitch, kind in zip(COLUMNS, (130, 140, 150), ("row", "lora", "unet"), strict=True):
        for x, name, counts in ((left, "Pocket", numbers.pocket), (left + pitch, "SD 1.5", numbers.sd15)):
            trained, own = getattr(counts, kind), kind == "unet"
            side = SQUARE * math.sqrt(trained / counts.model)
            drawing.rect(x, SQUARES, SQUARE, SQUARE, fill=_hex(PALE), stroke=kit.LINE, radius=0)
            start = x if own else x + SQUARE + 4
            drawing.rect(start, foot - side, side, side, fill=NEW, radius=0)
            if side < 4:
                middle = {"cx": start + side / 2 + 4, "cy": foot - side / 2}
                drawing.add("circle", **middle, r=8, fill="none", stroke=NEW, stroke_width=1.5)
            drawing.text(x, SQUARES - 10, name, bold=True)
            drawing.text(x, foot + 22, f"{trained:,}" if own else f"+{trained:,}", colour=NEW, bold=True)
            share = (f"{_percent(trained / counts.model)} of", f"{counts.model:,}")
            drawing.lines(x, foot + 40, share, size=kit.SMALL, colour=kit.SECOND)
    x = kit.MARGIN
    for fill, stroke, word in ((_hex(PALE), kit.LINE, "frozen: U-Net, text encoder, VAE"), (NEW, None, "trained")):
        drawing.rect(x, LEGEND - 11, 12, 12, fill=fill, stroke=stroke, radius=0)
        drawing.text(x + 20, LEGEND, word, size=kit.SMALL)
        x += 20 + kit.text_width(word, kit.SMALL) + 24
    drawing.add("circle", cx=x + 8, cy=LEGEND - 5, r=8, fill="none", stroke=NEW, stroke_width=1.5)
    drawing.text(x + 24, LEGEND, "trained, hard to see; areas to scale within each model", size=kit.SMALL)


def _percent(share: float) -> str:
    """A share as per cent with one or two digits that count, never in powers of ten."""
    digits = max(0, -math.floor(math.log10(100 * share)))
    return f"{100 * share:.{digits}f} %"


def _grey(sizes: Tensor) -> np.ndarray:
    return _shades(sizes, PALE, DARK)


def _shades(sizes: Tensor, low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    """Sizes of numbers (rows, columns) in a few shades from the colour low to high, the largest tenth alike."""
    level = (sizes / sizes.quantile(0.9)).clamp(0, 1).mul(LEVELS - 1).round().div(LEVELS - 1).numpy()[..., None]
    return (np.array(low) + level * (np.array(high) - np.array(low))).round().astype(np.uint8)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{value:02X}" for value in colour)
