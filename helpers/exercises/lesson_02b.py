"""The exercises of lesson 02b: the perfect network, and DDPM's step from two bells."""

import math

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz


def _tensors(*shape: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def two_bells(x_t: Tensor, x0: Tensor, a: float, a_next: float) -> tuple[Tensor, float]:
    """Mean and variance of x at the next timestep, given x_t and x0: Ho et al. (2020), equations 6 and 7."""
    alpha = a / a_next
    return _product(math.sqrt(a_next) * x0, 1 - a_next, x_t / math.sqrt(alpha), (1 - alpha) / alpha)


def _product(one: Tensor, of_one: float, other: Tensor, of_other: float) -> tuple[Tensor, float]:
    """The product of two normal densities, each with its mean and its variance."""
    variance = 1 / (1 / of_one + 1 / of_other)
    return variance * (one / of_one + other / of_other), variance


def perfect(x_t: Tensor, truths: Tensor, fit: Tensor, counts: Tensor, a: float) -> Tensor:
    """The predicted noise for x_t (1, ...) that is best if picture i of n (n, ...) stands in the data counts[i] times.

    fit: how likely each of the n is under x_t if all stand in the data once, (n,).
    """
    weights = fit * counts
    return _noise(x_t, _sum(truths, weights / weights.sum()), a)


def _noise(x_t: Tensor, mean: Tensor, a: float) -> Tensor:
    """The closed form of lesson 01, solved for the noise."""
    return (x_t - math.sqrt(a) * mean) / math.sqrt(1 - a)


def _sum(truths: Tensor, weights: Tensor) -> Tensor:
    return (weights.reshape(-1, *[1] * (truths.ndim - 1)) * truths).sum(dim=0, keepdim=True)


def _two_bells_cases() -> list[tuple[Tensor, Tensor, float, float]]:
    x_t, x0 = _tensors(2, 4, 3, 3, count=2)
    return [(x_t, x0, a, a_next) for a, a_next in ((0.0047, 0.02), (0.3, 0.5), (0.8, 0.97))]


TWO_BELLS = Exercise(
    name="02b.two_bells",
    solution=two_bells,
    cases=_two_bells_cases,
    hints=(
        "Two people have measured the same length, one twice as carefully as the other. Whom do you believe more?",
        "The middle is a weighted mean of the two values. The smaller the variance, the larger the weight.",
        "The weights are 1 over each variance, divided by their sum; and 1 over that sum is the variance.",
    ),
    mistakes=(
        Mistake(
            lambda x_t, x0, a, a_next: (
                (math.sqrt(a_next) * x0 + x_t / math.sqrt(a / a_next)) / 2,
                two_bells(x_t, x0, a, a_next)[1],
            ),
            "this is the plain mean of the two. The surer one of them has to count more.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: (
                _weighted(x_t, x0, a, a_next, 1 - a_next, (a_next - a) / a),
                two_bells(x_t, x0, a, a_next)[1],
            ),
            "here the less sure one counts more: a weight is 1 over the variance.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: (
                _weighted(x_t, x0, a, a_next, (1 - a_next) ** -0.5, ((a_next - a) / a) ** -0.5),
                two_bells(x_t, x0, a, a_next)[1],
            ),
            "the exponent of a bell is divided by its variance, so the weights are 1 over variances, without a root.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: (
                two_bells(x_t, x0, a, a_next)[0] / two_bells(x_t, x0, a, a_next)[1],
                two_bells(x_t, x0, a, a_next)[1],
            ),
            "the weights do not add up to 1 yet: multiply the mean by the variance, which is 1 over their sum.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: _product(math.sqrt(a_next) * x0, 1 - a_next, x_t, 1 - a / a_next),
            "x_t is x at the next timestep times the root of alpha, and noise. Divide it by that root first, and its "
            "variance by alpha.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: _product(x0, 1 - a_next, x_t / math.sqrt(a / a_next), (a_next - a) / a),
            "the picture stands in x at the next timestep with the root of a_next of its strength.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: (
                two_bells(x_t, x0, a, a_next)[0],
                math.sqrt(two_bells(x_t, x0, a, a_next)[1]),
            ),
            "the mean is right; return the variance itself, not its root.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: two_bells(x_t, x0, a, a_next)[0],
            "the mean is right; return the variance, too: `return mean, variance`.",
        ),
    ),
)


def _weighted(x_t: Tensor, x0: Tensor, a: float, a_next: float, of_picture: float, of_latent: float) -> Tensor:
    total = of_picture + of_latent
    return (of_picture * math.sqrt(a_next) * x0 + of_latent * x_t / math.sqrt(a / a_next)) / total


def _perfect_cases() -> list[tuple[Tensor, Tensor, Tensor, Tensor, float]]:
    truths = torch.stack(_tensors(2, 2, 2, count=5))
    (eps,) = _tensors(1, 2, 2, 2, count=1)
    counts = torch.tensor([2.0, 1.0, 5.0, 1.0, 20.0])
    cases = []
    for a in (0.01, 0.3, 0.8):
        x_t = math.sqrt(a) * truths[:1] + math.sqrt(1 - a) * eps
        squares = (x_t - math.sqrt(a) * truths).flatten(1).square().sum(dim=1)
        cases.append((x_t, truths, torch.softmax(-squares / (2 * (1 - a)), dim=0), counts, a))
    return cases


def _posterior_mean(truths: Tensor, fit: Tensor, counts: Tensor) -> Tensor:
    return _sum(truths, fit * counts / (fit * counts).sum())


PERFECT = Exercise(
    name="02b.perfect",
    solution=perfect,
    cases=_perfect_cases,
    hints=(
        "Three parts: a weight for each truth, their weighted mean, and the noise that is left if this mean is x0.",
        "Bayes' rule: what is likely afterwards is what was likely before, times how well it fits. So multiply each "
        "fit by its count, then make the products add up to 1.",
        "Reshape the weights to (n, 1, 1, 1) for the mean, and keep the first dimension. Then solve the closed form, "
        "x_t = root of a times x0 + root of (1 - a) times noise, for the noise.",
    ),
    mistakes=(
        Mistake(
            lambda x_t, truths, fit, counts, a: _noise(x_t, _sum(truths, fit), a),
            "here every picture counts once. One that stands in the data twice weighs twice as much.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: _noise(x_t, _sum(truths, (fit + counts) / (fit + counts).sum()), a),
            "the counts are added to the fits. They are factors.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: _noise(x_t, _sum(truths, (fit * counts).softmax(dim=0)), a),
            "there is a softmax too many: `fit` has gone through one. Divide the products by their sum.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: _noise(x_t, _sum(truths, fit * counts), a),
            "after the counts the weights do not add up to 1 any more: divide by their sum.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: _noise(x_t, _sum(truths, fit * counts / counts.sum()), a),
            "the weights do not add up to 1: divide by the sum of the products, not by that of the counts.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: _noise(x_t, _sum(truths, counts / counts.sum()), a),
            "this is right for noise in which nothing is left: truths that fit x_t better weigh more.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: _noise(x_t, truths[(fit * counts).argmax()][None], a),
            "this takes the likeliest one. The best answer is a mean, with a weight for each truth.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: _posterior_mean(truths, fit, counts),
            "that is the mean, the best estimate of x0. The answer is the noise: solve the closed form for it.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: (x_t - _posterior_mean(truths, fit, counts)) / math.sqrt(1 - a),
            "a picture stands in x_t with only the root of a of its strength: multiply the mean by that first.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: (x_t - a * _posterior_mean(truths, fit, counts)) / math.sqrt(1 - a),
            "a is a variance; a picture stands in x_t times its square root.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: x_t - math.sqrt(a) * _posterior_mean(truths, fit, counts),
            "this is the noise as it stands in x_t, times the root of (1 - a): divide by it.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: (x_t - math.sqrt(a) * _posterior_mean(truths, fit, counts)) / (1 - a),
            "1 - a is a variance; the noise stands in x_t times its square root.",
        ),
        Mistake(
            lambda x_t, truths, fit, counts, a: -perfect(x_t, truths, fit, counts, a),
            "the sign: the noise is what is left of x_t when the mean's part is taken away.",
        ),
    ),
)

EXERCISES = (PERFECT, TWO_BELLS)

COPIES = Quiz(
    name="02b.copies",
    question="Scene 1 stands in the data 100 times, each of the other 199 scenes once. The loop starts from pure "
    "noise, with the perfect network for these data. In how many of the runs does it draw scene 1?",
    options=(
        Option(
            "In nearly all: it is the likeliest from the start",
            "The likeliest, but not certain: before anything is seen it has a third of the weight. The noise of a run "
            "can speak for another scene.",
        ),
        Option(
            "In about a third: 100 of 299",
            "So many end there if the starts are made of these data, by adding noise: then a trace of the scene is "
            "left in each start. Pure noise lacks the trace that the network expects at t = 961.",
        ),
        Option(
            "In clearly fewer than a third",
            "At t = 961 the network still expects a trace of a picture in the noise, 0.09 of its strength. Among 199 "
            "different scenes some fit the noise by chance; a hundred copies fit or miss together. So we expect less "
            "than their share. The table below counts the ends.",
            right=True,
        ),
    ),
)

QUIZZES = (COPIES,)
