"""The exercises of lesson 07: four of Stable Diffusion's seven parts."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz


def start_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Noise (B, *shape) for a batch in which every picture has a seed of its own."""
    return torch.stack([torch.randn(shape, generator=_generator(seed)) for seed in seeds])


def timesteps(steps: int) -> list[int]:
    """Falling timesteps at whole, equal distances down to 1: spacing "leading" with an offset of 1."""
    return [1 + 1000 // steps * i for i in reversed(range(steps))]


@torch.no_grad()
def guided_noise(unet: nn.Module, x: Tensor, t: int, vectors: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance, one call of the U-Net for both prompts: Ho & Salimans (2022), equation 6."""
    both = unet(torch.cat([x, x]), t, encoder_hidden_states=vectors.repeat_interleave(len(x), dim=0)).sample
    without, words = both.chunk(2)
    return without + guidance * (words - without)


def ddim_loop(
    predict: Callable[[Tensor, int], Tensor], x: Tensor, timesteps: Sequence[int], alpha_bar: Tensor
) -> Tensor:
    """All DDIM steps down to t = 0: Song et al. (2020), arXiv:2010.02502, equation 12 with sigma 0."""
    for t, t_next in pairwise([*timesteps, 0]):
        x = _ddim(x, predict(x, t), alpha_bar[t], alpha_bar[t_next])
    return x


@torch.no_grad()
def to_pixels(vae: nn.Module, x: Tensor) -> np.ndarray:
    """Latents at t = 0 as pictures (B, height, width, 3) of bytes."""
    return unrounded(vae, x).round().astype(np.uint8)


@torch.no_grad()
def unrounded(vae: nn.Module, x: Tensor) -> np.ndarray:
    """Part 7 without its last step: numbers from 0 to 255 that are not whole, (B, height, width, 3)."""
    return _scaled(_painted(vae, x / vae.config.scaling_factor))


def yours(parts: SimpleNamespace) -> str:
    """The numbers of the parts that are not the course's own, such as "5, 6"; without any, "none yet"."""
    own = {3: start_noise, 5: guided_noise, 6: ddim_loop, 7: to_pixels}
    found = [str(number) for number, part in own.items() if getattr(parts, part.__name__) is not part]
    return ", ".join(found) or "none yet"


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# --- 3: noise

START_NOISE = Exercise(
    name="07.start_noise",
    solution=start_noise,
    cases=[((7, 3, 11), (4, 8, 8)), ((2, 2), (4, 4, 8)), ((5,), (4, 8, 8))],
    hints=(
        "Lesson 01 draws noise with `torch.randn` and a generator. How many generators do these pictures need?",
        'Each has its own: `torch.Generator("cpu").manual_seed(seed)`. Draw each picture\'s noise alone.',
        "`torch.stack` makes a batch of a list of tensors.",
    ),
    mistakes=(
        Mistake(
            lambda seeds, shape: torch.randn((len(seeds), *shape), generator=_generator(seeds[0])),
            "one generator drew for all of them, so only the first picture is that of its seed.",
        ),
        Mistake(
            lambda seeds, shape: torch.stack([torch.randn(shape, generator=_generator(seeds[0])) for _ in seeds]),
            "every picture starts from the same noise here: give each generator the seed of its own picture.",
        ),
        Mistake(
            lambda seeds, shape: start_noise(range(seeds[0], seeds[0] + len(seeds)), shape),
            "this counts up from the first seed; the seeds that were given need not follow each other.",
        ),
        Mistake(
            lambda seeds, shape: torch.cat([torch.randn(shape, generator=_generator(seed)) for seed in seeds]),
            "cat joins the pictures along their channels. A batch is a new dimension in front, which stack adds.",
        ),
        Mistake(
            lambda seeds, shape: torch.stack([torch.rand(shape, generator=_generator(seed)) for seed in seeds]),
            "rand draws evenly between 0 and 1. The noise of diffusion is normal: randn.",
        ),
        Mistake(
            lambda seeds, shape: torch.randn((len(seeds), *shape)),
            "these numbers do not come from the seeds: hand each torch.randn a generator.",
        ),
    ),
)


# --- 5: guidance


class _Unet(nn.Module):
    """In place of a U-Net: an answer that depends on the latent, on the time and on the vectors."""

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, return_dict: bool = True) -> Any:
        if len(sample) != len(encoder_hidden_states):
            raise ValueError(f"{len(sample)} latents came with vectors for {len(encoder_hidden_states)}")
        said = encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None]
        answer = torch.tanh(sample * (1 + float(timestep) / 1000) + said)
        return SimpleNamespace(sample=answer) if return_dict else (answer,)


def _guidance_cases() -> list[tuple[nn.Module, Tensor, int, Tensor, float]]:
    generator = _generator(6)
    vectors = torch.randn((2, 6, 5), generator=generator)
    sizes = ((1, 500, 4.0), (3, 900, 7.5), (2, 20, 1.0))
    return [(_Unet(), torch.randn((b, 4, 3, 3), generator=generator), t, vectors, s) for b, t, s in sizes]


def _answers(unet: nn.Module, x: Tensor, t: int, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """What the U-Net says without words and with them."""
    return guided_noise(unet, x, t, vectors, 0.0), guided_noise(unet, x, t, vectors, 1.0)


def _guided_otherwise(mix: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    return lambda unet, x, t, vectors, guidance: mix(*_answers(unet, x, t, vectors), guidance)


@torch.no_grad()
def _in_turns(unet: nn.Module, x: Tensor, t: int, vectors: Tensor, guidance: float) -> Tensor:
    """The vectors alternate, while the latents stand in two blocks."""
    without, words = unet(torch.cat([x, x]), t, vectors.repeat(len(x), 1, 1)).sample.chunk(2)
    return without + guidance * (words - without)


GUIDED_NOISE = Exercise(
    name="07.guided_noise",
    solution=guided_noise,
    cases=_guidance_cases,
    hints=(
        "The latents go in twice: `torch.cat([x, x])`. Which vectors belong to the first half, which to the second?",
        "`vectors.repeat_interleave(len(x), dim=0)` gives empty, empty, words, words; with `repeat` they alternate.",
        "`.sample.chunk(2)` takes the two halves of the answer apart. Begin at the first, the one without words, and "
        "go s times the way to the second.",
    ),
    mistakes=(
        Mistake(
            _guided_otherwise(lambda without, words, s: words + s * (without - words)),
            "the two answers have changed places: the way begins at the one without words.",
        ),
        Mistake(
            _guided_otherwise(lambda without, words, s: words + s * (words - without)),
            "this begins at the answer with the words, and so goes one way too far: s = 1 has to change nothing.",
        ),
        Mistake(
            _guided_otherwise(lambda without, words, s: s * (words - without)),
            "this is the way alone. It has to begin somewhere: at the answer without words.",
        ),
        Mistake(
            _guided_otherwise(lambda without, words, s: words),
            "this is the answer with the words, without guidance. Where does s come in?",
        ),
        Mistake(
            _guided_otherwise(lambda without, words, s: without),
            "this is the answer without words: nobody asked for anything.",
        ),
        Mistake(
            _in_turns,
            "with several latents the vectors are in another order than the latents: first all empty, then all words.",
        ),
    ),
)


# --- 6: the loop


def _ddim(x: Tensor, eps: Tensor, a: Tensor, a_next: Tensor) -> Tensor:
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    return a_next**0.5 * x0 + (1 - a_next) ** 0.5 * eps


def _loop_cases() -> list[tuple[Callable[[Tensor, int], Tensor], Tensor, list[int], Tensor]]:
    alpha_bar = schedules.alpha_bar(schedules.betas())
    x = torch.randn((1, 4, 4, 4), generator=_generator(2))

    def predict(x: Tensor, t: int) -> Tensor:  # near the noise of data that is standard normal
        return (1 - alpha_bar[t]).sqrt() * x + 0.1 * torch.sin(3 * x)

    return [(predict, x, times, alpha_bar) for times in (timesteps(20), timesteps(4), [999])]


def _loop_otherwise(
    *, last: int | None = 0, told: int = 0, step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _ddim
) -> Callable[..., Tensor]:
    """A loop with mistakes: where it ends (None: with the last timestep), which timestep predict is told, the step."""

    def wrong(predict: Callable[[Tensor, int], Tensor], x: Tensor, times: Sequence[int], alpha_bar: Tensor) -> Tensor:
        a_of = torch.cat([alpha_bar, torch.ones(1)])
        for pair in pairwise([*times, *([] if last is None else [last])]):
            x = step(x, predict(x, max(pair[told], 0)), a_of[pair[0]], a_of[pair[1]])
        return x

    return wrong


DDIM_LOOP = Exercise(
    name="07.ddim_loop",
    solution=ddim_loop,
    cases=_loop_cases,
    # A run of 20 steps adds up the roundings of each.
    rtol=1e-3,
    atol=1e-3,
    hints=(
        "One step has two moves: estimate x0, then put back the noise that belongs to the next timestep.",
        "The first move uses alpha_bar[t], the second alpha_bar[t_next], and both the same predicted noise.",
        "`zip(timesteps, [*timesteps[1:], 0])` pairs each timestep with the next one; the last is paired with 0.",
    ),
    mistakes=(
        Mistake(
            _loop_otherwise(last=1000),
            "nearly: this ends at the clean picture, alpha_bar 1. Stable Diffusion's settings end at alpha_bar[0].",
        ),
        Mistake(
            _loop_otherwise(last=None),
            "one step is missing: the one from the last timestep of the list to 0.",
        ),
        Mistake(
            _loop_otherwise(last=999),
            "alpha_bar[-1] is the noisiest of all to Python. The last step ends at alpha_bar[0].",
        ),
        Mistake(
            _loop_otherwise(step=lambda x, eps, a, a_next: _ddim(x, eps, a, torch.ones(()))),
            "this jumps to the clean picture at every step; after each estimate noise has to come back, a little less.",
        ),
        Mistake(
            _loop_otherwise(step=lambda x, eps, a, a_next: _ddim(x, eps, a, a_next) + eps * _excess(a, a_next)),
            "the noise comes back as strong as it was. It takes the strength of the next timestep.",
        ),
        Mistake(
            _loop_otherwise(told=1),
            "predict has to be told the timestep that x is at now, not the one it goes to.",
        ),
        Mistake(
            _loop_otherwise(step=lambda x, eps, a, a_next: _ddim(x, eps, a**2, a_next**2)),
            "alpha_bar is a share of the variance: the latents are multiplied by its root.",
        ),
    ),
)


def _excess(a: Tensor, a_next: Tensor) -> Tensor:
    return (1 - a) ** 0.5 - (1 - a_next) ** 0.5


# --- 7: pixels


class _Vae(nn.Module):
    """In place of a VAE: paints each place as a square of two by two pixels, some of them beyond -1 to 1."""

    config = SimpleNamespace(scaling_factor=0.5)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        painted = 0.55 * z[:, :3].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return SimpleNamespace(sample=painted) if return_dict else (painted,)


def _painted(vae: nn.Module, z: Tensor) -> Tensor:
    """What the decoder makes of z, from 0 to 1, what lies beyond cut off: (B, 3, height, width)."""
    return (vae.decode(z).sample / 2 + 0.5).clamp(0, 1)


def _bytes(unit: Tensor) -> np.ndarray:
    """(B, 3, height, width) from 0 to 1 as (B, height, width, 3) from 0 to 255."""
    return _scaled(unit).round().astype(np.uint8)


def _scaled(unit: Tensor) -> np.ndarray:
    """(B, 3, height, width) from 0 to 1 as (B, height, width, 3) from 0 to 255, not rounded."""
    return unit.permute(0, 2, 3, 1).float().cpu().numpy() * 255


def _not_clamped(vae: nn.Module, x: Tensor) -> np.ndarray:
    unit = vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5
    values = (unit.permute(0, 2, 3, 1).float().cpu().numpy() * 255).round()
    return values.astype(np.int64).astype(np.uint8)  # in two steps, so that every machine wraps around alike


TO_PIXELS = Exercise(
    name="07.to_pixels",
    solution=to_pixels,
    cases=lambda: [(_Vae(), torch.randn((b, 4, 4, 6), generator=_generator(b))) for b in (1, 2)],
    hints=(
        "Divide, decode, bring the numbers to 0 to 1, cut off what lies beyond, turn the axes; last, make bytes.",
        "From -1 to 1 to 0 to 1: `painted / 2 + 0.5`. What lies beyond: `.clamp(0, 1)`.",
        "Colours last: `.permute(0, 2, 3, 1)`. Then `.float().cpu().numpy()`, times 255, `.round()` and "
        "`.astype(np.uint8)`.",
    ),
    mistakes=(
        Mistake(
            lambda vae, x: _bytes(_painted(vae, x)),
            "the latents go into the decoder as they are: divide them by `vae.config.scaling_factor` first.",
        ),
        Mistake(
            lambda vae, x: _bytes(_painted(vae, x * vae.config.scaling_factor)),
            "the scale is applied the wrong way round: the encoder's side multiplies, the decoder's side divides.",
        ),
        Mistake(
            _not_clamped,
            "what lies beyond black and white wraps around and becomes its opposite: clamp it to 0 to 1 first.",
        ),
        Mistake(
            lambda vae, x: np.floor(unrounded(vae, x)).astype(np.uint8),
            "astype cuts off what follows the point, so that the picture is half a step too dark: round first.",
        ),
        Mistake(
            lambda vae, x: _bytes(vae.decode(x / vae.config.scaling_factor).sample.clamp(0, 1)),
            "everything darker than the middle has become black: bring -1 to 1 to 0 to 1 before you cut off.",
        ),
        Mistake(
            lambda vae, x: to_pixels(vae, x).transpose(0, 3, 1, 2),
            "the colours stand in front of the pixels. In a picture they come last: (B, height, width, 3).",
        ),
        Mistake(
            lambda vae, x: to_pixels(vae, x).transpose(0, 3, 1, 2).reshape(len(x), *to_pixels(vae, x).shape[1:]),
            "reshape deals the numbers out anew, row by row, and tears the colours apart: permute moves whole axes.",
        ),
        Mistake(
            lambda vae, x: to_pixels(vae, x)[0],
            "this is the first picture alone. Keep the batch, also if it is one of one.",
        ),
    ),
)


EXERCISES = (START_NOISE, GUIDED_NOISE, DDIM_LOOP, TO_PIXELS)

ONE_GENERATOR = Quiz(
    name="07.one_generator",
    question="You drew four pictures at once with one generator, seed 7, and like the third. How do you draw it again?",
    options=(
        Option(
            "With a batch of one and seed 9",
            "That counts from 7 to 9. But nobody started a generator with 9: the third noise is what one generator, "
            "started with 7, drew third.",
        ),
        Option(
            "With a batch of one and seed 7",
            "That gives the first noise of this generator, and so the first picture again, but for rounding.",
        ),
        Option(
            "With the first three noises of seed 7, of which you keep the third",
            "Its noise has no seed of its own. You have to draw the two before it too, if only their noise.",
            right=True,
        ),
    ),
)

QUIZZES = (ONE_GENERATOR,)
