"""The exercises of lesson 09: two more ways to be of second order, and how many scenes a sign test needs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake

Slope = Callable[[Tensor, float], Tensor]
Chance = Callable[[int, int], float]


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


def scenes_needed(chance: Chance, only_a: int, only_b: int, scenes: int, bar: float) -> int:
    """The smallest multiple of the scenes for which a split in the same proportion has a chance below the bar."""
    times = 1
    while chance(times * only_a, times * only_b) >= bar:
        times += 1
    return times * scenes


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
    hints=(
        "Three lines: where the middle is, an Euler step that ends there, and a step that ends at sigma_next.",
        "The first Euler step is only a look. The slope that it finds is for the whole step, which starts from x.",
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
            "right where both steps are equally long. Here they are not: the change per unit of sigma counts.",
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
    hints=(
        "Two answers lie on a line over sigma. How much does the slope change for each unit of sigma?",
        "From sigma on to the middle of the next step it is half of sigma_next - sigma, which is negative.",
    ),
)


def _coins(only_a: int, only_b: int) -> float:
    n, least = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n)


def _added(chance: Chance, only_a: int, only_b: int, scenes: int, bar: float) -> int:
    more = 0
    while chance(only_a + more * (only_a > only_b), only_b + more * (only_b > only_a)) >= bar:
        more += 1
    return scenes + more


def _doubled(chance: Chance, only_a: int, only_b: int, scenes: int, bar: float) -> int:
    times = 1
    while chance(times * only_a, times * only_b) >= bar:
        times *= 2
    return times * scenes


SCENES_NEEDED = Exercise(
    name="09.scenes_needed",
    solution=scenes_needed,
    cases=lambda: [(_coins, 6, 2, 100, 0.05), (_coins, 16, 5, 100, 0.004), (_coins, 3, 9, 50, 0.01)],
    mistakes=(
        Mistake(
            lambda chance, only_a, only_b, scenes, bar: scenes_needed(chance, only_a, only_b, scenes, bar) // scenes,
            "that many times the scenes; the question is how many scenes that makes.",
        ),
        Mistake(
            lambda chance, only_a, only_b, scenes, bar: scenes_needed(chance, only_a, only_b, scenes, bar) - scenes,
            "one step too early: at the number that you return the chance is not below the bar yet.",
        ),
        Mistake(
            lambda chance, only_a, only_b, scenes, bar: scenes_needed(chance, only_a, only_b, scenes, bar) + scenes,
            "one step too late: one multiple fewer is below the bar already.",
        ),
        Mistake(
            _doubled,
            "you double the scenes each time. Three times as many, five times: try those in between as well.",
        ),
        Mistake(
            _added,
            "you let only the larger count grow. In the same proportion both grow.",
        ),
        Mistake(
            lambda chance, only_a, only_b, scenes, bar: scenes,
            "for these scenes as they are the chance is not below the bar. Try twice as many, three times, and so on.",
        ),
    ),
    hints=(
        "Try one multiple after the other. Both counts grow with the scenes, each by the same factor.",
        "A while loop: as long as the chance of the two multiplied counts is not below the bar, take the next factor.",
    ),
)


EXERCISES = (MIDPOINT_STEP, TWO_STEP, SCENES_NEEDED)
