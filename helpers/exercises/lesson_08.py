"""The exercises of lesson 08: a mask for latents, and a mask out of two prompts."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.exercises import Exercise, Mistake


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

EXERCISES = (LATENT_MASK, DIFFERENCE_MASK)
