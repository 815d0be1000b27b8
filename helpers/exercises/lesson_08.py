"""The exercises of lesson 08: a mask out of two prompts, and a step that is taken twice."""

from collections.abc import Callable

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake


def difference_mask(noise_source: Tensor, noise_target: Tensor) -> Tensor:
    """Where two prompts disagree: the mask of DiffEdit (Couairon et al., 2022, arXiv:2210.11427), without its clipping.

    noise_source, noise_target: (B, C, h, w), the predictions of both prompts for the same B noisy latents.
    Returns (1, 1, h, w), float32: 1 where the mean magnitude of the difference, rescaled to 0 to 1, is above one half.
    """
    heat = (noise_target - noise_source).abs().mean(dim=(0, 1), keepdim=True)
    return ((heat - heat.min()) / (heat.max() - heat.min()) > 0.5).float()


def twice(
    step: Callable[[Tensor, int, int], Tensor], x: Tensor, t: int, t_prev: int, eps: Tensor, alpha_bar: Tensor
) -> Tensor:
    """A step, back again, and the step once more: the resampling of RePaint (Lugmayr et al., 2022, arXiv:2201.09865).

    step(x, t, t_prev) gives latents at t_prev from those at t. Back to t leads the forward process, with the noise eps.
    Returns latents at t_prev, of x's shape.
    """
    share = alpha_bar[t] / alpha_bar[t_prev]
    back = share.sqrt() * step(x, t, t_prev) + (1 - share).sqrt() * eps
    return step(back, t, t_prev)


def _steps() -> list[tuple[Callable[[Tensor, int, int], Tensor], Tensor, int, int, Tensor, Tensor]]:
    def pull(x: Tensor, t: int, t_prev: int) -> Tensor:
        """Stands for a denoising step: towards 1, by what the timesteps say."""
        return 1 + (x - 1) * (t_prev + 1) / (t + 1)

    generator = torch.Generator().manual_seed(8)
    alpha_bar = schedules.alpha_bar(schedules.betas())
    cases = []
    for t, t_prev in [(951, 901), (501, 451), (51, 1)]:
        x, eps = torch.randn((2, 2, 4, 3, 3), generator=generator)
        cases.append((pull, x, t, t_prev, eps, alpha_bar))
    return cases


def _predictions() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(6)
    cases = []
    for gain in (1.0, 4.0):
        source = torch.randn((3, 4, 6, 8), generator=generator)
        change = 0.3 * torch.randn(source.shape, generator=generator)
        change[:, :, 2:5, 3:6] += torch.randn((3, 4, 3, 3), generator=generator)
        cases.append((source, source + gain * change))
    return cases


def _difference_mask(
    source: Tensor, target: Tensor, *, heat: Callable[[Tensor], Tensor], rescale: bool = True
) -> Tensor:
    values = heat(target - source)
    if rescale:
        values = (values - values.min()) / (values.max() - values.min())
    return (values > 0.5).float()


def _mean_magnitude(change: Tensor) -> Tensor:
    return change.abs().mean(dim=(0, 1), keepdim=True)


DIFFERENCE_MASK = Exercise(
    name="08.difference_mask",
    solution=difference_mask,
    cases=_predictions,
    hints=(
        "Differences have both signs, and a mean lets them cancel. What do you take of them first?",
        "One mean over dimensions 0 and 1, with keepdim=True, leaves the shape (1, 1, h, w).",
        "Rescaled to 0 to 1: subtract the smallest value, and divide by the largest less the smallest.",
    ),
    mistakes=(
        Mistake(
            lambda source, target: _difference_mask(source, target, heat=lambda d: d.mean(dim=(0, 1), keepdim=True)),
            "differences of both signs cancel in the mean: take magnitudes first.",
        ),
        Mistake(
            lambda source, target: _difference_mask(
                source, target, heat=lambda d: d.mean(dim=(0, 1), keepdim=True).abs()
            ),
            "the magnitude comes before the mean: after it, differences of both signs have cancelled.",
        ),
        Mistake(
            lambda source, target: _difference_mask(source, target, heat=_mean_magnitude, rescale=False),
            "the threshold is for values rescaled to 0 to 1: subtract the smallest, divide by the range.",
        ),
        Mistake(
            lambda source, target: (
                _mean_magnitude(target - source) / _mean_magnitude(target - source).max() > 0.5
            ).float(),
            "the smallest value has to become 0 as well: subtract it before you divide.",
        ),
        Mistake(
            lambda source, target: _difference_mask(source, target, heat=lambda d: d.abs().mean(dim=1, keepdim=True)),
            "the mean goes over the batch too: one mask for all the noises, of shape (1, 1, h, w).",
        ),
        Mistake(
            lambda source, target: 1 - difference_mask(source, target),
            "0 and 1 have changed places: 1 is where the prompts disagree.",
        ),
    ),
)

TWICE = Exercise(
    name="08.twice",
    solution=twice,
    cases=_steps,
    hints=(
        "Three lines: the step, the way back, the step. The way back is an exercise of lesson 01, from the middle.",
        "From t_prev to t the share of the variance that stays is alpha_bar[t] / alpha_bar[t_prev].",
        "Back is the closed form with that share in place of alpha_bar, and with the step's result in place of x0.",
    ),
    mistakes=(
        Mistake(
            lambda step, x, t, t_prev, eps, a: step(
                a[t].sqrt() * step(x, t, t_prev) + (1 - a[t]).sqrt() * eps, t, t_prev
            ),
            "this adds noise as if the latents at t_prev were clean. They hold noise already: which share is missing?",
        ),
        Mistake(
            lambda step, x, t, t_prev, eps, a: step(
                a[t] / a[t_prev] * step(x, t, t_prev) + (1 - a[t] / a[t_prev]) * eps, t, t_prev
            ),
            "the share is one of variances: the latents and the noise take its square root.",
        ),
        Mistake(
            lambda step, x, t, t_prev, eps, a: step(step(x, t, t_prev), t, t_prev),
            "two steps, and no way back between them: the second one finds too little noise for its t.",
        ),
        Mistake(
            lambda step, x, t, t_prev, eps, a: (
                (a[t] / a[t_prev]).sqrt() * step(x, t, t_prev) + (1 - a[t] / a[t_prev]).sqrt() * eps
            ),
            "these are the latents at t, after the way back. Take the step once more.",
        ),
        Mistake(
            lambda step, x, t, t_prev, eps, a: step(x, t, t_prev),
            "this is the step once. Go back to t, and take it again.",
        ),
    ),
)

EXERCISES = (DIFFERENCE_MASK, TWICE)
