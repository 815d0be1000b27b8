"""The exercise of lesson 01b, a schedule of fewer, larger steps, and its quiz."""

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz

KINDS = {"scaled_linear": {}, "linear": {"start": 1e-4, "end": 0.02}, "cosine": {}}


def _schedules() -> list[Tensor]:
    return [schedules.alpha_bar(schedules.betas(kind, **options)) for kind, options in KINDS.items()]


def fewer_steps(alpha_bar: Tensor, every: int) -> Tensor:
    """The betas of the steps that visit every `every`-th timestep up to the last, and leave there what was left."""
    kept = alpha_bar[every - 1 :: every]
    before = torch.cat([torch.ones(1), kept[:-1]])
    return 1 - kept / before


FEWER_STEPS = Exercise(
    name="01b.fewer_steps",
    solution=fewer_steps,
    cases=lambda: [(torch.tensor([0.9, 0.72, 0.36, 0.18]), 2), *((a, n) for a in _schedules() for n in (50, 8))],
    rtol=1e-3,
    hints=(
        "Which timesteps are kept, and how much of the variance is left at each? Your betas must leave just that.",
        "A step from s to t leaves the share alpha_bar[t] / alpha_bar[s], of what it finds. Beta is what is missing.",
        "Nothing is lost before the first step, so what stands before the first kept alpha_bar is 1.",
    ),
    mistakes=(
        Mistake(
            lambda a, n: fewer_steps(a, 1)[n - 1 :: n],
            "these are the betas that the kept timesteps had before. Each step must now destroy as much as all those "
            "that are left out with it.",
        ),
        Mistake(
            lambda a, n: fewer_steps(a, 1).reshape(-1, n).sum(dim=1),
            "betas do not add up. What single steps leave, 1 - beta, is multiplied.",
        ),
        Mistake(
            lambda a, n: fewer_steps(a[::n], 1),
            "this keeps the first timestep, 0, and leaves out the last.",
        ),
        Mistake(
            lambda a, n: 1 - a[n - 1 :: n],
            "this is the noise of all steps up to t together. Asked for is that of each step alone.",
        ),
        Mistake(
            lambda a, n: 1 - a[n - 1 :: n][1:] / a[n - 1 :: n][:-1],
            "one is missing: the first step has a beta too, and before it alpha_bar is 1.",
        ),
        Mistake(
            lambda a, n: 1 - fewer_steps(a, n),
            "these are the shares that are left, 1 - beta. Asked for is beta.",
        ),
    ),
)


EXERCISES = (FEWER_STEPS,)

BEST_GUESS = Quiz(
    name="01b.best_guess",
    question="A pixel was black (−1) or white (1), half of each, and now you see nothing but noise. You guess its "
    "value, and pay the squared error. What do you guess?",
    options=(
        Option("−1 or 1, by tossing a coin", "Half of your guesses are wrong by 2, and 2² = 4: you pay 2 on average."),
        Option(
            "0, a grey that the pixel never has",
            "You are always wrong by 1, and pay 1. The mean has the smallest squared error, even where it is nothing "
            "that occurs.",
            right=True,
        ),
        Option("0.5, to be near one of them", "You are wrong by 0.5 or by 1.5: 0.25 or 2.25, so 1.25 on average."),
    ),
)

QUIZZES = (BEST_GUESS,)
