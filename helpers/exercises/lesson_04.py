"""The exercises of lesson 04: the best sigma, and a latent found by going downhill."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz

Paint = Callable[[Tensor], Tensor]  # latents: pictures


def best_sigma(c: float, w: float) -> float:
    """The sigma that makes c sigma² + w / 2 (mu² + sigma² - 1 - log sigma²) smallest, whatever mu is.

    c: by how much noise of variance 1 on one latent number raises the pixel terms. w: the weight of KL.
    """
    return (w / (2 * c + w)) ** 0.5


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

EXERCISES = (BEST_SIGMA, DOWNHILL)

BEST_GREY = Quiz(
    name="04.best_grey",
    question="Now the lines are four pixels wide, still one every seven. Which single grey is then the best for L1?",
    options=(
        Option(
            "A grey somewhat darker than before.",
            "The mean does get darker, but that is the best grey for squared error. L1 asks for the median.",
        ),
        Option(
            "Black.",
            "Four pixels in seven are now black, so the value in the middle is black: the median jumps.",
            right=True,
        ),
        Option(
            "White, as before.",
            "White was the median while four pixels in seven were white. Now it is three in seven.",
        ),
    ),
)

QUIZZES = (BEST_GREY,)
