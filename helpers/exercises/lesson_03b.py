"""The exercise of lesson 03b: a head of self-attention."""

import math
from typing import Any

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz


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
    name="03b.head",
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

EXERCISES = (HEAD,)

CLOCK = Quiz(
    name="03b.clock",
    question="A network is trained without ever being told the time. Can it learn to remove noise?",
    options=(
        Option(
            "No: under a wrong clock the estimates above got worse",
            "That network was trained with a clock, and relies on it. What one trained without a clock would do cannot "
            "be seen by lying to this one.",
        ),
        Option(
            "Yes: how strong the noise is can mostly be seen in what it is shown",
            "Sun et al. (2025, arXiv:2502.13129) trained several kinds of denoising models without it. Most got "
            "somewhat worse without breaking down, and some even did better. Deterministic DDIM, lesson 02's step, "
            "broke down.",
            right=True,
        ),
        Option(
            "Only if all its inputs are equally noisy",
            "The models of Sun et al. (2025) learnt from images of every noisiness, and most got only somewhat worse.",
        ),
    ),
)

QUIZZES = (CLOCK,)
