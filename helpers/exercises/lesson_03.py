"""The exercise of lesson 03: how far convolutions see."""

from collections.abc import Sequence

from helpers.exercises import Exercise, Mistake, Option, Quiz


def sees(layers: Sequence[str]) -> int:
    """The width of the receptive field of a chain of 3 x 3 convolutions, some of which halve the picture."""
    width, apart = 1, 1  # of the input: how many places are seen, and how far neighbours of this layer are apart
    for layer in layers:
        width += 2 * apart
        if layer == "halve":
            apart *= 2
    return width


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


EXERCISES = (SEES,)

CUT_WIRE = Quiz(
    name="03.cut_wire",
    question="You cut a connection of another network, and its error stays as it was. What follows?",
    options=(
        Option(
            "The connection carries nothing that matters for the task",
            "The error shows what the network needs, not what the connection carries. Nor does one timestep speak for "
            "all: to lose what level 1 gets from level 2 costs 2 per cent at t = 100, and 32 at t = 900.",
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
            "Sun et al. (2025, arXiv:2502.13129) trained several kinds of denoising models without it. Most got "
            "somewhat worse without breaking down, and some even did better.",
            right=True,
        ),
        Option(
            "Only if all its latents are equally noisy",
            "Then there would be nothing to tell. But a latent also shows how noisy it is, so a network can learn to "
            "judge that for itself.",
        ),
    ),
)

QUIZZES = (CUT_WIRE, CLOCK)
