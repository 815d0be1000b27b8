"""The exercises of lesson 01: one step of noise, many steps at once, and where noise overtakes the picture."""

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake


def _tensors(*shape: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def noise_step(x_prev: Tensor, beta: float, eps: Tensor) -> Tensor:
    """One step of the Markov chain: Ho et al. (2020), equation 2."""
    return schedules.markov_step(x_prev, beta, eps)


def signal_left(betas: Tensor) -> Tensor:
    """alpha_bar of every timestep."""
    return schedules.alpha_bar(betas)


def noisy(x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t in one go, for a batch with a timestep each: Ho et al. (2020), equation 4."""
    return schedules.add_noise(x0, eps, t, alpha_bar)


def first_noisier(alpha_bar: Tensor) -> int:
    """The first timestep with more noise than picture, so with a signal-to-noise ratio below 1."""
    return int((schedules.snr(alpha_bar) < 1).nonzero()[0])


NOISE_STEP = Exercise(
    name="01.noise_step",
    solution=noise_step,
    cases=[(x, beta, eps) for x, eps in [_tensors(2, 3, 4, count=2)] for beta in (0.02, 0.5, 1.0)],
    mistakes=(
        Mistake(
            lambda x, beta, eps: (1 - beta) * x + beta * eps,
            "beta is a variance. Variances add, so numbers are multiplied by the square roots of 1 - beta and beta.",
        ),
        Mistake(
            lambda x, beta, eps: x + beta**0.5 * eps,
            "the picture has to shrink while the noise comes in, or the variance grows with every step.",
        ),
        Mistake(
            lambda x, beta, eps: beta**0.5 * x + (1 - beta) ** 0.5 * eps,
            "the two factors have changed places: beta is the share of the noise.",
        ),
        Mistake(
            lambda x, beta, eps: (1 - beta) ** 0.5 * x + beta * eps,
            "the picture's factor is right; the noise needs a square root too.",
        ),
    ),
)

SIGNAL_LEFT = Exercise(
    name="01.signal_left",
    solution=signal_left,
    cases=[(torch.tensor([0.1, 0.2, 0.5]),), (schedules.betas(),)],
    mistakes=(
        Mistake(
            lambda betas: betas.cumprod(dim=0),
            "this multiplies the shares of noise. What is left of the picture is 1 - beta in each step.",
        ),
        Mistake(
            lambda betas: 1 - betas.cumsum(dim=0),
            "the steps follow each other: each takes its share of what the step before has left, so multiply.",
        ),
        Mistake(
            lambda betas: (1 - betas).prod(),
            "this is the last value alone. A running product, cumprod, gives one for every timestep.",
        ),
        Mistake(
            lambda betas: (1 - betas).sqrt().cumprod(dim=0),
            "this is the square root of it. alpha_bar is a share of the variance; the root comes later.",
        ),
        Mistake(
            lambda betas: 1 - betas,
            "these are the shares of single steps. alpha_bar_t is the product of all of them up to t.",
        ),
    ),
)


def _noisy_cases() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    x0, eps = _tensors(3, 4, 8, 8, count=2)
    return [(x0, eps, torch.tensor(t), schedules.alpha_bar(schedules.betas())) for t in ([0, 500, 999], [10, 10, 300])]


def _spread(a: Tensor) -> Tensor:
    return a[:, None, None, None]


NOISY = Exercise(
    name="01.noisy",
    solution=noisy,
    cases=_noisy_cases,
    mistakes=(
        Mistake(
            lambda x0, eps, t, alpha_bar: _spread(alpha_bar[t]) * x0 + _spread(1 - alpha_bar[t]) * eps,
            "alpha_bar and 1 - alpha_bar are variances; the numbers are multiplied by their square roots.",
        ),
        Mistake(
            lambda x0, eps, t, alpha_bar: _spread(1 - alpha_bar[t]).sqrt() * x0 + _spread(alpha_bar[t]).sqrt() * eps,
            "the two factors have changed places: alpha_bar is what is left of the picture.",
        ),
        Mistake(
            lambda x0, eps, t, alpha_bar: _spread(alpha_bar[t]).sqrt() * x0 + (1 - _spread(alpha_bar[t]).sqrt()) * eps,
            "the factors' squares have to add up to 1, not the factors: take the root of 1 - alpha_bar.",
        ),
        Mistake(
            lambda x0, eps, t, alpha_bar: x0 + _spread(1 - alpha_bar[t]).sqrt() * eps,
            "the picture keeps its full strength here; it has to fade by the root of alpha_bar.",
        ),
        Mistake(
            lambda x0, eps, t, alpha_bar: alpha_bar[t[0]].sqrt() * x0 + (1 - alpha_bar[t[0]]).sqrt() * eps,
            "every picture of the batch has a timestep of its own: index with all of t, then add dimensions.",
        ),
    ),
)

FIRST_NOISIER = Exercise(
    name="01.first_noisier",
    solution=first_noisier,
    cases=[
        (schedules.alpha_bar(schedules.betas("scaled_linear")),),
        (schedules.alpha_bar(schedules.betas("linear", start=1e-4, end=0.02)),),
        (schedules.alpha_bar(schedules.betas("cosine")),),
    ],
    mistakes=(
        Mistake(
            lambda alpha_bar: first_noisier(alpha_bar) - 1,
            "this is the last timestep with more picture than noise; one later is asked for.",
        ),
        Mistake(
            lambda alpha_bar: first_noisier(alpha_bar) + 1,
            "one too far. Timesteps count from 0, so the index of the first is the answer.",
        ),
        Mistake(
            lambda alpha_bar: int((alpha_bar.sqrt() < 0.5).nonzero()[0]),
            "the ratio compares variances: alpha_bar with 1 - alpha_bar, not its root with a half.",
        ),
        Mistake(
            lambda alpha_bar: int((alpha_bar < 1 - alpha_bar).sum()),
            "this counts the timesteps with more noise; asked for is where they begin.",
        ),
    ),
)

EXERCISES = (NOISE_STEP, SIGNAL_LEFT, NOISY, FIRST_NOISIER)
