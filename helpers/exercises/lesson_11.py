"""The exercises of lesson 11: a layer with an adapter, its size, the loss with a prior, several adapters in one."""

from collections.abc import Callable

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake

Adapter = tuple[Tensor, Tensor, float, float]  # a (r, in), b (out, r), alpha, scale


def adapted(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float, scale: float) -> Tensor:
    """A linear layer with LoRA: Hu et al. (2021), arXiv:2106.09685, equation 3, with the scaling of section 4.1."""
    return x @ weight.T + scale * alpha / len(a) * (x @ a.T @ b.T)


def lora_size(shapes: list[tuple[int, int]], rank: int) -> int:
    """How many numbers the adapters of layers with matrices of these shapes (out, in) hold."""
    return sum(rank * (rows + columns) for rows, columns in shapes)


def prior_loss(predicted: Tensor, eps: Tensor, weight: float) -> Tensor:
    """The loss with prior preservation of a batch whose second half is rehearsed: Ruiz et al. (2022), section 3.3."""
    new, old = (predicted - eps).square().chunk(2)
    return new.mean() + weight * old.mean()


def merge(adapters: list[Adapter]) -> tuple[Tensor, Tensor]:
    """One adapter (a, b) whose product is the sum of all, with every factor in it."""
    a = torch.cat([a for a, _, _, _ in adapters])
    b = torch.cat([scale * alpha / len(a) * b for a, b, alpha, scale in adapters], dim=1)
    return a, b


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _layers() -> list[tuple]:
    x, weight = _normal(3, 5, seed=0), _normal(4, 5, seed=1)
    return [
        (x, weight, _normal(rank, 5, seed=2), _normal(4, rank, seed=3), alpha, scale)
        for rank, alpha, scale in ((2, 3.0, 0.5), (1, 1.0, 1.0), (3, 6.0, 0.0))
    ]


ADAPTED = Exercise(
    name="11.adapted",
    solution=adapted,
    cases=_layers,
    mistakes=(
        Mistake(
            lambda x, weight, a, b, alpha, scale: x @ weight.T + scale * (x @ a.T @ b.T),
            "the factor alpha / r is missing; r is the number of rows of `a`.",
        ),
        Mistake(
            lambda x, weight, a, b, alpha, scale: x @ weight.T + scale * alpha * (x @ a.T @ b.T),
            "alpha is divided by the rank, so that a higher rank does not make the change stronger by itself.",
        ),
        Mistake(
            lambda x, weight, a, b, alpha, scale: x @ weight.T + alpha / len(a) * (x @ a.T @ b.T),
            "the scale is not used: with 0 the adapter must be off.",
        ),
        Mistake(
            lambda x, weight, a, b, alpha, scale: scale * alpha / len(a) * (x @ a.T @ b.T),
            "this is what the adapter adds. The frozen layer's own output belongs to it.",
        ),
        Mistake(
            lambda x, weight, a, b, alpha, scale: scale * (x @ weight.T + alpha / len(a) * (x @ a.T @ b.T)),
            "the scale turns the adapter alone; the frozen layer stays at full strength.",
        ),
        Mistake(
            lambda x, weight, a, b, alpha, scale: x @ weight.T + scale * alpha / len(a) * (x @ a @ b),
            "the shapes do not meet: `a` is (r, in) and `b` (out, r), as the weights of linear layers, so transpose.",
        ),
    ),
)

_SHAPES = [(320, 320), (320, 768), (1280, 1280)]

LORA_SIZE = Exercise(
    name="11.lora_size",
    solution=lora_size,
    cases=[(_SHAPES, 4), (_SHAPES[:1], 1), ([(64, 128)], 16)],
    mistakes=(
        Mistake(
            lambda shapes, rank: sum(rows * columns for rows, columns in shapes),
            "this counts the frozen matrices. The adapter of each holds two thin ones.",
        ),
        Mistake(
            lambda shapes, rank: sum(rank * rows * columns for rows, columns in shapes),
            "A has the shape (r, in) and B (out, r): their sizes add up, they are not multiplied.",
        ),
        Mistake(
            lambda shapes, rank: sum(rows + columns for rows, columns in shapes),
            "this is right for rank 1. Each further rank needs as many again.",
        ),
        Mistake(
            lambda shapes, rank: sum(rank * columns for _, columns in shapes),
            "this counts A alone; B has r columns of `out` numbers.",
        ),
    ),
)


def _losses() -> list[tuple]:
    predicted, eps = _normal(6, 2, 3, 3, seed=4), _normal(6, 2, 3, 3, seed=5)
    predicted[:3] *= 2  # so that the two halves differ
    return [(predicted, eps, 0.5), (predicted, eps, 0.0), (predicted, eps, 1.0)]


def _summed_loss(predicted: Tensor, eps: Tensor, weight: float) -> Tensor:
    new, old = (predicted - eps).square().chunk(2)
    return new.sum() + weight * old.sum()


PRIOR_LOSS = Exercise(
    name="11.prior_loss",
    solution=prior_loss,
    cases=_losses,
    mistakes=(
        Mistake(
            lambda predicted, eps, weight: (predicted - eps).square().mean(),
            "this is the mean over all pictures alike. Split the batch, and weigh the second half.",
        ),
        Mistake(
            lambda predicted, eps, weight: prior_loss(predicted.flip(0), eps.flip(0), weight),
            "the halves are swapped: the first is new and the second is rehearsed, and lambda belongs to that.",
        ),
        Mistake(
            lambda predicted, eps, weight: prior_loss(predicted, eps, weight) / 2,
            "half of it: the two means are added, not averaged.",
        ),
        Mistake(
            lambda predicted, eps, weight: prior_loss(predicted, eps, weight) / (1 + weight),
            "lambda is a factor of the second part alone; the sum is not divided again.",
        ),
        Mistake(
            _summed_loss,
            "sums instead of means: take the mean over everything in each half.",
        ),
    ),
)


def _adapters() -> list[tuple]:
    first = (_normal(2, 5, seed=6), _normal(4, 2, seed=7), 3.0, 0.5)
    second = (_normal(3, 5, seed=8), _normal(4, 3, seed=9), 6.0, 1.0)
    third = (_normal(1, 5, seed=10), _normal(4, 1, seed=11), 1.0, -1.0)
    return [([first, second],), ([first, second, third],), ([third],)]


def _ranks_summed(adapters: list[Adapter]) -> tuple[Tensor, Tensor]:
    """One rank for all, that of the result."""
    a = torch.cat([a for a, _, _, _ in adapters])
    return a, torch.cat([scale * alpha / len(a) * b for _, b, alpha, scale in adapters], dim=1)


Factor = Callable[[int, float, float], float]  # of rank, alpha and scale


def _one(rank: int, alpha: float, scale: float) -> float:
    return 1.0


def _whole(rank: int, alpha: float, scale: float) -> float:
    return scale * alpha / rank


def _merged(adapters: list[Adapter], in_b: Factor, in_a: Factor = _one) -> tuple[Tensor, Tensor]:
    """The matrices of all adapters side by side, each times a factor; `merge` has all of it in b."""
    a = torch.cat([in_a(len(a), alpha, scale) * a for a, _, alpha, scale in adapters])
    b = torch.cat([in_b(len(a), alpha, scale) * b for a, b, alpha, scale in adapters], dim=1)
    return a, b


def _all_summed(adapters: list[Adapter]) -> tuple[Tensor, Tensor]:
    return sum(a for a, *_ in adapters), sum(scale * alpha / len(a) * b for a, b, alpha, scale in adapters)


MERGE = Exercise(
    name="11.merge",
    solution=merge,
    cases=_adapters,
    mistakes=(
        Mistake(
            lambda adapters: _merged(adapters, _one),
            "the matrices stand side by side, as they should. But each has its own alpha / r and scale to go in.",
        ),
        Mistake(
            lambda adapters: _merged(adapters, lambda rank, alpha, scale: alpha / rank),
            "alpha / r is in it; the scales are missing.",
        ),
        Mistake(
            lambda adapters: _merged(adapters, lambda rank, alpha, scale: scale),
            "the scales are in it; alpha / r of each adapter is missing.",
        ),
        Mistake(
            _ranks_summed,
            "alpha is divided by the adapter's own rank, not by that of the result.",
        ),
        Mistake(
            lambda adapters: _merged(adapters, in_b=_whole, in_a=_whole),
            "the factor is in both matrices, so it counts squared: put it into one of them, b.",
        ),
        Mistake(
            lambda adapters: _merged(adapters, in_b=_one, in_a=_whole),
            "the product is right. The check compares the two matrices, and expects the factors in b.",
        ),
        Mistake(
            _all_summed,
            "the sum of the As times the sum of the Bs has mixed terms, and needs equal ranks. Put them side by side.",
        ),
    ),
)

EXERCISES = (ADAPTED, LORA_SIZE, PRIOR_LOSS, MERGE)
