"""The exercises of lesson 01: jumps between two levels of noise, schedules of fewer steps, and an end that is noise."""

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz

KINDS = {"scaled_linear": {}, "linear": {"start": 1e-4, "end": 0.02}, "cosine": {}}


def _tensors(*shape: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def _schedules() -> list[Tensor]:
    return [schedules.alpha_bar(schedules.betas(kind, **options)) for kind, options in KINDS.items()]


def jump(x_s: Tensor, eps: Tensor, s: int, t: int, alpha_bar: Tensor) -> Tensor:
    """x_t from x_s, s < t: the same closed form, for what is left of the variance between s and t."""
    share = alpha_bar[t] / alpha_bar[s]
    return share.sqrt() * x_s + (1 - share).sqrt() * eps


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


def ends_in_noise(alpha_bar: Tensor) -> Tensor:
    """A schedule rescaled so that nothing is left at the end: Lin et al. (2023), arXiv:2305.08891, algorithm 1."""
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


def _jump_cases() -> list[tuple[Tensor, Tensor, int, int, Tensor]]:
    x, eps = _tensors(1, 3, 4, 4, count=2)
    a = _schedules()[0]
    return [(x, eps, 100, 500, a), (x, eps, 0, 999, a)]


JUMP = Exercise(
    name="01.jump",
    solution=jump,
    cases=_jump_cases,
    hints=(
        "Between s and t lie the timesteps s + 1 to t. Which product says what they leave of the variance?",
        "alpha_bar[t] is the product of all steps up to t, and alpha_bar[s] of those up to s. Divide.",
        "Then it is the closed form again, with that share in place of alpha_bar and x_s in place of x0.",
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


FEWER_STEPS = Exercise(
    name="01.fewer_steps",
    solution=fewer_steps,
    cases=lambda: [(torch.tensor([0.9, 0.72, 0.36, 0.18]), 2), *((a, n) for a in _schedules() for n in (50, 8))],
    rtol=1e-3,
    hints=(
        "Which timesteps are kept, and how much of the variance is left at each? Your betas must leave just that.",
        "A step from s to t leaves the share alpha_bar[t] / alpha_bar[s], as in exercise 1. Beta is what is missing.",
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
    name="01.same_noise",
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

ENDS_IN_NOISE = Exercise(
    name="01.ends_in_noise",
    solution=ends_in_noise,
    cases=lambda: [(_schedules()[0],), (torch.tensor([0.81, 0.36, 0.04]),)],
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

EXERCISES = (JUMP, FEWER_STEPS, SAME_NOISE, ENDS_IN_NOISE)

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

SAME_T = Quiz(
    name="01.same_t",
    question="Which of these is hardest to recognise at t = 600?",
    options=(
        Option(
            "A photograph of 512 × 512 pixels",
            "It has the most pixels that say the same thing. Averaging over neighbours removes most of the noise.",
        ),
        Option(
            "The same photograph, shrunk to 16 × 16 pixels before the noise came",
            "Each of its pixels got a noise of its own, where the large one has 32 × 32 noises to average: 1,024 times "
            "less signal-to-noise than the large one, averaged.",
            right=True,
        ),
        Option(
            "The same photograph, shrunk to 16 × 16 pixels after the noise came",
            "Shrinking averages most of the noise away: each pixel left is the mean of 32 × 32 noises.",
        ),
        Option(
            "None: the same t means the same two factors for all three",
            "The factors are the same for each number when the noise comes. What counts is how much noise is left "
            "once the numbers that say the same are averaged.",
        ),
    ),
)

GREY_END = Quiz(
    name="01.grey_end",
    question="Now pixels, not latents. The left half of a picture of 128 × 128 is white, the right half black. At "
    "t = 999, can its mean tell it from an even middle grey?",
    options=(
        Option(
            "Yes, because 7% of its strength is left",
            "That much is left of every pixel, but white and black cancel out in the mean: it is 0, like grey's.",
        ),
        Option(
            "No, but the means of its halves can",
            "Over the whole picture white and black cancel out to 0, which is grey. Over one half they do not: its "
            "mean is 0.07 or −0.07, and the noise of a mean over 128 × 64 pixels of 3 colours is 0.006.",
            right=True,
        ),
        Option(
            "No, at t = 999 nothing is left that could be found",
            "As much is left of it as of any picture. One only has to add up the right numbers.",
        ),
    ),
)

QUIZZES = (TWO_NOISES, SAME_T, GREY_END)
