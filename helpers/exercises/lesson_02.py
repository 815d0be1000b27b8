"""The exercises of lesson 02: noise and picture exchanged, a loop for the other network, and the perfect network."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz

Network = Callable[[Tensor, int], Tensor]


def _tensors(*shape: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def noise_of(x_t: Tensor, x0: Tensor, a: float) -> Tensor:
    """The noise in x_t if x0 is the clean latent under it: Ho et al. (2020), equation 4, solved for the noise."""
    return (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)


def sample(predict_x0: Network, x: Tensor, timesteps: Sequence[int], alpha_bar: Tensor) -> Tensor:
    """The whole of DDIM with a network that predicts x0: Song et al. (2020), equation 12 with sigma 0."""
    bars = [*(float(alpha_bar[t]) for t in timesteps), 1.0]
    for t, (a, a_next) in zip(timesteps, itertools.pairwise(bars), strict=True):
        x0 = predict_x0(x, t)
        x = math.sqrt(a_next) * x0 + math.sqrt(1 - a_next) * noise_of(x, x0, a)
    return x


def perfect(x_t: Tensor, truths: Tensor, counts: Tensor, a: float) -> Tensor:
    """The mean of x0 given x_t, in a world of n pictures (n, ...) that stand in it counts (n,) times: (1, ...)."""
    return _mean(truths, counts.log() - _squares(x_t - math.sqrt(a) * truths) / (2 * (1 - a)))


def _squares(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(dim=1)


def _sum(truths: Tensor, weights: Tensor) -> Tensor:
    return (weights.reshape(-1, *[1] * (truths.ndim - 1)) * truths).sum(dim=0, keepdim=True)


def _mean(truths: Tensor, scores: Tensor) -> Tensor:
    return _sum(truths, scores.softmax(dim=0))


NOISE_OF = Exercise(
    name="02.noise_of",
    solution=noise_of,
    cases=[(x_t, x0, a) for x_t, x0 in [_tensors(2, 4, 3, 3, count=2)] for a in (0.9, 0.3, 0.0047)],
    hints=(
        "Write down the closed form of x_t from lesson 01. All of its quantities but one are given.",
        "Solve it for the noise: first take the picture away, as strong as it is in x_t.",
        "What is left is the noise times the square root of 1 - a.",
    ),
    mistakes=(
        Mistake(
            lambda x_t, x0, a: (x_t - a * x0) / (1 - a),
            "alpha_bar and 1 - alpha_bar are variances; the numbers are multiplied by their square roots.",
        ),
        Mistake(
            lambda x_t, x0, a: x_t - math.sqrt(a) * x0,
            "the picture is out, but what is left has only the root of 1 - alpha_bar of the noise's strength.",
        ),
        Mistake(
            lambda x_t, x0, a: x_t - x0,
            "x_t holds neither the whole picture nor the whole noise: solve the formula of x_t for the noise.",
        ),
        Mistake(
            lambda x_t, x0, a: (x_t - math.sqrt(1 - a) * x0) / math.sqrt(a),
            "this is the formula for x0 with the noise in its place; here the picture is known and the noise is asked.",
        ),
        Mistake(
            lambda x_t, x0, a: (x_t + math.sqrt(a) * x0) / math.sqrt(1 - a),
            "this adds the picture a second time; it has to be taken away.",
        ),
    ),
)


def _stand_in(alpha_bar: Tensor) -> Network:
    """In place of a U-Net: near the best estimate for data that is standard normal, so that a run stays near 1."""
    return lambda x, t: alpha_bar[t].sqrt() * x + 0.1 * torch.sin(3 * x)


def _sample_cases() -> list[tuple[Network, Tensor, list[int], Tensor]]:
    alpha_bar = schedules.alpha_bar(schedules.betas())
    (x,) = _tensors(1, 4, 4, 4, count=1)
    lists = ([999, 749, 499, 249], list(range(981, 0, -20)), [999, 300])
    return [(_stand_in(alpha_bar), x, timesteps, alpha_bar) for timesteps in lists]


def _loop(
    predict_x0: Network,
    x: Tensor,
    timesteps: Sequence[int],
    a: Tensor,
    *,
    last: float | None = 1.0,
    old: bool = False,
    told_next: bool = False,
    as_noise: bool = False,
) -> Tensor:
    """`sample` with one fault. last: alpha_bar after the last timestep; None takes no step there."""
    after = [*(float(a[t]) for t in timesteps[1:])] + ([] if last is None else [last])
    for i, (t, a_next) in enumerate(zip(timesteps, after, strict=False)):
        told = timesteps[min(i + 1, len(timesteps) - 1)] if told_next else t
        x0 = predict_x0(x, told)
        eps = noise_of(x, x0, float(a[t]))
        if as_noise:
            x0, eps = (x - math.sqrt(1 - a[t]) * x0) / math.sqrt(a[t]), x0
        x = math.sqrt(a_next) * x0 + math.sqrt(1 - (float(a[t]) if old else a_next)) * eps
    return x


def _estimates_only(predict_x0: Network, x: Tensor, timesteps: Sequence[int], a: Tensor) -> Tensor:
    for t in timesteps:
        x = predict_x0(x, t)
    return x


SAMPLE = Exercise(
    name="02.sample",
    solution=sample,
    cases=_sample_cases,
    # A run of 50 steps adds up the roundings of each.
    rtol=1e-3,
    atol=1e-3,
    hints=(
        "One step has two moves: know picture and noise, then mix them for the next timestep of the list.",
        "The network gives the picture. Exercise 1 gives the noise, with the alpha_bar of the timestep that x is at.",
        "The mix takes the alpha_bar of the next timestep. After the last one it is 1, so no noise is left.",
    ),
    mistakes=(
        Mistake(
            lambda *given: _loop(*given, as_noise=True),
            "the answer of this network is the picture, not the noise: what is left to find is the noise.",
        ),
        Mistake(
            lambda *given: _loop(*given, old=True),
            "the noise goes back in with the strength of the timestep you go to, not of the one you come from.",
        ),
        Mistake(
            _estimates_only,
            "this jumps to the clean picture every time; after each estimate noise has to come back, a little less.",
        ),
        Mistake(
            lambda predict_x0, x, timesteps, a: _loop(predict_x0, x, timesteps, a, last=float(a[-1])),
            "alpha_bar[-1] is the noisiest of all to Python. After the last timestep comes the clean picture, with 1.",
        ),
        Mistake(
            lambda *given: _loop(*given, last=None),
            "one step is missing: from the last timestep of the list to the clean picture.",
        ),
        Mistake(
            lambda predict_x0, x, timesteps, a: predict_x0(x, timesteps[0]),
            "this is one jump from the first timestep. Visit all of them, each from where the one before arrived.",
        ),
        Mistake(
            lambda *given: _loop(*given, told_next=True),
            "predict_x0 has to be told the timestep that x is at now, not the one it goes to.",
        ),
    ),
)


def _perfect_cases() -> list[tuple[Tensor, Tensor, Tensor, float]]:
    truths = torch.stack(_tensors(2, 2, 2, count=5))
    (eps,) = _tensors(1, 2, 2, 2, count=1)
    counts = torch.tensor([2.0, 1.0, 5.0, 1.0, 20.0])
    return [(math.sqrt(a) * truths[:1] + math.sqrt(1 - a) * eps, truths, counts, a) for a in (0.01, 0.3, 0.8)]


def _exponents(x_t: Tensor, truths: Tensor, a: float) -> Tensor:
    """Those of `likely` in the lesson."""
    return -_squares(x_t - math.sqrt(a) * truths) / (2 * (1 - a))


PERFECT = Exercise(
    name="02.perfect",
    solution=perfect,
    cases=_perfect_cases,
    hints=(
        "Two parts: a weight for each truth, as in `likely`, then a weighted mean. The weights add up to 1.",
        "Bayes' rule: what is likely afterwards is what was likely before, times how well it fits. So each weight is "
        "multiplied by its count, before all are made to add up to 1.",
        "Inside `torch.softmax` a factor becomes a sum: add `counts.log()` to the exponents. Reshape the weights to "
        "(n, 1, 1, 1) for the mean, and keep the first dimension.",
    ),
    mistakes=(
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, _exponents(x_t, truths, a)),
            "here every picture counts once. One that stands in the data twice weighs twice as much.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts + _exponents(x_t, truths, a)),
            "the counts stand in the exponent as they are. They are factors of the weights: in the exponent that is a "
            "sum with their logarithm.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts * _exponents(x_t, truths, a)),
            "the counts multiply the exponents. They are factors of the weights themselves.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _sum(truths, counts * _exponents(x_t, truths, a).softmax(dim=0)),
            "after the counts the weights do not add up to 1 any more: divide by their sum.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _sum(truths, counts / counts.sum()),
            "this is right for noise in which nothing is left: truths that fit x_t better weigh more.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: truths[(counts.log() + _exponents(x_t, truths, a)).argmax()][None],
            "this takes the likeliest one. The best answer is a mean, with a weight for each truth.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts.log() - _exponents(x_t, truths, a)),
            "the exponent is negative: the larger the distance, the smaller the weight.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts.log() - _squares(x_t - truths) / (2 * (1 - a))),
            "a truth stands in x_t with only the root of a of its strength: multiply it before you compare.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts.log() - _squares(x_t - a * truths) / (2 * (1 - a))),
            "a is a variance; a truth stands in x_t times its square root.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts.log() + 2 * _exponents(x_t, truths, a)),
            "the exponent of a normal distribution is divided by twice the variance.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: perfect(x_t, truths, counts, a)[0],
            "the right numbers; keep the first dimension, so that the answer has the shape of x_t.",
        ),
    ),
)

EXERCISES = (NOISE_OF, SAMPLE, PERFECT)

ONE_LOOK = Quiz(
    name="02.one_look",
    question="A world has two pictures, equally likely: a white square and a black square. A perfect network is shown "
    "noise in which no trace of the picture is left, and asked once for the picture. What does it answer?",
    options=(
        Option(
            "White or black, each in half of the cases",
            "That would be a sample, not the best guess. In half of the cases such an answer is as wrong as can be, "
            "and the squared error punishes that.",
        ),
        Option(
            "Grey, every time",
            "Grey is never true and never far off. Its squared error is half of what a gamble on white or black "
            "would cost.",
            right=True,
        ),
        Option(
            "A square with a white and a black half",
            "Every place is white or black with equal chances, so the best number for each place is the one between "
            "them, everywhere alike.",
        ),
    ),
)

ERROR_AT_THE_END = Quiz(
    name="02.error_at_the_end",
    question="At t = 999 `sqrt(alpha_bar)` is about 0.07. The predicted noise is wrong by 0.05. By how much is the "
    "estimate of x0 wrong?",
    options=(
        Option(
            "By about 0.0035",
            "That multiplies by 0.07. The formula divides by it: x_t holds only 0.07 of the picture, so what is left "
            "after the noise is taken out has to be made larger.",
        ),
        Option(
            "By about 0.05",
            "Noise and picture would count alike only where x_t holds as much of one as of the other, near t = 354.",
        ),
        Option(
            "By about 0.7",
            "0.05 / 0.07 is about 0.7, more than half of the size of a latent's numbers: a small error in the noise is "
            "a large one in the picture.",
            right=True,
        ),
    ),
)

QUIZZES = (ONE_LOOK, ERROR_AT_THE_END)
