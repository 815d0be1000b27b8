"""The exercise of lesson 03, how much of each part is in an answer, and its quiz: what follows from a cut."""

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz


def amounts(x: Tensor, parts: list[Tensor]) -> Tensor:
    """How much of each part is in x: the multiples whose sum comes nearest to it in squared error, (len(parts),).

    All tensors have one shape.
    """
    return _fitted(x, parts).solution.flatten()


def _fitted(x: Tensor, parts: list[Tensor]) -> torch.return_types.linalg_lstsq:
    return torch.linalg.lstsq(torch.stack([part.flatten() for part in parts], dim=1), x.flatten()[:, None])


def _mixtures() -> list[tuple[Tensor, list[Tensor]]]:
    """Mixtures of one, two and three parts that have something in common, and a rest that none of them explains."""
    generator = torch.Generator().manual_seed(4)
    cases = []
    for shape, shares in (((2, 4, 6, 6), (0.9, 0.2)), ((1, 4, 8, 8), (0.7,)), ((3, 2, 5, 5), (0.5, -0.3, 1.2))):
        common, rest, *own = torch.randn((2 + len(shares), *shape), generator=generator)
        parts = [common + part for part in own]
        cases.append((sum(share * part for share, part in zip(shares, parts, strict=True)) + 0.2 * rest, parts))
    return cases


AMOUNTS = Exercise(
    name="03.amounts",
    solution=amounts,
    cases=_mixtures,
    rtol=1e-3,
    atol=1e-4,
    hints=(
        "For a single part the best amount is the sum of the products of x and the part, divided by the sum of the "
        "part's squares. With two parts, where would that count something twice?",
        "Make each part a column of a matrix: flatten them, and `torch.stack(..., dim=1)`. Then the matrix times the "
        "amounts is the sum of the parts, flattened.",
        "`torch.linalg.lstsq(matrix, target)` does the fit. The target is a matrix, too, with a single column: "
        "`x.flatten()[:, None]`. What it gives has a field `solution`.",
    ),
    mistakes=(
        Mistake(
            lambda x, parts: torch.stack([(x * part).sum() / part.square().sum() for part in parts]),
            "you fit one part at a time, so what two parts have in common counts twice. Fit them together.",
        ),
        Mistake(
            lambda x, parts: torch.stack([(x * part).sum() for part in parts]),
            "these are the products of x with each part; they grow with the part's size. The amount is what the part "
            "is multiplied by.",
        ),
        Mistake(
            lambda x, parts: torch.stack([torch.cosine_similarity(x.flatten(), part.flatten(), 0) for part in parts]),
            "a cosine says how alike two directions are, not how much of one is in the other.",
        ),
        Mistake(
            lambda x, parts: amounts(x, parts) / amounts(x, parts).sum(),
            "you made the amounts add up to 1. They need not: an answer may be fainter than its parts.",
        ),
        Mistake(
            lambda x, parts: _fitted(x, parts).solution,
            "the amounts are right, but they stand in a column: flatten it.",
        ),
        Mistake(
            _fitted,
            "`lstsq` gives several things; the amounts are its field `solution`.",
        ),
        Mistake(
            lambda x, parts: torch.linalg.lstsq(torch.stack([part.flatten() for part in parts]), x.flatten()[:, None]),
            "your parts are the rows of the matrix. Make them its columns: `dim=1`.",
        ),
    ),
)

EXERCISES = (AMOUNTS,)

CUT_WIRE = Quiz(
    name="03.cut_wire",
    question="You cut a connection of another network, and its error stays as it was at every timestep. What follows?",
    options=(
        Option(
            "The connection carries nothing that matters for the task",
            "The error shows what the network needs, not what the connection carries. That may matter a great deal, "
            "and reach the answer by another way as well.",
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

QUIZZES = (CUT_WIRE,)
