"""The exercises of lesson 04b: a timestep that lies, and one noise of many."""

import math

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz


def seems_like(t: int, alpha_bar: Tensor, s: float) -> int:
    """The timestep whose usual signal-to-noise ratio is nearest to that of latents noised to t without their factor.

    Nearest by the logarithm, since the ratio runs over several powers of ten.
    """
    snr = schedules.snr(alpha_bar.double())
    return int((snr.log() - (snr[t] / s**2).log()).abs().argmin())


def of_many(noises: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of independent noises (N, C, H, W), divided so that its variance is 1: (1, C, H, W)."""
    return torch.einsum("n,nchw->chw", weights, noises)[None] / weights.square().sum().sqrt()


def _noises() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    weights = ([1.0, 1.0, 1.0, 1.0], [0.5, 1.5], [3.0, 2.0, 0.5])
    return [(torch.randn((len(some), 4, 3, 3), generator=generator), torch.tensor(some)) for some in weights]


SEEMS_LIKE = Exercise(
    name="04b.seems_like",
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

OF_MANY = Exercise(
    name="04b.of_many",
    solution=of_many,
    cases=_noises,
    hints=(
        "Start with the weighted sum of the noises. Then find its variance, and divide by what that calls for.",
        "Variances of independent noises add, and a noise times w has the variance w².",
        "So the sum has the variance w₁² + w₂² + … By which number do you divide to get a variance of 1?",
    ),
    mistakes=(
        Mistake(
            lambda noises, weights: of_many(noises, weights) * weights.square().sum().sqrt() / weights.sum(),
            "this is the weighted mean. For four equal weights its variance is 1/4.",
        ),
        Mistake(
            lambda noises, weights: of_many(noises, weights) * weights.square().sum().sqrt(),
            "this is the weighted sum. For four weights of 1 its variance is 4.",
        ),
        Mistake(
            lambda noises, weights: of_many(noises, weights) / weights.square().sum().sqrt(),
            "divided by the variance. Divide by its root, the standard deviation.",
        ),
        Mistake(
            lambda noises, weights: of_many(noises, weights.sqrt()),
            "the variance is 1, but the noises stand to each other as the roots of the weights.",
        ),
    ),
)

EXERCISES = (SEEMS_LIKE, OF_MANY)

NO_HALVES = Quiz(
    name="04b.no_halves",
    question="Why may scale 1 be enough from the noise alone, but not from the halves?",
    options=(
        Option(
            "From the noise alone guidance adds more.",
            "At scale 1 guidance is off, with halves and without.",
        ),
        Option(
            "The halves still show in the noised latent. The noise alone has no picture to keep.",
            "At t = 501 the latent holds 0.52 times the halves. Where it holds more of them, from t = 201, fox and car "
            "stayed mixtures even at scale 4. No proof: without halves there are also 20 steps instead of 11.",
            right=True,
        ),
        Option(
            "The judge is stricter where there were halves.",
            "It does not know where a picture comes from. And the halves show to the eye, too: under “moon” at scale 1 "
            "the sunglasses are left.",
        ),
    ),
)

QUIZZES = (NO_HALVES,)
