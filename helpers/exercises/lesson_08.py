"""The exercises of lesson 08: what strength leaves to do, a mask for latents, a mask out of two prompts, inversion."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.exercises import Exercise, Mistake
from helpers.schedules import alpha_bar, betas

Predict = Callable[[Tensor, int], Tensor]


def steps_left(timesteps: Sequence[int], strength: float) -> list[int]:
    """The timesteps that image-to-image still takes: the last int(len(timesteps) * strength) of them.

    As in diffusers' `StableDiffusionImg2ImgPipeline.get_timesteps`. timesteps: counts down. strength: from 0 to 1.
    """
    return list(timesteps[len(timesteps) - int(len(timesteps) * strength) :])


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """A mask of pixels as one of latents: 1 where any pixel of the place is to be drawn anew.

    mask: (H, W) bool, True is drawn anew; factor divides both sides. Returns (1, 1, H / factor, W / factor), float32.
    """
    return F.max_pool2d(mask[None, None].float(), factor)


def difference_mask(noise_source: Tensor, noise_target: Tensor) -> Tensor:
    """Where two prompts disagree: the mask of DiffEdit (Couairon et al., 2022, arXiv:2210.11427), without its clipping.

    noise_source, noise_target: (B, C, h, w), the predictions of both prompts for the same B noisy latents.
    Returns (1, 1, h, w), float32: 1 where the mean magnitude of the difference, rescaled to 0 to 1, is above one half.
    """
    heat = (noise_target - noise_source).abs().mean(dim=(0, 1), keepdim=True)
    return ((heat - heat.min()) / (heat.max() - heat.min()) > 0.5).float()


def invert(predict: Predict, x0: Tensor, timesteps: Sequence[int], alpha_bar: Tensor) -> Tensor:
    """DDIM inversion from t = 0 up: Song et al. (2020), arXiv:2010.02502, section 4.3, eps asked for where it goes.

    predict: eps of (x, t). x0: of any shape. timesteps: counts down. alpha_bar: (steps,). Returns x at timesteps[0].
    """
    return _invert(predict, x0, list(reversed(timesteps)), alpha_bar)


def _invert(
    predict: Predict, x: Tensor, upward: Sequence[int], bars: Tensor, *, told_start: bool = False, moves_on: bool = True
) -> Tensor:
    start = 0
    for t in upward:
        eps = predict(x, start if told_start else t)
        estimate = (x - (1 - bars[start]).sqrt() * eps) / bars[start].sqrt()
        x = bars[t].sqrt() * estimate + (1 - bars[t]).sqrt() * eps
        start = t if moves_on else start
    return x


_TWENTY = list(range(951, 0, -50))
_TEN = list(range(901, 0, -100))

STEPS_LEFT = Exercise(
    name="08.steps_left",
    solution=steps_left,
    cases=[(_TWENTY, 0.6), (_TEN, 0.35), (_TEN, 0.32), (_TWENTY, 1.0), (_TEN, 0.05)],
    mistakes=(
        Mistake(
            lambda timesteps, strength: timesteps[: int(len(timesteps) * strength)],
            "these are the first of them, the noisiest. The picture is already there: it is the end that is left.",
        ),
        Mistake(
            lambda timesteps, strength: timesteps[int(len(timesteps) * strength) :],
            "this is the other way round: a high strength leaves many steps to take, strength 1 all of them.",
        ),
        Mistake(
            lambda timesteps, strength: timesteps[-int(len(timesteps) * strength) :],
            "right, but for none: x[-0:] is x[0:], the whole list. Count from the front instead.",
        ),
        Mistake(
            lambda timesteps, strength: timesteps[len(timesteps) - math.ceil(len(timesteps) * strength) :],
            "part of a step is not rounded up: the library cuts it off, with int.",
        ),
        Mistake(
            lambda timesteps, strength: timesteps[len(timesteps) - round(len(timesteps) * strength) :],
            "half a step is not rounded: the library cuts it off, with int.",
        ),
        Mistake(
            lambda timesteps, strength: int(len(timesteps) * strength),
            "this is how many there are; asked for are the timesteps themselves, as a list.",
        ),
    ),
)


def _masks() -> list[tuple[Tensor, int]]:
    disc = torch.zeros((24, 32), dtype=torch.bool)
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    disc[(rows - 9) ** 2 + (columns - 14) ** 2 < 60] = True
    box = torch.zeros((16, 16), dtype=torch.bool)
    box[3:13, 5:11] = True
    return [(disc, 8), (disc, 4), (box, 2)]


def _blocks(mask: Tensor, factor: int) -> Tensor:
    """(h, w, factor * factor), float: the pixels of each place."""
    blocks = mask.float().unflatten(0, (-1, factor)).unflatten(2, (-1, factor))
    return blocks.transpose(1, 2).flatten(2)


LATENT_MASK = Exercise(
    name="08.latent_mask",
    solution=latent_mask,
    cases=_masks,
    mistakes=(
        Mistake(
            lambda mask, factor: mask[::factor, ::factor][None, None].float(),
            "this looks at one pixel of each place, its corner, as the library does. Ask all of its pixels.",
        ),
        Mistake(
            lambda mask, factor: _blocks(mask, factor).mean(dim=2)[None, None],
            "this is the share of each place that is masked. A place with any masked pixel counts whole: 1.",
        ),
        Mistake(
            lambda mask, factor: (_blocks(mask, factor).mean(dim=2) >= 0.5)[None, None].float(),
            "this goes by the majority, and leaves masked pixels at the edge as they were. One pixel is enough.",
        ),
        Mistake(
            lambda mask, factor: _blocks(mask, factor).amin(dim=2)[None, None],
            "this asks for all pixels of a place to be masked. One is enough.",
        ),
        Mistake(
            lambda mask, factor: 1 - latent_mask(mask, factor),
            "0 and 1 have changed places: 1 is drawn anew, 0 is kept.",
        ),
        Mistake(
            lambda mask, factor: latent_mask(mask, factor)[0, 0],
            "the values are right; the shape is that of latents, (1, 1, h, w), to fit every batch and channel.",
        ),
    ),
)


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

_BARS = alpha_bar(betas())


def _predict(x: Tensor, t: int) -> Tensor:
    """A stand-in for the U-Net: near the noise of data that is standard normal, so that a run stays near 1."""
    return (1 - _BARS[t]).sqrt() * x + 0.1 * torch.sin(3 * x)


def _runs() -> list[tuple[Predict, Tensor, list[int], Tensor]]:
    x0 = torch.randn((1, 4, 3, 3), generator=torch.Generator().manual_seed(6))
    return [(_predict, x0, _TEN, _BARS), (_predict, x0, [601, 301, 1], _BARS)]


INVERT = Exercise(
    name="08.invert",
    solution=invert,
    cases=_runs,
    mistakes=(
        Mistake(
            lambda predict, x0, timesteps, bars: _invert(predict, x0, timesteps, bars),
            "the timesteps count down, and this way leads up: go through them in reverse.",
        ),
        Mistake(
            lambda predict, x0, timesteps, bars: _invert(predict, x0, timesteps[::-1], bars, told_start=True),
            "the network is asked at the timestep the step starts from. Ask it at the one the step leads to.",
        ),
        Mistake(
            lambda predict, x0, timesteps, bars: _invert(predict, x0, timesteps[::-1], bars, moves_on=False),
            "every step starts from t = 0 here. The next one starts where the last one ended.",
        ),
        Mistake(
            lambda predict, x0, timesteps, bars: (
                bars[timesteps[0]].sqrt() * x0 + (1 - bars[timesteps[0]]).sqrt() * torch.randn(x0.shape)
            ),
            "this adds random noise. Asked for is the noise that leads back to x0: the network's own, step by step.",
        ),
        Mistake(
            lambda predict, x0, timesteps, bars: (
                bars[timesteps[0]].sqrt() * x0 + (1 - bars[timesteps[0]]).sqrt() * predict(x0, timesteps[0])
            ),
            "this is one leap to the top. The network's answer changes on the way: ask it at every timestep.",
        ),
    ),
)

EXERCISES = (STEPS_LEFT, LATENT_MASK, DIFFERENCE_MASK, INVERT)
