"""The exercises of lesson 03: the skips of a U-Net, how far convolutions see, and a clock to be read."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz


def skip_channels(widths: Sequence[int], layers: int) -> list[int]:
    """The channels of every skip connection of a Stable Diffusion U-Net, in the order in which they are made."""
    channels = [widths[0]]  # of the first convolution
    for level, width in enumerate(widths):
        channels += [width] * layers
        if level < len(widths) - 1:
            channels.append(width)  # of the convolution that halves the picture
    return channels


def sees(layers: Sequence[str]) -> int:
    """The width of the receptive field of a chain of 3 x 3 convolutions, some of which halve the picture."""
    width, apart = 1, 1  # of the input: how many places are seen, and how far neighbours of this layer are apart
    for layer in layers:
        width += 2 * apart
        if layer == "halve":
            apart *= 2
    return width


def waves(t: Tensor, half: int, period: float = 10_000) -> Tensor:
    """The time code of t (B,), cosines first: (B, 2 half)."""
    angles = t[:, None].float() * period ** (-torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def read_clock(code: Tensor) -> Tensor:
    """The timesteps whose codes are nearest: (B,) whole numbers."""
    return torch.cdist(code, waves(torch.arange(1000), code.shape[1] // 2)).argmin(dim=1)


SKIP_CHANNELS = Exercise(
    name="03.skip_channels",
    solution=skip_channels,
    cases=[([64, 128, 192], 1), ([320, 640, 1280, 1280], 2), ([32, 64], 3)],
    hints=(
        "Follow the diagram from its upper left: what is kept at the first level, and in which order?",
        "The first convolution is kept too, before all blocks. Then each level gives one for each of its resnets.",
        "Every level but the lowest gives one more, with its own channels: the convolution that halves the picture.",
    ),
    mistakes=(
        Mistake(
            lambda widths, layers: skip_channels(widths, layers)[1:],
            "one is missing at the start: the first convolution, before all blocks, is kept for a skip too.",
        ),
        Mistake(
            lambda widths, layers: [*skip_channels(widths, layers), widths[-1]],
            "one too many: the lowest level has nothing below it, so nothing is halved there.",
        ),
        Mistake(
            lambda widths, layers: [widths[0]] + [width for width in widths for _ in range(layers)],
            "the convolutions that halve the picture are kept as well: one more for every level but the lowest.",
        ),
        Mistake(
            lambda widths, layers: skip_channels(widths, layers)[::-1],
            "right, but in the order of the expanding path, which takes the last one first.",
        ),
        Mistake(
            lambda widths, layers: _halved_into_next(widths, layers),
            "a convolution that halves the picture keeps its channels; they change in the level below.",
        ),
    ),
)


def _halved_into_next(widths: Sequence[int], layers: int) -> list[int]:
    channels = [widths[0]]
    for width, below in zip(widths, [*widths[1:], None], strict=True):
        channels += [width] * layers
        channels += [] if below is None else [below]
    return channels


SEES = Exercise(
    name="03.sees",
    solution=sees,
    cases=[(["conv"] * 3,), (["conv", "halve", "conv", "halve", "conv"],), (["halve", "halve"],), ([],)],
    hints=(
        "Begin with one convolution: 3 places. How many does a second one add at each side?",
        "Walk along the chain with two numbers: how wide the field is, and how far apart neighbours are, in places of "
        "the input.",
        "A layer of 3 x 3 adds its two neighbours, each as far away as neighbours are. After a halving they are twice "
        "as far apart.",
    ),
    mistakes=(
        Mistake(
            lambda layers: 1 + 2 * len(layers),
            "right without halving. Below a halving two neighbours are two places of the input apart, then four.",
        ),
        Mistake(
            lambda layers: 3 ** len(layers),
            "fields do not multiply: a second convolution adds one place at each side, 3, 5, 7 places.",
        ),
        Mistake(
            lambda layers: _early(layers),
            "the layer that halves still looks at neighbours of the old distance; only what follows sees farther.",
        ),
        Mistake(
            lambda layers: 1 + sum(2 for layer in layers if layer == "conv"),
            "a layer that halves is a convolution of 3 x 3 too, so it sees its neighbours as well.",
        ),
    ),
)


def _early(layers: Sequence[str]) -> int:
    width, apart = 1, 1
    for layer in layers:
        apart *= 2 if layer == "halve" else 1
        width += 2 * apart
    return width


def _codes() -> list[tuple[Tensor]]:
    t = torch.tensor([0, 1, 2, 7, 63, 400, 401, 640, 998, 999])
    noise = torch.randn(len(t), 64, generator=torch.Generator().manual_seed(3))
    return [(waves(t, 32) + 0.01 * noise,), (waves(t, 8),)]


def _slowest(code: Tensor) -> Tensor:
    half = code.shape[1] // 2
    return (torch.acos(code[:, half - 1].clamp(-1, 1)) * 10_000 ** ((half - 1) / half)).round().long()


READ_CLOCK = Exercise(
    name="03.read_clock",
    solution=read_clock,
    cases=_codes,
    hints=(
        "There are only a thousand possible answers.",
        "Make the codes of all thousand timesteps, and ask of each given code which of them is nearest.",
        "`torch.cdist(code, known)` gives all distances, (B, 1000); `argmin` along dim 1 gives the nearest.",
    ),
    mistakes=(
        Mistake(
            _slowest,
            "one wave alone is not exact: noise in it is many timesteps. Use all the numbers of the code.",
        ),
        Mistake(
            lambda code: torch.cdist(
                code, waves(torch.arange(1000), code.shape[1] // 2).roll(code.shape[1] // 2, 1)
            ).argmin(dim=1),
            "sines and cosines have changed places: the cosines come first.",
        ),
        Mistake(
            lambda code: torch.cdist(code, waves(torch.arange(1000), code.shape[1] // 2)).min(dim=1).values,
            "this is the distance to the nearest code. Asked is which code it is: argmin.",
        ),
        Mistake(
            lambda code: torch.cdist(code, waves(torch.arange(1000), code.shape[1] // 2)).argmax(dim=1),
            "this is the timestep whose code is farthest away.",
        ),
        Mistake(
            lambda code: (torch.atan2(code[:, code.shape[1] // 2], code[:, 0]) % (2 * math.pi)).round().long(),
            "the fastest wave turns every 6.28 timesteps: it cannot tell 1 from 7.3. Use all the numbers.",
        ),
    ),
)

EXERCISES = (SKIP_CHANNELS, SEES, READ_CLOCK)

CUT_WIRE = Quiz(
    name="03.cut_wire",
    question="You cut a wire of another network, and its error stays as it was. What follows?",
    options=(
        Option(
            "The wire carries nothing that matters for the task",
            "Skip 1 carries more of the noise than skip 0, and to cut it costs far less. What is on a wire is found by "
            "reading it.",
        ),
        Option(
            "The network, as it is, does well without what the wire carries",
            "It has learnt not to need it, or to get it from elsewhere. Whether anything is on the wire is another "
            "question, and needs another test.",
            right=True,
        ),
        Option(
            "A network trained without this wire would do as well",
            "Perhaps, but the cut does not show it: this one was trained with the wire, and training may have needed "
            "it. Nor does a large loss show the opposite: a new network might learn another way.",
        ),
    ),
)

CLOCK = Quiz(
    name="03.clock",
    question="A network was trained without being told the time at all. Could it still remove noise?",
    options=(
        Option(
            "No, it would not know where to begin",
            "How strong the noise is can be seen: a grainy picture looks grainy. It would have to guess the strength, "
            "and often guess well.",
        ),
        Option(
            "Yes, but it has to guess how much there is",
            "Much of the strength shows in the picture itself, and such networks work, if less well. Being told spares "
            "the guess, which matters most where grain and detail look alike.",
            right=True,
        ),
        Option(
            "Yes, just as well",
            "A wrong clock changed the answer in every picture above, so the network does rely on being told. Without "
            "it the same latent can mean more than one thing.",
        ),
    ),
)

PRICE = Quiz(
    name="03.price",
    question="You double the side of the picture, in pixels. By how much does the number of self-attention shares at "
    "the top level grow?",
    options=(
        Option(
            "Twice",
            "That is the side. The number of places grows with the area, and each place looks at all places.",
        ),
        Option(
            "Four times",
            "That is the number of places. Each of them now also looks at four times as many.",
        ),
        Option(
            "Sixteen times",
            "Four times as many places, each of which looks at four times as many: that is why large pictures need so "
            "much memory.",
            right=True,
        ),
    ),
)

QUIZZES = (CUT_WIRE, CLOCK, PRICE)
