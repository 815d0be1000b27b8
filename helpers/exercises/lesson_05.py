"""The exercise of lesson 05, the answer to one query; the hunt after it is answered by the counts that it prints."""

import math

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz


def mixture(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The answer (d,) of one head to one query (d,): Vaswani et al. (2017), arXiv:1706.03762, equation 1.

    k, v: (tokens, d), the keys and the values.
    """
    return (k @ q / math.sqrt(len(q))).softmax(dim=-1) @ v


def _heads() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    sizes = ((16, 32), (9, 5), (4, 14))  # numbers in a query, tokens
    return [tuple(2 * torch.randn((3, tokens, d), generator=generator)) for d, tokens in sizes]


def _cases() -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(queries[0], k, v) for queries, k, v in _heads()]


MIXTURE = Exercise(
    name="05.mixture",
    solution=mixture,
    cases=_cases,
    hints=(
        "Scores first: one number for each token, the dot product of its key and the query.",
        "`k @ q` gives all scores at once. Which number divides them, and what turns them into shares?",
        "Each value counts with its token's share: a vector (tokens,) `@` a matrix (tokens, d) gives (d,).",
    ),
    mistakes=(
        Mistake(lambda q, k, v: (k @ q).softmax(dim=-1) @ v, "the scores are not divided by the root of d yet."),
        Mistake(lambda q, k, v: (k @ q / len(q)).softmax(dim=-1) @ v, "this divides by d. The formula has its root."),
        Mistake(
            lambda q, k, v: (k @ q / math.sqrt(len(k))).softmax(dim=-1) @ v,
            "d is the count of numbers in a query, not of tokens.",
        ),
        Mistake(
            lambda q, k, v: (k @ q / math.sqrt(len(q))) @ v,
            "these are scores. Shares add up to 1: where is the softmax?",
        ),
        Mistake(
            lambda q, k, v: (k @ q / math.sqrt(len(q))).softmax(dim=-1) @ k,
            "the keys are mixed here. They only find the shares; what is passed on are the values.",
        ),
        Mistake(
            lambda q, k, v: (k @ q / math.sqrt(len(q))).softmax(dim=-1),
            "these are the shares. Now mix the values with them.",
        ),
        Mistake(
            lambda q, k, v: (v @ q / math.sqrt(len(q))).softmax(dim=-1) @ v,
            "the query is compared with the values here. It is the keys that answer it.",
        ),
    ),
)

WHO_KNOWS = Quiz(
    name="05.who_knows",
    question="`a red fox left of a blue car`: which of these vectors has read all it takes to tell that the left thing "
    "is red and the right one blue?",
    options=(
        Option("That of `fox`", "It stands before `blue` and `car`, and the mask hides from it all that comes later."),
        Option(
            "That of `left`, which says where things stand",
            "It has read `a red fox` and itself. What stands right of the fox comes only after it.",
        ),
        Option(
            "That of `car`",
            "It has read both colours and `left`, and so has the padding. What they keep of it is another question.",
            right=True,
        ),
        Option("None: only together do they say it", "One late vector is enough: it has read all earlier ones."),
    ),
)

EXERCISES = (MIXTURE,)
QUIZZES = (WHO_KNOWS,)
