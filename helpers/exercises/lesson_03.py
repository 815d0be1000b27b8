"""The exercises of lesson 03: exchange what belongs to neighbours of a batch; a head of self-attention."""

import math
from typing import Any

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz


def swap(x: Tensor) -> Tensor:
    """x (batch, ...) in which neighbours 0 and 1, 2 and 3, ... have changed places."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _batches() -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((8, 3, 4, 4), (4, 5, 6), (12, 2, 3), (2, 7))
    return [(torch.randn(shape, generator=generator),) for shape in shapes]


SWAP = Exercise(
    name="03.swap",
    solution=swap,
    cases=_batches,
    hints=(
        "The batch is the first dimension. In which order do you want its parts: 1, 0, 3, and then?",
        "A tensor takes a list of places: `x[[2, 0, 1]]` has the third part first. For a batch of any length, the list "
        "can be computed.",
        "Or without a list: `unflatten(0, (-1, 2))` makes pairs of the first dimension; `flip` turns a dimension "
        "round; `flatten(0, 1)` undoes the pairs.",
    ),
    mistakes=(
        Mistake(
            lambda x: x.roll(1, 0),
            "each gets what belongs to the one before it, as in the section before. Here 0 and 1 give to each other, "
            "then 2 and 3.",
        ),
        Mistake(
            lambda x: x.flip(0),
            "the whole batch is turned round, so the first gets the last, from the other half of guidance. Turn round "
            "each pair.",
        ),
        Mistake(
            lambda x: x.roll(len(x) // 2, 0),
            "the two halves of the batch have changed places. The partner is the neighbour, in the same half.",
        ),
        Mistake(
            lambda x: x.unflatten(0, (-1, 2)).flip(1),
            "the pairs have changed places, but they still stand in a dimension of their own. Give back the shape that "
            "came.",
        ),
        Mistake(
            lambda x: x.flip(1),
            "you turn round the second dimension, inside each picture's part. The batch is the first.",
        ),
        Mistake(
            lambda x: x,
            "nothing has moved: `flip` and `roll` give a new tensor and leave the old one as it is.",
        ),
    ),
)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """How well each query fits each key, (..., places, places): a row for each place that asks."""
    return q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])


def head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """One head of self-attention (Vaswani et al., 2017, equation 1): its answer and its shares.

    q, k, v: (..., places, d). Returns (..., places, d) and (..., places, places).
    """
    shares = _scores(q, k).softmax(dim=-1)
    return shares @ v, shares


def _qkv() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((1, 5, 4), (2, 3, 6, 16), (2, 4, 9, 8))
    return [tuple(2 * torch.randn((3, *shape), generator=generator)) for shape in shapes]


def _from_scores(make: Any, dim: int = -1) -> Any:
    """A wrong answer whose scores are what `make` makes of q and k, with a softmax over dim."""

    def wrong(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        shares = make(q, k).softmax(dim=dim)
        return shares @ v, shares

    return wrong


HEAD = Exercise(
    name="03.head",
    solution=head,
    cases=_qkv,
    hints=(
        "A score is the product of a place's query with another's key, summed up over the d numbers. Which product of "
        "two matrices gives all of them, with a row for each query?",
        "`k.transpose(-1, -2)` turns the last two dimensions of `k` round; `q.shape[-1]` is d.",
        "`softmax(dim=-1)` makes each row of the scores positive and its sum 1. The answer is the matrix of shares "
        "times the values.",
    ),
    mistakes=(
        Mistake(
            _from_scores(lambda q, k: q @ k.transpose(-1, -2)),
            "the scores are not divided by the root of d yet.",
        ),
        Mistake(
            _from_scores(lambda q, k: q @ k.transpose(-1, -2) / q.shape[-1]),
            "the scores are divided by d; it is the root of d.",
        ),
        Mistake(
            _from_scores(_scores, dim=-2),
            "your columns add up to 1. A row belongs to the place that asks, and its shares must add up to 1.",
        ),
        Mistake(
            _from_scores(lambda q, k: _scores(k, q)),
            "queries and keys have changed roles: the rows of the scores belong to the queries.",
        ),
        Mistake(
            _from_scores(lambda q, k: q @ k),
            "the dimensions do not fit: each query meets each key, so the keys must be turned round, places last.",
        ),
        Mistake(
            lambda q, k, v: (_scores(q, k) @ v, _scores(q, k)),
            "these are the scores themselves; a softmax turns them into shares.",
        ),
        Mistake(
            lambda q, k, v: head(q, k, v)[0],
            "that is the answer alone. Give back both, the answer and the shares.",
        ),
        Mistake(
            lambda q, k, v: head(q, k, v)[::-1],
            "both are right, in the wrong order: first the answer, then the shares.",
        ),
    ),
)

EXERCISES = (SWAP, HEAD)

CUT_WIRE = Quiz(
    name="03.cut_wire",
    question="You cut a connection of another network, and its error stays as it was. What follows?",
    options=(
        Option(
            "The connection carries nothing that matters for the task",
            "The error shows what the network needs, not what the connection carries. Nor does one timestep speak for "
            "all: in the figure of errors, see how the cost of losing the words depends on t.",
        ),
        Option(
            "The network, as it is, does well without what the connection carries",
            "It has learnt not to need it, or to get it from elsewhere. Whether the network takes anything from the "
            "connection is another question, and needs another test: the next section's.",
            right=True,
        ),
        Option(
            "A network trained without this connection would do as well",
            "This does not follow. This one was trained with the connection, and training may have needed it. Nor "
            "would a larger error after the cut show the opposite: a new network might learn another way.",
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
            "be seen by lying to this one.",
        ),
        Option(
            "Yes: how strong the noise is can mostly be seen in the latent",
            "Sun et al. (2025, arXiv:2502.13129) trained several kinds of denoising models without it. Most got "
            "somewhat worse without breaking down, and some even did better. Deterministic DDIM, lesson 02's step, "
            "broke down.",
            right=True,
        ),
        Option(
            "Only if all its latents are equally noisy",
            "Then it need not know the time. But even with latents of every kind, each shows how noisy it is, and a "
            "network can learn to judge that.",
        ),
    ),
)

QUIZZES = (CUT_WIRE, CLOCK)
