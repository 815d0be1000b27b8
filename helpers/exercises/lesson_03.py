"""The exercises of lesson 03: skips swapped between two noises, and how far convolutions see."""

from collections.abc import Sequence

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz


def sees(layers: Sequence[str]) -> int:
    """The width of the receptive field of a chain of 3 x 3 convolutions, some of which halve the picture."""
    width, apart = 1, 1  # of the input: how many places are seen, and how far neighbours of this layer are apart
    for layer in layers:
        width += 2 * apart
        if layer == "halve":
            apart *= 2
    return width


def swap(skip: Tensor) -> Tensor:
    """Each of a batch gets the skip of the one before it, the first that of the last: (B, channels, h, w)."""
    return skip.roll(1, 0)


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


def _skips() -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(shape, generator=generator),) for shape in [(4, 3, 2, 2), (3, 2, 4, 4), (5, 4, 1, 2)]]


SWAP = Exercise(
    name="03.swap",
    solution=swap,
    cases=_skips,
    hints=(
        "Nothing is computed: the same tensors, handed out in another order along the first dimension.",
        "Latent 1 gets what was latent 0's, latent 2 what was latent 1's; and latent 0 what was the last one's.",
        "`torch.roll` shifts a tensor along one dimension and puts what falls off the end at the beginning. Name the "
        "dimension.",
    ),
    mistakes=(
        Mistake(
            lambda skip: skip.roll(1),
            "without a dimension, roll shifts the flattened numbers by one, across rows and channels.",
        ),
        Mistake(
            lambda skip: skip.roll(1, 1),
            "this shifts the channels of each skip. The latents of the batch lie along dimension 0.",
        ),
        Mistake(
            lambda skip: skip.roll(-1, 0),
            "each gets the skip of the one after it: the other way round.",
        ),
        Mistake(
            lambda skip: skip.flip(0),
            "in reverse order the middle one of an odd number keeps its own skip.",
        ),
        Mistake(
            lambda skip: torch.cat([skip[:1], skip[:-1]]),
            "the first one keeps its own skip; it should get that of the last.",
        ),
        Mistake(
            torch.zeros_like,
            "this is the cut. A swap puts in a skip that another noise made.",
        ),
    ),
)

EXERCISES = (SWAP, SEES)

CUT_WIRE = Quiz(
    name="03.cut_wire",
    question="You cut a connection of another network, and its error stays as it was. What follows?",
    options=(
        Option(
            "The connection carries nothing that matters for the task",
            "At t = 100 most of the noise can be read from skip 1, and the network takes a tenth of it from there. "
            "What a connection carries is found by reading it.",
        ),
        Option(
            "The network, as it is, does well without what the connection carries",
            "It has learnt not to need it, or to get it from elsewhere. Whether the connection carries anything is "
            "another question, and needs another test.",
            right=True,
        ),
        Option(
            "A network trained without this connection would do as well",
            "Perhaps, but the cut does not show it: this one was trained with the connection, and training may have "
            "needed it. Nor does a large loss show the opposite: a new network might learn another way.",
        ),
    ),
)

CLOCK = Quiz(
    name="03.clock",
    question="A network is trained without ever being told the time. Can it learn to remove noise?",
    options=(
        Option(
            "No: under a wrong clock the estimates above got worse",
            "That network was trained with a clock, and relies on it. What one trained without a clock would do cannot "
            "be seen by lying to this one: the mistake of the cut connection again.",
        ),
        Option(
            "Yes: how strong the noise is can be seen in the latent",
            "Sun et al. (2025, arXiv:2502.13129) trained many kinds of such models without it. Most lost a little, and "
            "some even did better. But drawn with DDIM, the steps of lesson 02, pictures become clearly worse without "
            "a clock (2026, arXiv:2604.25289).",
            right=True,
        ),
        Option(
            "Only if all its latents are equally noisy",
            "Then there would be nothing to tell. But a latent also shows how noisy it is, so a network can learn to "
            "judge that for itself.",
        ),
    ),
)

SPARE = Quiz(
    name="03.spare",
    question="Each place may look anywhere but at the 9 places it looked at most, and the error hardly rises. What "
    "follows?",
    options=(
        Option(
            "Those 9 places had nothing to give",
            "Alone they bring most of the gain, as the row `only its 9 largest shares` shows.",
        ),
        Option(
            "Other places can stand in for them",
            "Alone, the 9 bring most of the gain; left out, they are not missed. To leave something out shows what "
            "cannot be replaced, not what is of use, as with the cut connection.",
            right=True,
        ),
        Option(
            "It does not matter where a place looks",
            "A plain mean of all places looks everywhere alike, and brings clearly less than the layer's own shares.",
        ),
    ),
)

QUIZZES = (CUT_WIRE, CLOCK, SPARE)
