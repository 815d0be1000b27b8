"""The exercises of lesson 09: where the steps stand, two more ways to be second order, and a step with dice."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake

Slope = Callable[[Tensor, float], Tensor]


def trailing(steps: int, total: int) -> list[int]:
    """Timesteps with equal gaps that begin at the last one: "trailing" in Lin et al. (2023), arXiv:2305.08891."""
    return [round(total - i * total / steps) - 1 for i in range(steps)]


def midpoint_step(slope: Slope, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """One step along the slope in the middle of the way, which Euler's method finds with half a step."""
    middle = (sigma + sigma_next) / 2
    half = x + (middle - sigma) * slope(x, sigma)
    return x + (sigma_next - sigma) * slope(half, middle)


def two_step(
    x: Tensor, eps: Tensor, eps_before: Tensor, sigma_before: float, sigma: float, sigma_next: float
) -> Tensor:
    """Adams and Bashforth's method of two steps, of any two lengths; with equal ones PNDM's third step."""
    length, length_before = sigma_next - sigma, sigma - sigma_before
    return x + length * (eps + (eps - eps_before) * length / (2 * length_before))


def ancestral_step(x: Tensor, eps: Tensor, sigma: float, sigma_next: float, z: Tensor) -> Tensor:
    """Euler's step to below the next noise level, and fresh noise z back up to it: "Euler a"."""
    up = math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2)
    down = math.sqrt(sigma_next**2 - up**2)
    return x + (down - sigma) * eps + up * z


TRAILING = Exercise(
    name="09.trailing",
    solution=trailing,
    cases=[(steps, 1000) for steps in (1, 4, 5, 7, 20)] + [(3, 100)],
    mistakes=(
        Mistake(
            lambda steps, total: [i * (total // steps) for i in reversed(range(steps))],
            "this is the spacing 'leading', counted from the clean end. Begin at the last timestep of all.",
        ),
        Mistake(
            lambda steps, total: [round(total - i * total / steps) for i in range(steps)],
            "timesteps count from 0, so the last one is total - 1: all of these are one too high.",
        ),
        Mistake(
            lambda steps, total: trailing(steps, total)[::-1],
            "the right numbers, counted up. A run goes from noise to picture, from the highest down.",
        ),
        Mistake(
            lambda steps, total: [round(i * (total - 1) / max(1, steps - 1)) for i in reversed(range(steps))],
            "this asks the network about t = 0, where nothing is left to do. The last step ends there; it begins a "
            "whole gap above.",
        ),
        Mistake(
            lambda steps, total: [int(total - i * total / steps) - 1 for i in range(steps)],
            "int cuts the fraction off, which loses a timestep here and there: round instead.",
        ),
    ),
)


def _numbers(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((2, 3), generator=generator) for _ in range(count)]


def _curved(x: Tensor, sigma: float) -> Tensor:
    return torch.sin(x) / (1 + sigma)


def _heun(slope: Slope, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    first = slope(x, sigma)
    second = slope(x + (sigma_next - sigma) * first, sigma_next)
    return x + (sigma_next - sigma) * (first + second) / 2


def _from_the_middle(slope: Slope, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    half = x + (sigma_next - sigma) / 2 * slope(x, sigma)
    return half + (sigma_next - sigma) * slope(half, (sigma + sigma_next) / 2)


MIDPOINT_STEP = Exercise(
    name="09.midpoint_step",
    solution=midpoint_step,
    cases=lambda: [(_curved, _numbers(1)[0], *ends) for ends in ((4.0, 1.5), (1.0, 0.2), (0.5, 0.0))],
    mistakes=(
        Mistake(
            lambda slope, x, sigma, sigma_next: x + (sigma_next - sigma) * slope(x, sigma),
            "this is Euler's step, along the slope at the start. Go half of it, and look again.",
        ),
        Mistake(
            _heun,
            "this is Heun's step, the mean of the slopes at both ends. The midpoint method uses one slope, in between.",
        ),
        Mistake(
            lambda slope, x, sigma, sigma_next: (
                x + (sigma_next - sigma) * slope(x + (sigma_next - sigma) / 2 * slope(x, sigma), sigma)
            ),
            "in the middle the noise level is another one too: tell the slope where it is asked.",
        ),
        Mistake(
            lambda slope, x, sigma, sigma_next: x + (sigma_next - sigma) * slope(x, (sigma + sigma_next) / 2),
            "the noise level is that of the middle, but x has not moved: take half an Euler step first.",
        ),
        Mistake(
            _from_the_middle,
            "the slope is right, but the whole step starts from x; the half step was only to look.",
        ),
    ),
)


def _two_step_cases() -> list[tuple]:
    x, eps, eps_before = _numbers(3, seed=1)
    return [(x, eps, eps_before, *sigmas) for sigmas in ((6.0, 4.0, 2.0), (9.0, 4.0, 1.0), (2.0, 0.9, 0.0))]


TWO_STEP = Exercise(
    name="09.two_step",
    solution=two_step,
    cases=_two_step_cases,
    mistakes=(
        Mistake(
            lambda x, eps, eps_before, sigma_before, sigma, sigma_next: (
                x + (sigma_next - sigma) * (3 * eps - eps_before) / 2
            ),
            "right where both steps are equally long, as PNDM takes them. Here they are not: the change per unit of "
            "sigma counts.",
        ),
        Mistake(
            lambda x, eps, eps_before, sigma_before, sigma, sigma_next: x + (sigma_next - sigma) * eps,
            "this is Euler's step. The answer of the call before tells how the slope changes.",
        ),
        Mistake(
            lambda x, eps, eps_before, sigma_before, sigma, sigma_next: two_step(
                x, eps, 2 * eps - eps_before, sigma_before, sigma, sigma_next
            ),
            "the change has the wrong sign: carry on from before to now, not back.",
        ),
        Mistake(
            lambda x, eps, eps_before, sigma_before, sigma, sigma_next: (
                x + (sigma_next - sigma) * (eps + (eps - eps_before) * (sigma_next - sigma) / (sigma - sigma_before))
            ),
            "this is the slope expected at the end. The mean along the step is the slope in its middle, half as far.",
        ),
        Mistake(
            lambda x, eps, eps_before, sigma_before, sigma, sigma_next: (
                x
                + (sigma_next - sigma)
                * (eps + (eps - eps_before) * (sigma - sigma_before) / (2 * (sigma_next - sigma)))
            ),
            "the ratio of the lengths is upside down: a longer step before means a smaller change per unit.",
        ),
    ),
)


def _split(sigma: float, sigma_next: float) -> tuple[float, float]:
    up = math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2)
    return math.sqrt(sigma_next**2 - up**2), up


def _ancestral_cases() -> list[tuple]:
    x, eps, z = _numbers(3, seed=2)
    return [(x, eps, *sigmas, z) for sigmas in ((14.6, 3.0), (2.0, 1.5), (0.4, 0.0))]


ANCESTRAL_STEP = Exercise(
    name="09.ancestral_step",
    solution=ancestral_step,
    cases=_ancestral_cases,
    mistakes=(
        Mistake(
            lambda x, eps, sigma, sigma_next, z: x + (sigma_next - sigma) * eps + _split(sigma, sigma_next)[1] * z,
            "the step already ends at the next noise level, and the fresh noise comes on top: step to sigma_down.",
        ),
        Mistake(
            lambda x, eps, sigma, sigma_next, z: x + (sigma_next - sigma) * eps,
            "this is Euler's step, with no dice at all.",
        ),
        Mistake(
            lambda x, eps, sigma, sigma_next, z: (
                x + (_split(sigma, sigma_next)[0] - sigma) * eps + _split(sigma, sigma_next)[1] ** 2 * z
            ),
            "the formula gives the square of sigma_up, a variance; noise is multiplied by its root.",
        ),
        Mistake(
            lambda x, eps, sigma, sigma_next, z: (
                x + (sigma_next - _split(sigma, sigma_next)[1] - sigma) * eps + _split(sigma, sigma_next)[1] * z
            ),
            "noise levels add by their squares: sigma_down is the root of a difference of squares.",
        ),
        Mistake(
            lambda x, eps, sigma, sigma_next, z: x + (_split(sigma, sigma_next)[0] - sigma) * eps + sigma_next * z,
            "too much fresh noise: with what was left, sigma_up must make up sigma_next, not be it.",
        ),
    ),
)

EXERCISES = (TRAILING, MIDPOINT_STEP, TWO_STEP, ANCESTRAL_STEP)
