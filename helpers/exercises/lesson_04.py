"""The exercises of lesson 04: pictures as bytes, the best guess under two losses, bits, and a timestep that lies."""

import math

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz


def to_bytes(x: Tensor) -> Tensor:
    """What the decoder painted, (B, 3, H, W) from about -1 to 1, as the bytes of pictures, (B, H, W, 3) uint8."""
    pixels = (x.clamp(-1, 1) + 1) * 127.5
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1)  # (B, H, W, 3)


def best_guess(pictures: Tensor, loss: str) -> Tensor:
    """The one picture with the smallest mean loss against N equally likely ones (N, 3, H, W): (3, H, W).

    loss: "squared", whose best guess is the mean, or "absolute", whose best guess is the median.
    """
    return pictures.mean(dim=0) if loss == "squared" else pictures.median(dim=0).values


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


def _nearest(pictures: Tensor, loss: str) -> Tensor:
    """The one of the pictures that has the smallest loss against all of them."""
    error = pictures[:, None] - pictures
    error = error.square() if loss == "squared" else error.abs()
    return pictures[error.flatten(1).sum(dim=1).argmin()]


def _guess_cases() -> list[tuple[Tensor, str]]:
    pictures = torch.randn((5, 3, 4, 6), generator=torch.Generator().manual_seed(3)) ** 3  # mean and median far apart
    return [(pictures, "squared"), (pictures, "absolute"), (pictures[:3, :, :2], "absolute")]


def _kl_cases() -> list[tuple[Tensor, Tensor]]:
    moments = torch.randn((3, 8, 4, 6), generator=torch.Generator().manual_seed(3))
    return [moments.chunk(2, dim=1), (torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))]


def _unclamped(x: Tensor) -> Tensor:
    # A detour by int32: what happens to floats beyond 0 to 255 depends on the machine.
    return ((x + 1) * 127.5).round().to(torch.int32).to(torch.uint8).permute(0, 2, 3, 1)


TO_BYTES = Exercise(
    name="04.to_bytes",
    solution=to_bytes,
    cases=_painted,
    hints=(
        "Do the way in backwards: it divided by 127.5, took 1 away, and put the colours first.",
        "Before you round, bring what lies beyond -1 and 1 to the nearest end.",
        "`permute` puts the dimensions in another order; `.to(torch.uint8)` comes last of the numbers' changes.",
    ),
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

BEST_GUESS = Exercise(
    name="04.best_guess",
    solution=best_guess,
    cases=_guess_cases,
    hints=(
        "Each number of a picture can be chosen by itself. So take one pixel: which number lies best among others?",
        "For squares, set the derivative of the sum of (g - p)² to zero and solve for g.",
        "For absolute differences the derivative counts how many numbers lie below g and how many above.",
    ),
    mistakes=(
        Mistake(
            lambda pictures, loss: pictures.mean(dim=0),
            "right for squares. The absolute difference is smallest where as many numbers lie below as above.",
        ),
        Mistake(
            lambda pictures, loss: pictures.median(dim=0).values,
            "right for absolute differences. Squares are smallest where the differences add up to zero.",
        ),
        Mistake(
            lambda pictures, loss: best_guess(pictures, "squared" if loss == "absolute" else "absolute"),
            "the two have changed places: try both on the numbers 0, 0 and 9.",
        ),
        Mistake(
            lambda pictures, loss: best_guess(pictures.flatten(1).T, loss).reshape(-1),
            "this is one number for each picture. Take them over the pictures, dimension 0, for every pixel.",
        ),
        Mistake(
            lambda pictures, loss: _nearest(pictures, loss),
            "this is the best of the pictures that are there. A guess may be a picture that is none of them.",
        ),
    ),
)

BITS_PER_NUMBER = Exercise(
    name="04.bits_per_number",
    solution=bits_per_number,
    cases=_kl_cases,
    hints=(
        "The formula of KL stands in the lesson, as a sum. Write the term of one number first.",
        "The encoder gives the logarithm of the variance, so the variance itself is its exponential.",
        "Average over all dimensions but the first, then divide by the logarithm of 2.",
    ),
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
    hints=(
        "Write down the signal-to-noise ratio of every timestep: alpha_bar over what is left to 1.",
        "Without the factor the latent is 1/s times as large. By how much does that change its variance?",
        "Now look for the timestep whose logarithm of the ratio differs least from the one you found.",
    ),
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

EXERCISES = (TO_BYTES, BEST_GUESS, BITS_PER_NUMBER, SEEMS_LIKE)

BLUR = Quiz(
    name="04.blur",
    question="A decoder trained on errors of pixels alone paints hair as a smooth patch; Stable Diffusion's paints "
    "strands that were not there. Why?",
    options=(
        Option(
            "Its latents keep more numbers for each pixel.",
            "That decides how much is lost, not what is put in its place. Two decoders of one latent still differ.",
        ),
        Option(
            "Its loss has a discriminator, which punishes blur and not invention.",
            "Errors of pixels are smallest for the average of all that fits. A discriminator asks whether a patch "
            "could be real, and an average could not.",
            right=True,
        ),
        Option(
            "It decodes a random draw of z, and so finds strands by chance.",
            "Sigma is far too small for that: ten times as much noise is still hard to see in the picture.",
        ),
    ),
)

TYPED = Quiz(
    name="04.typed",
    question="Your code says `x0 / 0.18215`; somebody loads a model whose config says 0.13. How do its pictures look?",
    options=(
        Option(
            "An error is raised, because the shapes no longer fit.",
            "A factor changes no shape. That is why this mistake lives so long: everything runs.",
        ),
        Option(
            "As before: the decoder was trained to take latents of any size.",
            "The decoder has seen latents of one size only, and it takes their size for contrast and colour.",
        ),
        Option(
            "Paler: z comes out too small by 0.13 / 0.18215, about 0.7.",
            "The right z is x0 / 0.13. Divided by the larger number it is 0.7 times as large: the forgotten factor, "
            "only less so.",
            right=True,
        ),
    ),
)

WHOLE = Quiz(
    name="04.whole",
    question="What would you change so that the U-Net keeps more of the two halves?",
    options=(
        Option(
            "Noise them to an earlier t.",
            "Less noise leaves more of the halves, the seam too. It is the one dial, and lesson 08 calls it strength.",
            right=True,
        ),
        Option(
            "Decode the halves first and join them as pictures.",
            "Joined pictures and joined latents differ little but at the seam, and noise covers the seam.",
        ),
        Option(
            "Take more and smaller steps from the same t.",
            "Smaller steps follow the same path more exactly. What is lost was lost when the noise was added.",
        ),
    ),
)

QUIZZES = (BLUR, TYPED, WHOLE)
