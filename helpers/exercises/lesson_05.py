"""The exercises of lesson 05: the next merge of byte pair encoding, and CLIP's loss. And its quiz."""

from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz

Pieces = Sequence[tuple[Sequence[str], int]]


def next_pair(words: Pieces) -> tuple[str, str]:
    """The most frequent pair of neighbouring pieces (Sennrich et al., 2016, arXiv:1508.07909, algorithm 1).

    words: (pieces, how often the word occurs).
    """
    counts: Counter[tuple[str, str]] = Counter()
    for pieces, times in words:
        for i in range(len(pieces) - 1):
            counts[pieces[i], pieces[i + 1]] += times
    return max(counts, key=counts.__getitem__)


def _without_times(words: Pieces) -> tuple[str, str]:
    return next_pair([(pieces, 1) for pieces, _ in words])


def _across_words(words: Pieces) -> tuple[str, str]:
    return next_pair([([piece for pieces, times in words for _ in range(times) for piece in pieces], 1)])


def _rarest(words: Pieces) -> tuple[str, str]:
    counts: Counter[tuple[str, str]] = Counter()
    for pieces, times in words:
        for i in range(len(pieces) - 1):
            counts[pieces[i], pieces[i + 1]] += times
    return min(counts, key=counts.__getitem__)


NEXT_PAIR = Exercise(
    name="05.next_pair",
    solution=next_pair,
    cases=(
        ([(["o", "n·"], 9), (["f", "o", "x·"], 4), (["b", "o", "x·"], 3), (["o", "w", "l·"], 2)],),
        ([(["a", "b", "c·"], 1), (["x", "b", "c·"], 1), (["y", "z·"], 5)],),
        ([(["a"], 30), (["b", "a", "n", "a", "n", "a·"], 2), (["p", "a", "n·"], 3), (["a", "n·"], 1)],),
        ([(["fl", "a", "t·"], 3), (["f", "l", "a", "t·"], 2), (["fl", "y·"], 4)],),
    ),
    hints=(
        "Go through the words, and within each word through all pairs of neighbours.",
        "A Counter holds a number for each pair: add how often the word occurs.",
        "Of the pairs in the Counter, max(...) with a key gives the one with the largest number.",
    ),
    mistakes=(
        Mistake(_without_times, "a word that occurs five times counts its pairs five times."),
        Mistake(_across_words, "a pair that reaches from one word into the next does not count."),
        Mistake(lambda words: "".join(next_pair(words)), "give the two pieces as a tuple, not joined."),
        Mistake(_rarest, "this is the rarest pair."),
    ),
)


def clip_loss(pictures: Tensor, texts: Tensor, tau: float) -> Tensor:
    """CLIP's loss for the vectors (N, d) of N pairs (Radford et al., 2021, arXiv:2103.00020, figure 3)."""
    cosines = F.normalize(pictures, dim=-1) @ F.normalize(texts, dim=-1).T
    right = torch.arange(len(cosines))
    return (F.cross_entropy(cosines / tau, right) + F.cross_entropy(cosines.T / tau, right)) / 2


def _vectors() -> list[tuple[Tensor, Tensor, float]]:
    generator = torch.Generator().manual_seed(5)
    u, v = (torch.randn((4, 3), generator=generator) for _ in range(2))
    return [(u, v, 0.5), (3 * u, u + v, 0.1), (u[:2], 0.2 * v[:2], 1.0)]


def _loss(scores: Tensor) -> Tensor:
    right = torch.arange(len(scores))
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def _cosines(u: Tensor, v: Tensor) -> Tensor:
    return F.normalize(u, dim=-1) @ F.normalize(v, dim=-1).T


CLIP_LOSS = Exercise(
    name="05.clip_loss",
    solution=clip_loss,
    cases=_vectors,
    hints=(
        "First the table of all N x N cosines: vectors of length 1, multiplied by each other's transpose.",
        "The right answer of row i is column i: torch.arange(N). F.cross_entropy takes the table divided by tau.",
        "The columns are the rows of the transposed table. The loss is the mean of both halves.",
    ),
    mistakes=(
        Mistake(
            lambda u, v, tau: F.cross_entropy(_cosines(u, v) / tau, torch.arange(len(u))),
            "each picture has chosen its text; let each text choose its picture, too.",
        ),
        Mistake(
            lambda u, v, tau: F.cross_entropy(_cosines(u, v).T / tau, torch.arange(len(u))),
            "each text has chosen its picture; let each picture choose its text, too.",
        ),
        Mistake(lambda u, v, tau: 2 * _loss(_cosines(u, v) / tau), "the sum of both halves: take their mean."),
        Mistake(
            lambda u, v, tau: _loss(u @ v.T / tau),
            "these are products of vectors of any length: a cosine needs both divided by their lengths.",
        ),
        Mistake(lambda u, v, tau: _loss(_cosines(u, v) * tau), "the cosines are divided by the temperature."),
        Mistake(lambda u, v, tau: _loss(_cosines(u, v)), "the temperature is missing."),
        Mistake(lambda u, v, tau: -_loss(_cosines(u, v) / tau), "the sign: minus the logarithm is at least 0."),
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

EXERCISES = (NEXT_PAIR, CLIP_LOSS)
QUIZZES = (WHO_KNOWS,)
