"""The exercises of lesson 04: the best sigma, a timestep that lies, and several latents side by side."""

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


def strips(latents: Tensor) -> Tensor:
    """N latents (N, C, h, w) as one (1, C, h, w): strip i, from column round(i w / N) on, is cut from latent i."""
    count, width = len(latents), latents.shape[-1]
    edges = [round(i * width / count) for i in range(count + 1)]
    return torch.cat([latents[i : i + 1, ..., edges[i] : edges[i + 1]] for i in range(count)], dim=-1)


def _strip_cases() -> list[tuple[Tensor]]:
    latents = torch.randn((3, 4, 6, 16), generator=torch.Generator().manual_seed(3))
    return [(latents,), (latents[:2, ..., :6],), (latents[:1],)]


def _even_strips(latents: Tensor) -> Tensor:
    width = latents.shape[-1] // len(latents)  # forgets what is left over at the right
    return torch.cat([latents[i : i + 1, ..., i * width : (i + 1) * width] for i in range(len(latents))], dim=-1)


def _lying_strips(latents: Tensor) -> Tensor:
    return strips(latents.transpose(-1, -2)).transpose(-1, -2)


def _first_columns(latents: Tensor) -> Tensor:
    count, width = len(latents), latents.shape[-1]
    edges = [round(i * width / count) for i in range(count + 1)]
    return torch.cat([latents[i : i + 1, ..., : edges[i + 1] - edges[i]] for i in range(count)], dim=-1)


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

STRIPS = Exercise(
    name="04.strips",
    solution=strips,
    cases=_strip_cases,
    hints=(
        "Write down all N + 1 edges first: the last is the width itself.",
        "A slice with `...` leaves the dimensions before the last as they are; `latents[i : i + 1]` keeps the batch.",
        "The pieces stand side by side in the last dimension: torch.cat along it.",
    ),
    mistakes=(
        Mistake(
            _even_strips,
            "where N does not divide the width, this loses columns at the right. Round each edge instead.",
        ),
        Mistake(
            _lying_strips,
            "these strips lie on top of each other. Upright ones follow each other in the last dimension.",
        ),
        Mistake(
            lambda latents: strips(latents.flip(0)),
            "the other way round: the first latent belongs at the left.",
        ),
        Mistake(
            _first_columns,
            "every strip is cut from the left of its latent. Cut it where it will stand.",
        ),
        Mistake(
            lambda latents: strips(latents)[0],
            "the values are right; keep the batch dimension, (1, C, h, w), as the U-Net wants it.",
        ),
    ),
)

EXERCISES = (BEST_SIGMA, SEEMS_LIKE, STRIPS)

BLUR = Quiz(
    name="04.blur",
    question="A decoder trained on errors of pixels alone paints hair as a smooth patch; Stable Diffusion's paints "
    "strands that were not there. Why?",
    options=(
        Option(
            "Its latents keep more numbers for each pixel.",
            "That decides how much is lost, not what is put in its place. Two decoders of one latent still differ.",
        ),
        Option(
            "Its loss has a discriminator, which punishes blur and not invention.",
            "Errors of pixels are smallest for the average of all that fits. A discriminator asks whether a patch "
            "could be real, and an average could not.",
            right=True,
        ),
        Option(
            "It has seen so many photographs that it remembers the strands of most people's hair.",
            "It cannot know which strands were there, because the latent does not say. What it has learnt is how "
            "strands look in general.",
        ),
    ),
)

TYPED = Quiz(
    name="04.typed",
    question="Your code says `x0 / 0.18215`; somebody loads a model whose config says 0.13. How do its pictures look?",
    options=(
        Option(
            "An error is raised, because the shapes no longer fit.",
            "A factor changes no shape. That is why this mistake lives so long: everything runs.",
        ),
        Option(
            "As before: the decoder was trained to take latents of any size.",
            "The decoder has seen latents of one size only, and it takes their size for contrast and colour.",
        ),
        Option(
            "Paler: z comes out too small by 0.13 / 0.18215, about 0.7.",
            "The right z is x0 / 0.13. Divided by the larger number it is 0.7 times as large: the forgotten factor, "
            "only less so.",
            right=True,
        ),
    ),
)

WHOLE = Quiz(
    name="04.whole",
    question="What would you change so that the U-Net keeps more of the two halves?",
    options=(
        Option(
            "Noise them to an earlier t.",
            "Less noise leaves more of the halves, the seam too. It is the one dial, and lesson 08 calls it strength.",
            right=True,
        ),
        Option(
            "Decode the halves first and join them as pictures.",
            "The encoder would turn them into nearly the same latent, and at the seam, where it would not, noise "
            "covers the difference.",
        ),
        Option(
            "Take more and smaller steps from the same t.",
            "Smaller steps follow the same path more exactly. What is lost was lost when the noise was added.",
        ),
    ),
)

QUIZZES = (BLUR, TYPED, WHOLE)
