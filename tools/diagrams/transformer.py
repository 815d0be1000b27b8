"""A transformer of two blocks beside the U-Net, drawn to one scale, and both counted."""

from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import sampling
from helpers.loading import load_pipeline
from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing

PROMPT, SEED, STEPS, T = "a fox on a blue background", 0, 20, 501
BLOCKS, HEADS = 2, 4
WIDTHS = range(64, 513, 64)  # the one whose compute comes nearest to the U-Net's is drawn

PLACE, NUMBER = 0.75, 0.25  # px of a place upwards, and of a number at it sideways
TILE = 96
INNER = (148, 812)  # between the pictures
UNET_MIDDLE, TRANSFORMER_TOP = 196, 510


class Block(nn.Module):
    """Attention among all tokens, then an MLP on each: the adaLN block of Peebles & Xie (2022), arXiv:2212.09748."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        """tokens: (B, n, width). time: (B, width)."""
        shift, scale, gate, shift2, scale2, gate2 = self.time(time)[:, None].chunk(6, dim=-1)
        tokens = tokens + gate * self.attention(self.norms[0](tokens) * (1 + scale) + shift)
        return tokens + gate2 * self.mlp(self.norms[1](tokens) * (1 + scale2) + shift2)

    def attention(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, n, d)
        shares = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)  # (B, heads, n, n)
        return self.out((shares @ v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Predicts the noise as a U-Net does, from one token for every place of the latent and one for every word."""

    def __init__(self, width: int, channels: int, places: int, words_width: int) -> None:
        super().__init__()
        self.width = width
        self.patch, self.words = nn.Linear(channels, width), nn.Linear(words_width, width)
        self.position = nn.Parameter(torch.zeros(places, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(BLOCKS))
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.norm, self.head = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, channels)

    def forward(self, x_t: Tensor, t: Tensor, words: Tensor) -> Tensor:
        """x_t: (B, channels, h, w). t: (B,). words: (B, tokens, words_width). Returns the shape of x_t."""
        time = self.time(get_timestep_embedding(t, self.width))
        places = self.patch(x_t.flatten(2).transpose(1, 2)) + self.position  # (B, h w, width)
        tokens = torch.cat([places, self.words(words)], dim=1)
        for block in self.blocks:
            tokens = block(tokens, time)
        shift, scale = self.last(time)[:, None].chunk(2, dim=-1)
        answer = self.head(self.norm(tokens[:, : places.shape[1]]) * (1 + scale) + shift)
        return answer.transpose(1, 2).unflatten(2, x_t.shape[2:])


@dataclass
class Stage:
    """What leaves one part of the U-Net: so many `numbers` at each place of a grid."""

    part: str  # convolution, down, middle or up
    numbers: int
    rows: int
    columns: int
    hears: bool  # whether the time and the words come in here

    @property
    def places(self) -> int:
        return self.rows * self.columns


@dataclass
class Sizes:
    stages: list[Stage]
    width: int
    places: int
    words: int
    weights: tuple[int, int]  # of the U-Net and the transformer
    flops: tuple[int, int]  # of one answer
    x_t: Tensor
    noise: Tensor  # the U-Net's answer


@torch.no_grad()
def measure() -> Sizes:
    """Shapes and cost of the live U-Net, and of the transformer of the width that comes nearest to its cost."""
    pipe = load_pipeline("pocket", device="cpu")
    unet = pipe.unet
    step = next(one for one in sampling.denoise(pipe, PROMPT, seed=SEED, steps=STEPS) if one.t == T)
    words, _ = pipe.encode_prompt(PROMPT, pipe.device, 1, False)
    unet.set_attn_processor(AttnProcessor())  # with plain products, all of which the counter knows
    stages: list[Stage] = []
    hooks = []

    def watch(module: nn.Module, part: str, hears: bool) -> None:
        def see(_: nn.Module, args: tuple, output: object) -> None:
            seen = output if isinstance(output, Tensor) else output[0]
            stages.append(Stage(part, *seen.shape[1:], hears))

        hooks.append(module.register_forward_hook(see))

    watch(unet.conv_in, "convolution", False)
    for part, blocks in (("down", unet.down_blocks), ("up", unet.up_blocks)):
        for block in blocks:
            for module in block.attentions:
                watch(module, part, True)
            for module in (block.downsamplers if part == "down" else block.upsamplers) or []:
                watch(module, "convolution", False)
    watch(unet.mid_block, "middle", True)
    watch(unet.conv_out, "convolution", False)
    flops = cost(unet, step.latents, torch.tensor(T), words)
    for hook in hooks:
        hook.remove()

    _, channels, *sides = step.latents.shape
    places = sides[0] * sides[1]
    with torch.device("meta"):
        models = [Transformer(width, channels, places, words.shape[2]) for width in WIDTHS]
        example = (step.latents.to("meta"), torch.zeros(1, dtype=torch.long), words.to("meta"))
        costs = [cost(model, *example) for model in models]
    nearest = min(range(len(models)), key=lambda number: abs(costs[number] - flops))
    return Sizes(
        stages=stages,
        width=models[nearest].width,
        places=places,
        words=words.shape[1],
        weights=tuple(sum(weight.numel() for weight in model.parameters()) for model in (unet, models[nearest])),
        flops=(flops, costs[nearest]),
        x_t=step.latents,
        noise=step.noise_text,
    )


def cost(model: nn.Module, *inputs: Tensor) -> int:
    """Floating point operations of one call, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops()


def draw() -> list[Drawing]:
    sizes = measure()
    fewest, fewer = min(stage.places for stage in sizes.stages), sizes.weights[0] / sizes.weights[1]
    drawing = Drawing(
        "transformer",
        822,
        f"No U: the transformer keeps {sizes.places} places; {fewer:.1f} times fewer numbers at nearly equal compute",
        f"Two machines from the noisy latent x_t (seed {SEED}, t = {T}) to its noise, to one scale: a bar is as high "
        f"as there are places and as wide as there are numbers at each. Above, Pocket’s U-Net: {len(sizes.stages)} "
        f"bars, convolutions that halve or double the grid included, fall from {sizes.places} places to {fewest} and "
        f"rise again, joined by skips; time and words enter from below. Under it, a transformer of {BLOCKS} blocks: "
        f"every bar has {sizes.places} places of "
        f"{sizes.width} numbers, with {sizes.words} tokens of text beside them, green. In attention a place looks at "
        f"all {sizes.places + sizes.words}, in the MLP each token goes its own way; the time scales, shifts and "
        f"gates both. The U-Net has {sizes.weights[0]:,} numbers and takes {sizes.flops[0] / 1e9:.2f} GFLOP for one "
        f"answer, the transformer {sizes.weights[1]:,} and {sizes.flops[1] / 1e9:.2f}. The transformer is not trained: "
        "its noise is not shown.",
    )
    for number, (y, head) in enumerate(((40, "U-Net"), (440, "Transformer")), start=1):
        note = f"{sizes.weights[number - 1]:,} numbers, {sizes.flops[number - 1] / 1e9:.2f} GFLOP for one answer"
        drawing.station(kit.MARGIN + 11, y, number, head, note)
    _unet(drawing, sizes)
    drawing.line([(kit.MARGIN, 410), (kit.WIDTH - kit.MARGIN, 410)], kit.HAIRLINE, line=1)
    _transformer(drawing, sizes)
    return [drawing]


def _unet(drawing: Drawing, sizes: Sizes) -> None:
    stages, middle = sizes.stages, UNET_MIDDLE
    fills = {"convolution": kit.LINE, "down": kit.DOWN, "middle": kit.MIDDLE, "up": kit.UP}
    widths = [stage.numbers * NUMBER for stage in stages]
    gap = (INNER[1] - INNER[0] - sum(widths)) / (len(stages) - 1)
    lefts = [INNER[0] + sum(widths[:number]) + gap * number for number in range(len(stages))]
    centres = [left + width / 2 for left, width in zip(lefts, widths, strict=True)]
    halves = [stage.places * PLACE / 2 for stage in stages]
    _ends(drawing, sizes, middle, answer=True)
    drawing.arrow([(kit.MARGIN + TILE + 3, middle), (lefts[0] - 3, middle)], kit.XT)
    drawing.arrow([(lefts[-1] + widths[-1] + 3, middle), (INNER[1] + 21, middle)], kit.EPS)

    risers = [number for number, stage in enumerate(stages) if stage.part == "up"]
    for number, partner in enumerate(reversed(risers)):
        y = 66 + 5 * number
        ends = [(centres[one], middle - halves[one] - 2) for one in (number, partner)]
        drawing.line([ends[0], (ends[0][0], y), (ends[1][0], y), ends[1]], kit.LINE, line=1, radius=6)
    time, words = 316, 338
    heard = [number for number, stage in enumerate(stages) if stage.hears]
    for y, colour, name, shift in ((time, kit.LINE, f"t = {T}", -4), (words, kit.WORDS, f"{sizes.words} tokens", 4)):
        drawing.line([(100, y), (centres[heard[-1]] + shift, y)], colour, line=2)
        for number in heard:
            x, foot = centres[number] + shift, middle + halves[number] + 6
            drawing.line([(x, y), (x, foot)], colour, line=1)
            _mark(drawing, x, foot, colour)
        special = colour == kit.LINE
        drawing.chip(
            kit.MARGIN,
            y - 9,
            name,
            width=76,
            height=18,
            colour=kit.SECOND if special else kit.WORDS,
            fill=kit.WHITE if special else kit.WORDS_TINT,
        )
    for number, (left, width, stage) in enumerate(zip(lefts, widths, stages, strict=True)):
        drawing.rect(left, middle - halves[number], width, 2 * halves[number], fill=fills[stage.part], radius=1.5)
        drawing.text(centres[number], 366, str(stage.numbers), size=kit.SMALL, colour=kit.SECOND, anchor="middle")
    for number in range(1, len(stages)):
        ends = (lefts[number - 1] + widths[number - 1] + 2, lefts[number] - 2)
        drawing.line([(ends[0], middle), (ends[1], middle)], kit.LINE, line=2)
    x = kit.WIDTH - kit.MARGIN
    for part in ("up", "middle", "down", "convolution"):
        x -= kit.text_width(part, kit.SMALL)
        drawing.text(x, 45, part, size=kit.SMALL)
        drawing.rect(x - 17, 35, 11, 11, fill=fills[part], radius=1.5)
        x -= 32
    drawing.text(kit.MARGIN, 366, "numbers each", size=kit.SMALL, colour=kit.SECOND)
    drawing.text(kit.MARGIN, 388, "places", size=kit.SMALL, colour=kit.SECOND)
    first = 0
    for number in range(1, len(stages) + 1):
        if number == len(stages) or stages[number].places != stages[first].places:
            left, right = lefts[first], lefts[number - 1] + widths[number - 1]
            drawing.line([(left, 374), (right, 374)], kit.LINE, line=1)
            grid = f"{stages[first].rows} × {stages[first].columns}"
            drawing.text((left + right) / 2, 388, grid, size=kit.SMALL, anchor="middle")
            first = number


def _transformer(drawing: Drawing, sizes: Sizes) -> None:
    top, high, wide = TRANSFORMER_TOP, sizes.places * PLACE, sizes.width * NUMBER
    foot, beside = top + high, sizes.words * PLACE
    middle, count = top + high / 2, 2 * BLOCKS + 1
    gap = (INNER[1] - INNER[0] - count * wide) / (count - 1)
    lefts = [INNER[0] + number * (wide + gap) for number in range(count)]
    _ends(drawing, sizes, middle, answer=False)
    drawing.arrow([(kit.MARGIN + TILE + 3, middle), (lefts[0] - 3, middle)], kit.XT)
    drawing.arrow([(lefts[-1] + wide + 3, middle), (INNER[1] + 21, middle)], kit.EPS)
    y = foot + 2 + beside / 2
    end = drawing.chip(kit.MARGIN, y - 9, f"{sizes.words} tokens", width=76, height=18)
    drawing.arrow([(end + 3, y), (lefts[0] - 3, y)], kit.WORDS)

    tokens = sizes.places + sizes.words
    place = 0.5 + sizes.places * 0.55  # one of them, to be followed
    for number in range(count - 1):
        left, right = lefts[number] + wide + 2, lefts[number + 1] - 2
        attention = number % 2 == 0
        for token in range(3, tokens, 8):
            at = top + token * PLACE + (2 if token >= sizes.places else 0)
            colour = kit.WORDS if token >= sizes.places else kit.LINE
            to = top + place * PLACE if attention else at
            drawing.path(f"M{left:.1f},{at:g} L{right:.1f},{to:g}", stroke=colour, line=1)
        drawing.text(
            (left + right) / 2,
            top - 12,
            f"attention, {tokens} × {tokens}" if attention else "MLP, each alone",
            size=kit.SMALL,
            anchor="middle",
        )
        if attention:
            drawing.text(
                (left + right + wide + gap) / 2, top - 33, f"block {number // 2 + 1}", bold=True, anchor="middle"
            )
    rows = round(sizes.places**0.5)
    for left in lefts:
        drawing.rect(left, top, wide, high, fill=kit.HAIRLINE, stroke=kit.LINE, radius=0)
        for row in range(1, rows):
            drawing.line([(left, top + row * high / rows), (left + wide, top + row * high / rows)], kit.CARD, line=1)
        drawing.rect(left, foot + 2, wide, beside, fill=kit.WORDS, radius=0)
    for left in lefts[1::2]:
        drawing.add("circle", cx=left, cy=top + place * PLACE, r=4.5, fill=kit.INK, stroke=kit.CARD, stroke_width=1.5)
    time = foot + beside + 34
    drawing.line([(100, time), (lefts[-1] + wide + 12, time)], kit.LINE, line=2)
    drawing.chip(kit.MARGIN, time - 9, f"t = {T}", width=76, height=18, colour=kit.SECOND, fill=kit.WHITE)
    for x in [*(left + wide + gap / 2 for left in lefts[:-1]), lefts[-1] + wide + 12]:
        head = middle + 8 if x > lefts[-1] else foot + beside + 8
        drawing.line([(x, time), (x, head)], kit.LINE, line=1)
        _mark(drawing, x, head, kit.LINE)
    drawing.text(lefts[-1] + wide + 19, time + 4.5, "adaptive norm", size=kit.SMALL, colour=kit.SECOND)
    drawing.text(kit.MARGIN, time + 28, "numbers each", size=kit.SMALL, colour=kit.SECOND)
    drawing.text(kit.MARGIN, time + 48, "places", size=kit.SMALL, colour=kit.SECOND)
    for left in lefts:
        drawing.text(left + wide / 2, time + 28, str(sizes.width), size=kit.SMALL, colour=kit.SECOND, anchor="middle")
    drawing.line([(lefts[0], time + 34), (lefts[-1] + wide, time + 34)], kit.LINE, line=1)
    grid = f"{sizes.x_t.shape[2]} × {sizes.x_t.shape[3]}, and {sizes.words} tokens of text"
    drawing.text((INNER[0] + INNER[1]) / 2, time + 48, grid, size=kit.SMALL, anchor="middle")


def _ends(drawing: Drawing, sizes: Sizes, middle: float, *, answer: bool) -> None:
    """The latent at the left, the noise at the right: a frame without a picture if nothing has been answered."""
    right, y = kit.WIDTH - kit.MARGIN - TILE, middle - TILE / 2
    faces = [example.as_colours(one) for one in (sizes.x_t, sizes.noise)]
    drawing.picture(kit.MARGIN, y, TILE, TILE, faces[0], frame=kit.XT)
    drawing.text(kit.MARGIN, y - 10, f"$x_t$, $t$ = {T}", colour=kit.XT)
    drawing.text(right, y - 10, "$ε_θ$", size=17, colour=kit.EPS)
    if answer:
        drawing.picture(right, y, TILE, TILE, faces[1], frame=kit.EPS)
    else:
        drawing.add(
            "rect",
            x=right,
            y=y,
            width=TILE,
            height=TILE,
            rx=1.5,
            fill="none",
            stroke=kit.EPS,
            stroke_width=2,
            stroke_dasharray="6 3",
        )
        drawing.text(right + TILE / 2, middle + 4.5, "not trained", size=kit.SMALL, colour=kit.SECOND, anchor="middle")


def _mark(drawing: Drawing, x: float, y: float, colour: str) -> None:
    """Where the time (a disc) or the words (a diamond) come in."""
    if colour == kit.LINE:
        drawing.add("circle", cx=x, cy=y, r=3.4, fill=colour)
    else:
        drawing.path(f"M{x:.1f},{y - 4.6:.1f} l4.4,4.6 l-4.4,4.6 l-4.4,-4.6 Z", fill=colour)
