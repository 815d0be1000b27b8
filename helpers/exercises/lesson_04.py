"""The exercises of lesson 04: the best sigma, a timestep that lies, and a decoder taken for linear."""

import math

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz


def best_sigma(c: float, w: float) -> float:
    """The sigma that makes c sigma² + w / 2 (mu² + sigma² - 1 - log sigma²) smallest, whatever mu is.

    c: by how much noise of variance 1 on one latent number raises the pixel terms. w: the weight of KL.
    """
    return (w / (2 * c + w)) ** 0.5


def seems_like(t: int, alpha_bar: Tensor, s: float) -> int:
    """The timestep whose usual signal-to-noise ratio is nearest to that of latents noised to t without their factor.

    Nearest by the logarithm, since the ratio runs over several powers of ten.
    """
    snr = schedules.snr(alpha_bar.double())
    return int((snr.log() - (snr[t] / s**2).log()).abs().argmin())


def sheets(none: Tensor, only: Tensor) -> Tensor:
    """What a linear decoder would paint from all channels, given what it paints from none and from each alone.

    none: (1, 3, H, W), every channel flat. only: (N, 3, H, W), all but one channel flat. Returns (1, 3, H, W): each
    channel's change, added to what none gives.
    """
    return none + (only - none).sum(dim=0, keepdim=True)


def _sheet_cases() -> list[tuple[Tensor, Tensor]]:
    painted = torch.randn((5, 3, 6, 4), generator=torch.Generator().manual_seed(3))
    return [(painted[:1], painted[1:]), (painted[:1], painted[1:4]), (painted[:1], painted[1:2])]


BEST_SIGMA = Exercise(
    name="04.best_sigma",
    solution=best_sigma,
    cases=[(1e-3, 1e-6), (0.5, 1.0), (0.0, 2.0)],
    hints=(
        "At the smallest sum the derivative with respect to sigma is zero. What does mu contribute to it?",
        "log sigma² is 2 log sigma, and its derivative is 2 / sigma.",
        "Multiply the equation by sigma, and solve it for sigma² first.",
    ),
    mistakes=(
        Mistake(
            lambda c, w: w / (2 * c + w),
            "this is the variance. The question asks for its square root.",
        ),
        Mistake(
            lambda c, w: math.sqrt(w / (2 * c)) if c else math.inf,
            "nearly, while c is large beside w. KL has a sigma² of its own: without pixel terms, sigma should be 1.",
        ),
        Mistake(
            lambda c, w: math.sqrt(w / (c + w)),
            "a factor of 2 is missing: the derivative of c sigma² has one, and KL has a half in front.",
        ),
        Mistake(
            lambda c, w: math.sqrt((2 * c + w) / w),
            "upside down: the more noise costs in pixels, the smaller sigma should be.",
        ),
    ),
)

SEEMS_LIKE = Exercise(
    name="04.seems_like",
    solution=seems_like,
    cases=[
        (300, schedules.alpha_bar(schedules.betas()), 0.5),
        (700, schedules.alpha_bar(schedules.betas()), 0.18215),
        (500, schedules.alpha_bar(schedules.betas("cosine")), 2.0),
    ],
    hints=(
        "Write down the signal-to-noise ratio of every timestep: alpha_bar over what is left to 1.",
        "Without the factor the latent is 1/s times as large. By how much does that change its variance?",
        "Now look for the timestep whose logarithm of the ratio differs least from the one you found.",
    ),
    mistakes=(
        Mistake(
            lambda t, alpha_bar, s: seems_like(t, alpha_bar, math.sqrt(s)),
            "the ratio compares variances: a standard deviation of 1 / s counts with its square.",
        ),
        Mistake(
            lambda t, alpha_bar, s: seems_like(t, alpha_bar, 1 / s),
            "the wrong way: without its factor the latent has the variance 1 / s², and so has the signal.",
        ),
        Mistake(
            lambda t, alpha_bar, s: t,
            "t itself says how much noise there is beside a latent of variance 1. This one has another variance.",
        ),
        Mistake(
            lambda t, alpha_bar, s: int((alpha_bar - alpha_bar[t] / s**2).abs().argmin()),
            "alpha_bar cannot be scaled: it is a share. Scale the ratio alpha_bar / (1 - alpha_bar).",
        ),
        Mistake(
            lambda t, alpha_bar, s: seems_like(t, alpha_bar, s) + 1,
            "one too far. Timesteps count from 0, so the index of the nearest is the answer.",
        ),
    ),
)

SHEETS = Exercise(
    name="04.sheets",
    solution=sheets,
    cases=_sheet_cases,
    hints=(
        "Say first what one channel adds: the picture with it alone, less the picture with none.",
        "Add up what the channels add: a sum over the first dimension.",
        "Put the sum on top of `none`. With keepdim=True it keeps its batch dimension.",
    ),
    mistakes=(
        Mistake(
            lambda none, only: only.sum(dim=0, keepdim=True),
            "`none` lies in each of these pictures, so this counts it once for every channel. Count it once in all.",
        ),
        Mistake(
            lambda none, only: none + only.sum(dim=0, keepdim=True),
            "this counts `none` once more than there are channels: take it off each of them first.",
        ),
        Mistake(
            lambda none, only: (only - none).sum(dim=0, keepdim=True),
            "these are the changes. Add them to what no channel at all gives.",
        ),
        Mistake(
            lambda none, only: none + (only - none).mean(dim=0, keepdim=True),
            "each channel adds all of its own change, not a share of it: a sum, not a mean.",
        ),
        Mistake(
            lambda none, only: sheets(none, only)[0],
            "the values are right; keep the batch dimension, (1, 3, H, W), as `none` has it.",
        ),
    ),
)

EXERCISES = (BEST_SIGMA, SEEMS_LIKE, SHEETS)

BLUR = Quiz(
    name="04.blur",
    question="A decoder that cannot know where the bicycle stands, and is asked only for small errors, would paint a "
    "bicycle that is none. Which term of Stable Diffusion's loss was added to tell it that no real picture looks like "
    "that?",
    options=(
        Option(
            "L1, because its best guess, the median, is sharper than the mean.",
            "Sharper, but no possible picture either: its rims turn a colour that no bicycle has.",
        ),
        Option(
            "The patch discriminator.",
            "It learns to tell real patches from decoded ones, and a rim smeared over seven places is in no real one.",
            right=True,
        ),
        Option(
            "KL, because it draws the latent towards a normal distribution.",
            "KL is computed from the encoder's mean and sigma. It never sees what the decoder paints from them.",
        ),
    ),
)

WHOLE = Quiz(
    name="04.whole",
    question="What would you change so that more of the two halves is kept?",
    options=(
        Option(
            "Noise them to a smaller t.",
            "Less noise leaves more of the halves, the seam too. Lesson 08 turns the same dial and calls it strength.",
            right=True,
        ),
        Option(
            "Draw the noise with another seed.",
            "The picture changes, but how strong the halves are beside the noise is decided by t, for every seed.",
        ),
        Option(
            "Take more and smaller steps from the same t.",
            "What the noise covers was covered before the first step, however many follow.",
        ),
    ),
)

QUIZZES = (BLUR, WHOLE)
