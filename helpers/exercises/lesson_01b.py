"""The exercises of lesson 01b: schedules of fewer, larger steps, and pictures of two sizes that are equally noisy."""

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


def same_noise(t: int, alpha_bar: Tensor, other: Tensor, size: int) -> int:
    """The timestep of `other` at which means of size × size pixels have the SNR nearest to that of `alpha_bar` at t.

    The clean means are the clean pixels of the smaller picture: Hoogeboom et al. (2023), arXiv:2301.11093.
    """
    yours = alpha_bar[t] / (1 - alpha_bar[t])
    of_means = size**2 * other / (1 - other)
    return int((of_means - yours).abs().argmin())


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


def _same_noise_cases() -> list[tuple[int, Tensor, Tensor, int]]:
    stable, linear, cosine = _schedules()
    return [(100, stable, cosine, 4), (354, stable, linear, 2), (400, linear, stable, 2), (700, stable, cosine, 3)]


def _nearest(yours: Tensor, theirs: Tensor) -> int:
    return int((theirs - yours).abs().argmin())


def _snr(alpha_bar: Tensor) -> Tensor:
    return alpha_bar / (1 - alpha_bar)


SAME_NOISE = Exercise(
    name="01b.same_noise",
    solution=same_noise,
    cases=_same_noise_cases,
    hints=(
        "What does averaging size × size pixels do to the variance of the noise? And to that of the picture?",
        "The noise of a mean has a share 1 / size² of the variance, so the SNR of `other` is multiplied by size².",
        "Write both SNRs from alpha_bar, and look for the place where the distance between them is smallest.",
    ),
    mistakes=(
        Mistake(lambda t, a, b, n: t, "the same t means another SNR in each schedule, and at each size."),
        Mistake(
            lambda t, a, b, n: _nearest(_snr(a)[t], _snr(b)),
            "this is right for single pixels. Means of size × size pixels have less noise: by how much?",
        ),
        Mistake(
            lambda t, a, b, n: _nearest(_snr(a)[t], n * _snr(b)),
            "a square of side `size` has more than `size` pixels in it.",
        ),
        Mistake(
            lambda t, a, b, n: _nearest(_snr(a)[t], _snr(b) / n**2),
            "averaging lowers the noise, so it multiplies the SNR of the larger picture. This divides it.",
        ),
        Mistake(
            lambda t, a, b, n: _nearest(a[t], n**2 * b),
            "alpha_bar is the picture's share of the variance. Asked for is its ratio to the noise, to 1 - alpha_bar.",
        ),
        Mistake(
            lambda t, a, b, n: int((n**2 * _snr(b) - _snr(a)[t]).argmin()),
            "without the distance's absolute value the smallest is always the last timestep.",
        ),
    ),
)

EXERCISES = (FEWER_STEPS, SAME_NOISE)

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
