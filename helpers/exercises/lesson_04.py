"""The exercises of lesson 04: from the decoder's answer to bytes, from the encoder's to latents, and what they cost."""

import math

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake


def to_bytes(x: Tensor) -> Tensor:
    """What the decoder painted, (B, 3, H, W) from about -1 to 1, as the bytes of pictures, (B, H, W, 3) uint8."""
    pixels = (x.clamp(-1, 1) + 1) * 127.5
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1)  # (B, H, W, 3)


def draw_latents(moments: Tensor, eps: Tensor, s: float) -> Tensor:
    """Latents for the U-Net, drawn from the encoder's answer: s (mu + sigma eps), Kingma and Welling (2013), eq. 10.

    moments: (B, 2C, h, w), mu in the first half of the channels and log sigma² in the second. eps: (B, C, h, w).
    """
    mean, logvar = moments.chunk(2, dim=1)
    return s * (mean + (0.5 * logvar).exp() * eps)


def bits_per_number(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence from N(0, 1), Kingma and Welling (2013), eq. 10, in bits for each latent number: (B,)."""
    nats = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)  # (B, C, h, w)
    return nats.flatten(1).mean(dim=1) / math.log(2)


def seems_like(t: int, alpha_bar: Tensor, s: float) -> int:
    """The timestep whose usual signal-to-noise ratio is nearest to that of latents noised to t without their factor.

    Nearest by the logarithm, since the ratio runs over several powers of ten.
    """
    snr = schedules.snr(alpha_bar.double())
    return int((snr.log() - (snr[t] / s**2).log()).abs().argmin())


def _painted() -> list[tuple[Tensor]]:
    x = torch.randn((2, 3, 4, 6), generator=torch.Generator().manual_seed(3))  # a third of it beyond -1 to 1
    return [(x,), (x[:1, :, :2, :3] / 4,)]


def _moments(batch: int, channels: int) -> Tensor:
    return torch.randn((batch, 2 * channels, 4, 6), generator=torch.Generator().manual_seed(3))


def _draw_cases() -> list[tuple[Tensor, Tensor, float]]:
    eps = torch.randn((2, 4, 4, 6), generator=torch.Generator().manual_seed(4))
    return [(_moments(2, 4), eps, 0.5), (_moments(2, 4)[:1], eps[:1], 0.18215)]


def _kl_cases() -> list[tuple[Tensor, Tensor]]:
    return [_moments(3, 4).chunk(2, dim=1), (torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))]


def _unclamped(x: Tensor) -> Tensor:
    # A detour by int32: what happens to floats beyond 0 to 255 depends on the machine.
    return ((x + 1) * 127.5).round().to(torch.int32).to(torch.uint8).permute(0, 2, 3, 1)


TO_BYTES = Exercise(
    name="04.to_bytes",
    solution=to_bytes,
    cases=_painted,
    mistakes=(
        Mistake(
            _unclamped,
            "the decoder goes a little beyond -1 and 1, and bytes beyond 0 and 255 wrap around. Clip first.",
        ),
        Mistake(
            lambda x: ((x.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1),
            "turning floats into bytes cuts off the fraction, half a level too dark on average. Round first.",
        ),
        Mistake(
            lambda x: ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8),
            "the values are right; a picture has its colours last: (B, H, W, 3).",
        ),
        Mistake(
            lambda x: ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).reshape(len(x), *x.shape[2:], 3),
            "reshape tears the pixels apart: it keeps their order in memory. Move the dimension, with permute.",
        ),
        Mistake(
            lambda x: (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1),
            "the decoder's black is -1, not 0: this turns everything below middle grey black.",
        ),
        Mistake(
            lambda x: (x.clamp(-1, 1) + 1).mul(127.5).round().permute(0, 2, 3, 1),
            "the values are right; turn them into bytes at the end, torch.uint8.",
        ),
    ),
)

DRAW_LATENTS = Exercise(
    name="04.draw_latents",
    solution=draw_latents,
    cases=_draw_cases,
    mistakes=(
        Mistake(
            lambda moments, eps, s: s * (moments.chunk(2, dim=1)[0] + moments.chunk(2, dim=1)[1].exp() * eps),
            "exp(logvar) is the variance. Noise is multiplied by the standard deviation, its root.",
        ),
        Mistake(
            lambda moments, eps, s: s * (moments.chunk(2, dim=1)[0] + moments.chunk(2, dim=1)[1] * eps),
            "the second half holds a logarithm, of the variance; it has to go through exp.",
        ),
        Mistake(
            lambda moments, eps, s: s * moments.chunk(2, dim=1)[0] + (0.5 * moments.chunk(2, dim=1)[1]).exp() * eps,
            "the factor scales the whole latent, its noise too.",
        ),
        Mistake(
            lambda moments, eps, s: draw_latents(moments, eps, 1.0),
            "the draw is right; the factor is missing that brings it to a standard deviation near 1.",
        ),
        Mistake(
            lambda moments, eps, s: draw_latents(moments, eps, 1 / s),
            "towards the U-Net one multiplies by the factor; division is for the way to the decoder.",
        ),
        Mistake(
            lambda moments, eps, s: draw_latents(moments.flip(1).unflatten(1, (2, -1)).flip(2).flatten(1, 2), eps, s),
            "the halves have changed places: the means come first.",
        ),
        Mistake(
            lambda moments, eps, s: s * moments.chunk(2, dim=1)[0],
            "this is the mean alone: the noise eps, times sigma, is still to be added.",
        ),
    ),
)

BITS_PER_NUMBER = Exercise(
    name="04.bits_per_number",
    solution=bits_per_number,
    cases=_kl_cases,
    mistakes=(
        Mistake(
            lambda mean, logvar: bits_per_number(mean, logvar) * math.log(2),
            "these are nats. One bit is log(2) of them.",
        ),
        Mistake(
            lambda mean, logvar: bits_per_number(mean, logvar) * mean[0].numel(),
            "these are the bits of a whole latent. Divide by how many numbers it has.",
        ),
        Mistake(
            lambda mean, logvar: bits_per_number(mean, logvar).mean(),
            "this is one number for the batch. Every picture has its own: the answer has the shape (B,).",
        ),
        Mistake(
            lambda mean, logvar: -bits_per_number(mean, logvar),
            "the sign is turned around: a divergence is never below 0.",
        ),
        Mistake(
            lambda mean, logvar: 2 * bits_per_number(mean, logvar),
            "twice too much: look for the half in front of the formula.",
        ),
        Mistake(
            lambda mean, logvar: (
                0.5 * (mean.square() + (0.5 * logvar).exp() - 1 - logvar).flatten(1).mean(dim=1) / math.log(2)
            ),
            "the formula holds the variance, exp(logvar), not the standard deviation.",
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

EXERCISES = (TO_BYTES, DRAW_LATENTS, BITS_PER_NUMBER, SEEMS_LIKE)
