"""The exercises of lesson 01: jumps between two levels of noise, and an end that is noise."""

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz

ALPHA_BAR = schedules.alpha_bar(schedules.betas())


def _tensors(*shape: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def jump(x_s: Tensor, eps: Tensor, s: int, t: int, alpha_bar: Tensor) -> Tensor:
    """x_t from x_s, s < t: the same closed form, for what is left of the variance between s and t."""
    share = alpha_bar[t] / alpha_bar[s]
    return share.sqrt() * x_s + (1 - share).sqrt() * eps


def ends_in_noise(alpha_bar: Tensor) -> Tensor:
    """A schedule rescaled so that nothing is left at the end: Lin et al. (2023), arXiv:2305.08891, algorithm 1."""
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


def _jump_cases() -> list[tuple[Tensor, Tensor, int, int, Tensor]]:
    x, eps = _tensors(1, 3, 4, 4, count=2)
    return [(x, eps, 100, 500, ALPHA_BAR), (x, eps, 10, 999, ALPHA_BAR)]


JUMP = Exercise(
    name="01.jump",
    solution=jump,
    cases=_jump_cases,
    hints=(
        "Between s and t lie the timesteps s + 1 to t. Which product says what they leave of the variance?",
        "alpha_bar[t] is the product of all steps up to t, and alpha_bar[s] of those up to s. Divide.",
        "Then it is the formula for x_t again, with that share in place of alpha_bar and x_s in place of x0.",
    ),
    mistakes=(
        Mistake(
            lambda x, eps, s, t, a: a[t].sqrt() * x + (1 - a[t]).sqrt() * eps,
            "this treats x_s as if it were clean. It has been through s + 1 steps already: divide those out.",
        ),
        Mistake(
            lambda x, eps, s, t, a: (a[t] - a[s]).abs().sqrt() * x + (1 - (a[t] - a[s]).abs()).sqrt() * eps,
            "the shares of single steps are multiplied, so those of a part are found by dividing, not by subtracting.",
        ),
        Mistake(
            lambda x, eps, s, t, a: a[t - s].sqrt() * x + (1 - a[t - s]).sqrt() * eps,
            "the steps from s to t are other ones than the first t - s: their betas are larger.",
        ),
        Mistake(
            lambda x, eps, s, t, a: a[t] / a[s] * x + (1 - a[t] / a[s]) * eps,
            "the share is right, and it is one of the variance: numbers are multiplied by square roots.",
        ),
        Mistake(
            lambda x, eps, s, t, a: (a[t] / a[s]).sqrt() * x + (1 - a[t]).sqrt() * eps,
            "the picture's factor is right. The noise gets what is missing to a variance of 1, and x_s has some too.",
        ),
    ),
)


ENDS_IN_NOISE = Exercise(
    name="01.ends_in_noise",
    solution=ends_in_noise,
    cases=lambda: [(ALPHA_BAR,), (torch.tensor([0.81, 0.36, 0.04]),)],
    hints=(
        "Work with the factor of the picture, the root of alpha_bar. Shift it first, so that its last value is 0.",
        "The shift has moved the first value too. Stretch all of them by one factor that brings it back.",
        "The factor is the old first value divided by the shifted first value. Square at the end.",
    ),
    mistakes=(
        Mistake(
            lambda a: (a.sqrt() - a.sqrt()[-1]).square(),
            "the end is right, but the first value has moved. Stretch until it is the old one.",
        ),
        Mistake(
            lambda a: (a - a[-1]) * a[0] / (a[0] - a[-1]),
            "shift and stretch the picture's factor, the root of alpha_bar, and square afterwards.",
        ),
        Mistake(
            lambda a: torch.cat([a[:-1], torch.zeros(1)]),
            "the end is 0, but the last step alone now destroys what the others have left. Spread it over all of them.",
        ),
        Mistake(
            lambda a: (a.sqrt() - a.sqrt()[-1]) * a.sqrt()[0] / (a.sqrt()[0] - a.sqrt()[-1]),
            "this is the picture's factor. alpha_bar is its square.",
        ),
    ),
)

EXERCISES = (JUMP, ENDS_IN_NOISE)

TWO_NOISES = Quiz(
    name="01.two_noises",
    question="You add independent noise of standard deviation 0.3, and then more of 0.4. What is the standard "
    "deviation of their sum?",
    options=(
        Option("0.7", "Standard deviations do not add: where one noise is high, the other is as often low as high."),
        Option(
            "0.5",
            "Variances add: 0.09 + 0.16 = 0.25, whose root is 0.5, as in a right triangle with the sides 3, 4 and 5.",
            right=True,
        ),
        Option("0.35", "Noise is not averaged by adding more of it. Independent noise always adds to the variance."),
        Option("0.25", "This is the variance. The standard deviation is its root."),
    ),
)

GREY_END = Quiz(
    name="01.grey_end",
    question="Now pixels are noised, with Stable Diffusion's schedule. The left half of a picture of 128 × 128 is "
    "white, the right half black. At t = 999, can its mean tell it from an even middle grey?",
    options=(
        Option(
            "Yes: in a mean of 49,152 numbers the noise shrinks to 0.005, and 0.07 stands out",
            "The noise does shrink to that. But white leaves 0.07 and black −0.07, so that the mean is 0, like grey's.",
        ),
        Option(
            "Not with one noise, but with the mean over many",
            "More noises make the mean more exact, and what comes out more exactly is 0: white and black cancel out.",
        ),
        Option(
            "No: white and black cancel out",
            "Over the whole picture they cancel out to 0, which is grey. Over one half they do not: its "
            "mean is 0.07 or −0.07, and the noise of a mean over 128 × 64 pixels of 3 colours is 0.006.",
            right=True,
        ),
        Option(
            "No: a factor of 0.07 is too little under noise of 1",
            "For a single pixel it is. A mean over many pixels has less noise, and 0.07 of what they have in common.",
        ),
    ),
)

QUIZZES = (TWO_NOISES, GREY_END)
