"""The exercises of lesson 04: the best sigma, a timestep that lies, and a latent found by going downhill."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz

Paint = Callable[[Tensor], Tensor]  # latents: pictures


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


def downhill(paint: Paint, wanted: Tensor, z: Tensor, rate: float) -> Tensor:
    """The latent after one step down the gradient of the mean squared error between paint(z) and wanted."""
    return z.detach() - rate * _gradient(paint, wanted, z)


def _gradient(paint: Paint, wanted: Tensor, z: Tensor) -> Tensor:
    """Of the mean squared error. The lesson turns gradients off, so they are turned on here."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((paint(z) - wanted).square().mean(), z)
    return gradient


def _paints() -> list[tuple[Paint, Tensor, Tensor, float]]:
    """A decoder that is linear, and one that bends; both make more numbers than they get."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn((3, 2, 1, 1), generator=generator)
    z = torch.randn((1, 2, 3, 4), generator=generator)
    wanted = torch.randn((1, 3, 6, 8), generator=generator)

    def linear(latents: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(torch.conv2d(latents, weight), scale_factor=2.0)

    return [(linear, wanted, z, 1.0), (lambda latents: linear(latents).tanh(), wanted, z, 30.0)]


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

DOWNHILL = Exercise(
    name="04.downhill",
    solution=downhill,
    cases=_paints,
    hints=(
        "torch follows what is computed from a tensor with requires_grad set: z.detach().requires_grad_() makes one.",
        "Within torch.enable_grad() compute the loss: paint, subtract, square, take the mean.",
        "torch.autograd.grad(loss, z) gives a tuple of one tensor, the gradient. Which way does it point?",
    ),
    mistakes=(
        Mistake(
            lambda paint, wanted, z, rate: z + rate * _gradient(paint, wanted, z),
            "this goes uphill. The gradient points to where the error grows.",
        ),
        Mistake(
            lambda paint, wanted, z, rate: z - rate * wanted.numel() * _gradient(paint, wanted, z),
            "this is the gradient of the sum of the squared errors. Take their mean.",
        ),
        Mistake(
            lambda paint, wanted, z, rate: _gradient(paint, wanted, z),
            "this is the gradient. The answer is the latent that one step along it leads to.",
        ),
        Mistake(
            lambda paint, wanted, z, rate: z - _gradient(paint, wanted, z),
            "the length of the step is missing: `rate` times the gradient.",
        ),
    ),
)

EXERCISES = (BEST_SIGMA, SEEMS_LIKE, DOWNHILL)

BLUR = Quiz(
    name="04.blur",
    question="Now the bicycle stands in the middle place six times out of ten, and the other four times in one of the "
    "six places beside it. What is then the best guess for L1?",
    options=(
        Option(
            "A bicycle smeared over all seven places, but less than before.",
            "That is the mean, the best guess for squared error. Four cases out of ten do move a mean.",
        ),
        Option(
            "The bicycle in the middle place, sharp.",
            "More than half of each pixel's values are that bicycle's, and a value that more than half share is the "
            "median.",
            right=True,
        ),
        Option(
            "A bicycle with stripes and a yellow-green rim, as in the third tile.",
            "Those come where no place has the majority: the medians of red, green and blue can then come from "
            "different places.",
        ),
    ),
)

KL = Quiz(
    name="04.kl",
    question="A VAE is trained with the squared error and with so heavy a KL that KL is 0 for every picture. "
    "What does its decoder paint?",
    options=(
        Option(
            "A new picture each time, since it gets draws from N(0, 1), as KL asks.",
            "KL asks for N(0, 1) at each number, and the decoder learns nothing from it about what a picture is.",
        ),
        Option(
            "The right picture under noise.",
            "At μ = 0 and σ = 1 nothing of the picture is in the latent, so the decoder cannot know which is right.",
        ),
        Option(
            "About the mean of all pictures of the training, whatever the latent.",
            "The latent says nothing about the picture, and the best guess for squared error is then the mean.",
            right=True,
        ),
    ),
)

QUIZZES = (BLUR, KL)
