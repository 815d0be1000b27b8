"""The exercises of lesson 11: a layer with a LoRA, two losses in one, a matrix cut to a rank, several LoRAs in one."""

from collections.abc import Callable

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz

Adapter = tuple[Tensor, Tensor, float, float]  # a (r, in), b (out, r), alpha, scale


def prior_loss(predicted: Tensor, eps: Tensor, weight: float) -> Tensor:
    """The loss of a batch whose second half is rehearsed, as with the prior of Ruiz et al. (2022), arXiv:2208.12242."""
    new, old = (predicted - eps).square().chunk(2)
    return new.mean() + weight * old.mean()


def merge(parts: list[Adapter]) -> tuple[Tensor, Tensor]:
    """One adapter (a, b) whose product is the sum of all, with every factor in it."""
    a = torch.cat([a for a, _, _, _ in parts])
    b = torch.cat([scale * alpha / len(a) * b for a, b, alpha, scale in parts], dim=1)
    return a, b


def cut(matrix: Tensor, rank: int) -> Tensor:
    """The matrix of at most that rank with the least squared distance to a matrix (out, in), by Eckart and Young."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def with_lora(layer: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, scale: float, x: Tensor) -> Tensor:
    """What a frozen layer answers with a LoRA beside it, Hu et al. (2021), arXiv:2106.09685, equation 3.

    layer: takes (..., in) and gives (..., out). a: (r, in). b: (out, r). x: (..., in). Returns (..., out).
    """
    return layer(x) + scale * (x @ a.T @ b.T)


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
    hints=(
        "The batch is two batches, one after the other. Separate them first.",
        "`chunk(2)` cuts a tensor into two halves along its first dimension.",
        "Take the mean of the squared errors in each half, and add them, the second times lambda.",
    ),
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
    hints=(
        "B A is a sum over the r rows of A. The sum of several such sums is one longer sum.",
        "`torch.cat` puts the As below each other, along dimension 0, and the Bs beside each other, along dimension 1.",
        "Before that, each B takes its own factor, scale times alpha over rank. The rank is how many rows its A has.",
    ),
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


def _layer(inputs: int, outputs: int, seed: int) -> torch.nn.Linear:
    """A frozen layer with a bias."""
    layer = torch.nn.Linear(inputs, outputs).requires_grad_(False)
    layer.weight.copy_(_normal(outputs, inputs, seed=seed))
    layer.bias.copy_(_normal(outputs, seed=seed + 1))
    return layer


def _layers() -> list[tuple]:
    cases = []
    # A square layer too, with which transposed matrices would have the right shape.
    for rank, inputs, outputs, scale in ((2, 5, 4, 0.5), (1, 3, 3, -1.0), (3, 3, 3, 2.0)):
        a, b = _normal(rank, inputs, seed=12), _normal(outputs, rank, seed=13)
        cases.append((_layer(inputs, outputs, 14), a, b, scale, _normal(2, 6, inputs, seed=16)))
    return cases


WITH_LORA = Exercise(
    name="11.with_lora",
    solution=with_lora,
    cases=_layers,
    hints=(
        "`layer(x)` is the frozen answer. The LoRA gets the same x, and its answer is added.",
        "A x for one vector x is `x @ a.T` for many of them, one in each row.",
        "First to r numbers, with `a`; from these to the layer's outputs, with `b`; then times the scale.",
    ),
    mistakes=(
        Mistake(
            lambda layer, a, b, scale, x: layer(x) + x @ a.T @ b.T,
            "the scale is not used: with 0 the LoRA must be off.",
        ),
        Mistake(
            lambda layer, a, b, scale, x: scale * (x @ a.T @ b.T),
            "this is what the LoRA adds. The frozen layer's answer belongs to it.",
        ),
        Mistake(
            lambda layer, a, b, scale, x: scale * with_lora(layer, a, b, 1.0, x),
            "the scale turns the LoRA alone; the frozen layer stays at full strength.",
        ),
        Mistake(
            lambda layer, a, b, scale, x: with_lora(layer, a, b, scale / len(a), x),
            "the lesson's LoRA has no division by the rank: scale times B A x is all that is added.",
        ),
        Mistake(
            lambda layer, a, b, scale, x: layer(x + scale * (x @ a.T @ b.T)),
            "the LoRA stands beside the layer, not before it: both get x, and their answers are added.",
        ),
        Mistake(
            lambda layer, a, b, scale, x: layer(x) + scale * (b @ (a @ x)),
            "the shapes do not meet: x has its inputs in the last dimension. Multiply from the right, by a.T and b.T.",
        ),
    ),
)


def _matrices() -> list[tuple]:
    return [(_normal(*shape, seed=sum(shape)), rank) for shape, rank in (((6, 4), 2), ((4, 7), 1), ((5, 5), 3))]


def _last(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, -rank:] * s[-rank:] @ vh[-rank:]


def _unweighted(matrix: Tensor, rank: int) -> Tensor:
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] @ vh[:rank]


def _columns_of_v(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:, :rank].T


def _squared(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank].square() @ vh[:rank]


CUT = Exercise(
    name="11.cut",
    solution=cut,
    cases=_matrices,
    hints=(
        "`torch.linalg.svd(matrix, full_matrices=False)` gives three: columns, their strengths, rows.",
        "The strongest come first. Keep the first `rank` columns of u, numbers of s and rows of vh.",
        "`u * s` multiplies each column of u by its strength. A matrix product then sums the columns times rows.",
    ),
    mistakes=(
        Mistake(_last, "these are the weakest columns times rows. The strongest come first."),
        Mistake(_unweighted, "the strengths are missing: each column times row counts s times."),
        Mistake(_squared, "the strengths are squared: each counts once, for the column or for the row."),
        Mistake(_columns_of_v, "what svd gives third is made of rows: take its first rows, and do not transpose it."),
        Mistake(lambda matrix, rank: matrix, "this is the whole matrix again: nothing was left out."),
        Mistake(
            lambda matrix, rank: cut(matrix, rank) - cut(matrix, rank - 1),
            "this is a single column times row. Keep all of the first `rank`, and add them up.",
        ),
    ),
)

EXERCISES = (WITH_LORA, PRIOR_LOSS, CUT, MERGE)

OLD_WORDS = Quiz(
    name="11.old_words",
    question="The vector of `<flamingo>` is trained. Which pictures of other prompts, drawn from the same noise as "
    "before, have changed?",
    options=(
        Option(
            "All, a little: the text encoder's table has one row more",
            "A row is read only where its own token stands. The other rows are what they were, and so are the layers.",
        ),
        Option(
            "Those of similar things, such as `a bird`",
            "Nearness in the table has no effect by itself: the vector of `bird` is another row, and it has not moved.",
        ),
        Option(
            "None",
            "Every number that those prompts use is what it was, to the last bit. The check below draws a chick.",
            right=True,
        ),
    ),
)

BOTH_ZERO = Quiz(
    name="11.both_zero",
    question="A begins with random numbers and B with zeros. What would happen if A began with zeros, too?",
    options=(
        Option(
            "It would train as well, from a cleaner start",
            "The start is the same, since B A is zero either way. But look at the gradients: that of B is made with "
            "A x, and that of A with B.",
        ),
        Option(
            "Nothing: both gradients would be zero at every step",
            "The gradient of B has A x as a factor and that of A has B. With both at zero neither ever moves.",
            right=True,
        ),
        Option(
            "B would learn, and A would stay at zero",
            "With A at zero, A x is zero, and that is what B is multiplied by: no value of B makes a difference.",
        ),
        Option(
            "The first pictures would be wrong until both have grown",
            "With B A at zero every picture is the frozen model's. It is learning that fails, not drawing.",
        ),
    ),
)

QUIZZES = (OLD_WORDS, BOTH_ZERO)
