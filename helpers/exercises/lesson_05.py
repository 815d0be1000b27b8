"""The exercise of lesson 05: one head's answer without one token. Exercise 2, a hunt, is answered by printed counts."""

import math

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz


def mixture(q: Tensor, k: Tensor, v: Tensor, gone: int) -> Tensor:
    """The answer (d,) of one head to one query (d,) without one token: its share is 0, the others add up to 1.

    Vaswani et al. (2017), arXiv:1706.03762, equation 1, but for the share. k, v: (tokens, d), the keys and the values.
    """
    shares = _shares(q, k)
    shares[gone] = 0
    return (shares / shares.sum()) @ v


def _shares(q: Tensor, k: Tensor) -> Tensor:
    return (k @ q / math.sqrt(len(q))).softmax(dim=-1)


def _cases() -> list[tuple[Tensor, Tensor, Tensor, int]]:
    generator = torch.Generator().manual_seed(5)
    sizes = ((16, 32), (9, 5), (4, 14))  # numbers in a query, tokens
    drawn = [2 * torch.randn((3, tokens, d), generator=generator) for d, tokens in sizes]
    # Without the token of the largest share, then without one that is not the last.
    found = [(int((k @ queries[0]).argmax()), len(k) // 2) for queries, k, _ in drawn]
    return [(queries[0], k, v, gone) for (queries, k, v), both in zip(drawn, found, strict=True) for gone in both]


def _by(scores: Tensor, v: Tensor, gone: int) -> Tensor:
    """The answer without a token, from scores of any kind."""
    return mixture(torch.ones(1), scores[:, None], v, gone)


def _without_softmax(q: Tensor, k: Tensor, v: Tensor, gone: int) -> Tensor:
    scores = k @ q / math.sqrt(len(q))
    scores[gone] = 0
    return (scores / scores.sum()) @ v


def _share_lost(q: Tensor, k: Tensor, v: Tensor, gone: int) -> Tensor:
    shares = _shares(q, k)
    shares[gone] = 0
    return shares @ v


def _score_0(q: Tensor, k: Tensor, v: Tensor, gone: int) -> Tensor:
    scores = k @ q / math.sqrt(len(q))
    scores[gone] = 0
    return scores.softmax(dim=-1) @ v


def _twice_softmax(q: Tensor, k: Tensor, v: Tensor, gone: int) -> Tensor:
    shares = _shares(q, k)
    shares[gone] = 0
    return shares.softmax(dim=-1) @ v


def _shares_alone(q: Tensor, k: Tensor, v: Tensor, gone: int) -> Tensor:
    shares = _shares(q, k)
    shares[gone] = 0
    return shares / shares.sum()


MIXTURE = Exercise(
    name="05.mixture",
    solution=mixture,
    cases=_cases,
    hints=(
        "First all shares: `get_shares(q, k)`, or a softmax of the dot products `k @ q`, divided by the root of d.",
        "Set the share at `gone` to 0. What do the others add up to now, and by what must you divide them?",
        "Each value counts with its token's share: a vector (tokens,) `@` a matrix (tokens, d) gives (d,).",
    ),
    mistakes=(
        Mistake(
            lambda q, k, v, gone: _shares(q, k) @ v,
            "this is the answer with all tokens: the one at `gone` still has its share.",
        ),
        Mistake(_share_lost, "the shares that are left no longer add up to 1: rescale them."),
        Mistake(_score_0, "a score of 0 still gets a share: e to the power of 0 is 1. Set the share to 0."),
        Mistake(
            _twice_softmax, "a second softmax gives the token at `gone` a share again: divide by the sum of the shares."
        ),
        Mistake(lambda q, k, v, gone: _by(k @ q, v, gone), "the scores are not divided by the root of d yet."),
        Mistake(lambda q, k, v, gone: _by(k @ q / len(q), v, gone), "this divides by d. The formula has its root."),
        Mistake(
            lambda q, k, v, gone: _by(k @ q / math.sqrt(len(k)), v, gone),
            "d is the count of numbers in a query, not of tokens.",
        ),
        Mistake(_without_softmax, "these are scores. Shares come from the softmax."),
        Mistake(
            lambda q, k, v, gone: mixture(q, k, k, gone),
            "the keys are mixed here. They only find the shares; what is passed on are the values.",
        ),
        Mistake(_shares_alone, "these are the shares. Now mix the values with them."),
        Mistake(
            lambda q, k, v, gone: mixture(q, v, v, gone),
            "the query is compared with the values here. It is compared with the keys.",
        ),
    ),
)

WHO_KNOWS = Quiz(
    name="05.who_knows",
    question="`a red fox left of a blue car`: which of these vectors may read all it takes to tell that the left thing "
    "is red and the right one blue?",
    options=(
        Option("That of `fox`", "It stands before `blue` and `car`, and the mask hides from it all that comes later."),
        Option(
            "That of `left`, which says where things stand",
            "It may read `a red fox` and itself. What stands right of the fox comes only after it.",
        ),
        Option(
            "That of `car`",
            "The mask lets it read both colours and `left`. The padding may, too: it comes later. What they keep of it "
            "is another question.",
            right=True,
        ),
        Option("None: only together do they say it", "One late vector is enough: it may read all earlier ones."),
    ),
)

EXERCISES = (MIXTURE,)
QUIZZES = (WHO_KNOWS,)
