"""The exercises of lesson 02: the estimate of x0, the skips of a U-Net, the time embedding, and the whole loop."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from helpers import sampling, schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz


def _tensors(*shape: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def estimate_x0(x_t: Tensor, eps: Tensor, a: float) -> Tensor:
    """The clean picture that x_t would be if eps were all its noise: Ho et al. (2020), equation 15."""
    return (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)


def skip_channels(widths: Sequence[int], layers: int) -> list[int]:
    """The channels of every skip connection of a Stable Diffusion U-Net, in the order in which they are made."""
    channels = [widths[0]]  # of the first convolution
    for level, width in enumerate(widths):
        channels += [width] * layers
        if level < len(widths) - 1:
            channels.append(width)  # of the convolution that halves the picture
    return channels


def time_embedding(t: Tensor, width: int, cos_first: bool) -> Tensor:
    """Sines and cosines of t at falling frequencies: Vaswani et al. (2017), arXiv:1706.03762, section 3.5."""
    return _embedding(t, width, cos_first)


def sample(predict: Callable[[Tensor, int], Tensor], x: Tensor, timesteps: Sequence[int], alpha_bar: Tensor) -> Tensor:
    """The whole of DDIM: Song et al. (2020), arXiv:2010.02502, equation 12 with sigma 0, down to the clean picture."""
    for t, t_prev in zip(timesteps, [*timesteps[1:], sampling.CLEAN], strict=True):
        x = sampling.ddim_step(x, predict(x, t), t, t_prev, alpha_bar)
    return x


ESTIMATE_X0 = Exercise(
    name="02.estimate_x0",
    solution=estimate_x0,
    cases=[(x, eps, a) for x, eps in [_tensors(2, 4, 3, 3, count=2)] for a in (0.9, 0.3, 0.0047)],
    hints=(
        "Write down the closed form of x_t from lesson 01. All of its quantities but one are given.",
        "Solve it for x0: first take the noise away, as strong as it is in x_t.",
        "What is left is x0 times the square root of a.",
    ),
    mistakes=(
        Mistake(
            lambda x_t, eps, a: (x_t - (1 - a) * eps) / a,
            "alpha_bar and 1 - alpha_bar are variances; the numbers are multiplied by their square roots.",
        ),
        Mistake(
            lambda x_t, eps, a: x_t - math.sqrt(1 - a) * eps,
            "the noise is out, but the picture has still only the root of alpha_bar of its strength.",
        ),
        Mistake(
            lambda x_t, eps, a: x_t - eps,
            "x_t holds neither the whole noise nor the whole picture: solve the formula of x_t for x0.",
        ),
        Mistake(
            lambda x_t, eps, a: (x_t - math.sqrt(a) * eps) / math.sqrt(1 - a),
            "the two factors have changed places: alpha_bar is the share of the picture.",
        ),
        Mistake(
            lambda x_t, eps, a: (x_t + math.sqrt(1 - a) * eps) / math.sqrt(a),
            "this adds the noise a second time; it has to be taken away.",
        ),
    ),
)

SKIP_CHANNELS = Exercise(
    name="02.skip_channels",
    solution=skip_channels,
    cases=[([64, 128, 192], 1), ([320, 640, 1280, 1280], 2), ([32, 64], 3)],
    hints=(
        "Follow the table of shapes from the top: what is kept at the first level, and in which order?",
        "The first convolution is kept too, before all blocks. Then each level gives one for each of its resnets.",
        "Every level but the lowest gives one more, with its own channels: the convolution that halves the picture.",
    ),
    mistakes=(
        Mistake(
            lambda widths, layers: skip_channels(widths, layers)[1:],
            "one is missing at the start: the first convolution, before all blocks, is kept for a skip too.",
        ),
        Mistake(
            lambda widths, layers: [*skip_channels(widths, layers), widths[-1]],
            "one too many: the lowest level has nothing below it, so nothing is halved there.",
        ),
        Mistake(
            lambda widths, layers: [widths[0]] + [width for width in widths for _ in range(layers)],
            "the convolutions that halve the picture are kept as well: one more for every level but the lowest.",
        ),
        Mistake(
            lambda widths, layers: skip_channels(widths, layers)[::-1],
            "right, but in the order of the expanding path, which takes the last one first.",
        ),
        Mistake(
            lambda widths, layers: _halved_into_next(widths, layers),
            "a convolution that halves the picture keeps its channels; they change in the level below.",
        ),
    ),
)


def _halved_into_next(widths: Sequence[int], layers: int) -> list[int]:
    channels = [widths[0]]
    for width, below in zip(widths, [*widths[1:], None], strict=True):
        channels += [width] * layers
        channels += [] if below is None else [below]
    return channels


def _embedding(t: Tensor, width: int, cos_first: bool, *, period: float = 10_000, last: int = 0) -> Tensor:
    half = width // 2
    frequencies = torch.exp(-math.log(period) * torch.arange(half) / (half - last))
    angles = t[:, None].float() * frequencies
    parts = [angles.sin(), angles.cos()]
    return torch.cat(parts[::-1] if cos_first else parts, dim=1)  # (B, width)


def _interleaved(t: Tensor, width: int, cos_first: bool) -> Tensor:
    first, second = _embedding(t, width, cos_first).chunk(2, dim=1)
    return torch.stack([first, second], dim=2).flatten(1)


TIME_EMBEDDING = Exercise(
    name="02.time_embedding",
    solution=time_embedding,
    cases=[(torch.tensor([0, 1, 500, 999]), width, cos_first) for width in (8, 64) for cos_first in (True, False)],
    # An angle of 999 in float32 is exact to 6e-5, and so is its sine.
    atol=1e-3,
    hints=(
        "Start with one timestep and one frequency: one sine and one cosine.",
        "There are width / 2 frequencies, 10000 to the power -i / half for i = 0, 1, ..., half - 1.",
        "`t[:, None] * frequencies` gives all angles, (B, half). Join sines and cosines along dim 1, in the order "
        "asked.",
    ),
    mistakes=(
        Mistake(
            lambda t, width, cos_first: _embedding(t, width, not cos_first),
            "sines and cosines have changed places: with cos_first the cosines come first.",
        ),
        Mistake(
            lambda t, width, cos_first: _embedding(t, width, True),
            "right for cos_first = True; with False the sines come first.",
        ),
        Mistake(
            lambda t, width, cos_first: _embedding(t, width, cos_first, last=1),
            "the frequencies fall by 10000 to the power i / half, not i / (half - 1): the last stays a little above.",
        ),
        Mistake(
            _interleaved,
            "the numbers are right and their order is not: one half is all sines, the other all cosines.",
        ),
        Mistake(
            lambda t, width, cos_first: _embedding(t / 1000, width, cos_first),
            "t goes in as it is, from 0 to 999, not as a share of 1000.",
        ),
    ),
)


def _stand_in(alpha_bar: Tensor) -> Callable[[Tensor, int], Tensor]:
    """In place of a U-Net: near the noise of data that is standard normal, so that a run stays near 1."""
    return lambda x, t: (1 - alpha_bar[t]).sqrt() * x + 0.1 * torch.sin(3 * x)


def _sample_cases() -> list[tuple[Callable[[Tensor, int], Tensor], Tensor, list[int], Tensor]]:
    alpha_bar = schedules.alpha_bar(schedules.betas())
    (x,) = _tensors(1, 4, 4, 4, count=1)
    lists = ([999, 749, 499, 249], list(range(981, 0, -20)), [999])
    return [(_stand_in(alpha_bar), x, timesteps, alpha_bar) for timesteps in lists]


def _old_strength(predict: Callable[[Tensor, int], Tensor], x: Tensor, timesteps: list[int], a: Tensor) -> Tensor:
    for t, t_prev in zip(timesteps, [*timesteps[1:], sampling.CLEAN], strict=True):
        eps = predict(x, t)
        after = a[t_prev] if t_prev >= 0 else torch.tensor(1.0)
        x = after.sqrt() * estimate_x0(x, eps, float(a[t])) + (1 - a[t]).sqrt() * eps
    return x


def _estimates_only(predict: Callable[[Tensor, int], Tensor], x: Tensor, timesteps: list[int], a: Tensor) -> Tensor:
    for t in timesteps:
        x = estimate_x0(x, predict(x, t), float(a[t]))
    return x


def _last_in_list(predict: Callable[[Tensor, int], Tensor], x: Tensor, timesteps: list[int], a: Tensor) -> Tensor:
    """The trap of Python: alpha_bar[-1] is the last of the schedule, where 1 is meant."""
    for t, t_prev in zip(timesteps, [*timesteps[1:], -1], strict=True):
        eps = predict(x, t)
        x = a[t_prev].sqrt() * estimate_x0(x, eps, float(a[t])) + (1 - a[t_prev]).sqrt() * eps
    return x


def _told_the_next(predict: Callable[[Tensor, int], Tensor], x: Tensor, timesteps: list[int], a: Tensor) -> Tensor:
    for t, t_prev in zip(timesteps, [*timesteps[1:], sampling.CLEAN], strict=True):
        x = sampling.ddim_step(x, predict(x, max(t_prev, 0)), t, t_prev, a)
    return x


def _stopped_early(predict: Callable[[Tensor, int], Tensor], x: Tensor, timesteps: list[int], a: Tensor) -> Tensor:
    for t, t_prev in itertools.pairwise(timesteps):
        x = sampling.ddim_step(x, predict(x, t), t, t_prev, a)
    return x


SAMPLE = Exercise(
    name="02.sample",
    solution=sample,
    cases=_sample_cases,
    # A run of 50 steps adds up the roundings of each.
    rtol=1e-3,
    atol=1e-3,
    hints=(
        "One step has two moves: estimate x0, then go back up to the next timestep of the list.",
        "Both moves use the same predicted noise. The first takes the alpha_bar of t, the second that of the next.",
        "After the last timestep there is no next one. There alpha_bar is 1, so nothing of the noise is added back.",
    ),
    mistakes=(
        Mistake(
            _old_strength,
            "the noise goes back in with the strength of the timestep you go to, not of the one you come from.",
        ),
        Mistake(
            _estimates_only,
            "this jumps to the clean picture every time; after each estimate noise has to come back, a little less.",
        ),
        Mistake(
            _last_in_list,
            "alpha_bar[-1] is the noisiest of all to Python. After the last timestep comes the clean picture, with 1.",
        ),
        Mistake(
            _stopped_early,
            "one step is missing: from the last timestep of the list to the clean picture.",
        ),
        Mistake(
            lambda predict, x, timesteps, a: estimate_x0(x, predict(x, timesteps[0]), float(a[timesteps[0]])),
            "this is one jump from the first timestep. Visit all of them, each from where the one before arrived.",
        ),
        Mistake(
            _told_the_next,
            "predict has to be told the timestep that x is at now, not the one it goes to.",
        ),
    ),
)


EXERCISES = (ESTIMATE_X0, SKIP_CHANNELS, TIME_EMBEDDING, SAMPLE)

ONE_LOOK = Quiz(
    name="02.one_look",
    question="Pure noise, t = 999, no words. A network that was trained perfectly, with the squared error, is asked "
    "once. "
    "What does its estimate of x0 look like?",
    options=(
        Option(
            "A sharp picture, another one for each noise",
            "Any one picture would be far from nearly all that could lie under this noise, and the squared error "
            "punishes "
            "that. The answer that is least wrong is no single picture.",
        ),
        Option(
            "A blur, nearly the same for each noise",
            "Under pure noise any picture of the training could lie. The squared error is smallest for their average, "
            "and "
            "the average of many pictures is a blur.",
            right=True,
        ),
        Option(
            "Noise again",
            "The noise that it predicts is taken out of x_t. What is left is its guess of the picture, and a perfect "
            "guess holds no noise.",
        ),
    ),
)

ERROR_AT_THE_END = Quiz(
    name="02.error_at_the_end",
    question="At t = 999 `sqrt(alpha_bar)` is about 0.07. The predicted noise is wrong by 0.1. By how much is the "
    "estimate "
    "of x0 wrong?",
    options=(
        Option(
            "By about 0.007",
            "That multiplies by 0.07. The formula divides by it: x_t holds only 0.07 of the picture, so what is left "
            "after "
            "the noise is taken out has to be made larger.",
        ),
        Option(
            "By about 0.1",
            "Noise and picture would count alike only where x_t holds as much of one as of the other, near t = 354.",
        ),
        Option(
            "By about 1.5",
            "0.1 / 0.07 is about 1.5, as much as the numbers of a latent themselves. So one look at t = 999 says "
            "little "
            "about the picture, however good the network is.",
            right=True,
        ),
    ),
)

QUIZZES = (ONE_LOOK, ERROR_AT_THE_END)
