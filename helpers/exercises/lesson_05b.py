"""The exercises of lesson 05b: attention without some tokens, and how few positions suffice. And its quiz."""

from collections.abc import Callable

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz


def attend(q: Tensor, k: Tensor, v: Tensor, gone: list[int]) -> Tensor:
    """One head's attention (Vaswani et al., 2017, equation 1) to all tokens but those at the positions `gone`.

    q: (B, N, d), k and v: (B, T, d). Returns (B, N, d).
    """
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (B, N, T)
    scores[..., gone] = -float("inf")
    return scores.softmax(dim=-1) @ v


def _qkv() -> list[tuple[Tensor, Tensor, Tensor, list[int]]]:
    generator = torch.Generator().manual_seed(4)
    q, k, v = (2 * torch.randn(shape, generator=generator) for shape in ((2, 6, 4), (2, 5, 4), (2, 5, 4)))
    return [(q, k, v, [1]), (q, k, v, [0, 3, 4]), (q[:1], k[:1], v[:1], [])]


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5


def _at(x: Tensor, gone: list[int], value: float) -> Tensor:
    """x with a value in the columns `gone` of its last dimension."""
    x = x.clone()
    x[..., gone] = value
    return x


ATTEND = Exercise(
    name="05b.attend",
    solution=attend,
    cases=_qkv,
    hints=(
        "A token that cannot be read has a share of 0, and the other shares still add up to 1.",
        "The text encoder's mask does it too. What does it add to the scores of later tokens?",
        "Set the scores of the tokens `gone` to minus infinity before the softmax.",
    ),
    mistakes=(
        Mistake(
            lambda q, k, v, gone: _at(_scores(q, k).softmax(dim=-1), gone, 0.0) @ v,
            "the shares that are left no longer add up to 1: take the tokens out before the softmax.",
        ),
        Mistake(
            lambda q, k, v, gone: _at(_scores(q, k), gone, 0.0).softmax(dim=-1) @ v,
            "a score of 0 is a score like others, and gets a share: e to the power of 0 is 1.",
        ),
        Mistake(
            lambda q, k, v, gone: _at(q @ k.transpose(-1, -2), gone, -float("inf")).softmax(dim=-1) @ v,
            "the scores are not divided by the root of d yet.",
        ),
        Mistake(
            lambda q, k, v, gone: _at(_scores(q, k) / q.shape[-1] ** 0.5, gone, -float("inf")).softmax(dim=-1) @ v,
            "the scores are divided by d; it is the root of d.",
        ),
        Mistake(
            lambda q, k, v, gone: _at(_scores(q, k).softmax(dim=-1), gone, -float("inf")) @ v,
            "minus infinity belongs among the scores, before the softmax, not among the shares.",
        ),
        Mistake(
            lambda q, k, v, gone: _scores(q, k).softmax(dim=-1) @ v,
            "this reads all tokens: those at the positions `gone` must get no share.",
        ),
    ),
)


Brings = Callable[[list[int]], bool]


def shrink(positions: list[int], brings: Brings) -> list[int]:
    """What is left of `positions`, when each is left out in turn and comes back if the others do not bring it."""
    kept = list(positions)
    for one in positions:
        rest = [position for position in kept if position != one]
        if brings(rest):
            kept = rest
    return kept


def _without(positions: list[int], one: int) -> list[int]:
    return [position for position in positions if position != one]


def _left_out(positions: list[int], brings: Brings) -> list[int]:
    kept = shrink(positions, brings)
    return [one for one in positions if one not in kept]


def _upside_down(positions: list[int], brings: Brings) -> list[int]:
    return shrink(positions, lambda rest: not brings(rest))


SHRINK = Exercise(
    name="05b.shrink",
    solution=shrink,
    cases=(
        ([14, 15, 16, 17], lambda positions: 16 in positions),
        ([14, 15, 16, 17, 18], lambda positions: 15 in positions and 18 in positions),
        ([19, 20, 21], lambda positions: 19 in positions or 21 in positions),
        ([14, 15, 16, 17], lambda positions: len(positions) >= 2),
    ),
    hints=(
        "Begin with a copy of all positions, and let it get smaller.",
        "For each position: what is the rest without it, and does that rest bring it?",
        "If the rest brings it, the rest is the list to go on with. Always ask about what is left now, not about all.",
    ),
    mistakes=(
        Mistake(
            lambda positions, brings: [one for one in positions if brings([one])],
            "these bring it alone. Two that do it only together are missed: leave out, and see what still brings it.",
        ),
        Mistake(
            lambda positions, brings: [one for one in positions if not brings(_without(positions, one))],
            "each was left out of all positions. Where either of two is enough, both go: what is out must stay out.",
        ),
        Mistake(_left_out, "these are the positions left out: give those that are left."),
        Mistake(_upside_down, "a position stays out if the others *do* bring it."),
        Mistake(lambda positions, brings: list(positions), "nothing was left out yet."),
    ),
)


NO_PADDING = Quiz(
    name="05b.no_padding",
    question="Without the padding the judge reads the first thing in its colour at least as often as with all vectors. "
    "What follows from this alone?",
    options=(
        Option("The padding is never read", "The table's last column: without the padding most grounds are lost."),
        Option(
            "Start, words and end together carry it",
            "They are all that was left. Which of them it takes, other rows must tell.",
            right=True,
        ),
        Option(
            "left of a carries it by itself",
            "All the words were left: this row does not tell them apart. The last row keeps left of a alone.",
        ),
        Option(
            "No padding holds it",
            "Holding is another test: which vectors change. In the first figure position 18 has a dot for thing 1.",
        ),
    ),
)

EXERCISES = (ATTEND, SHRINK)
QUIZZES = (NO_PADDING,)
