"""The exercises of lesson 06: noise for a batch, decoding in slices, a size that fits, and a whole Euler loop."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake
from helpers.sampling import euler_step


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def batch_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Noise (B, *shape) for a batch in which every picture has a seed of its own."""
    return torch.stack([torch.randn(shape, generator=_generator(seed)) for seed in seeds])


def in_slices(decode: Callable[[Tensor], Tensor], latents: Tensor, at_once: int) -> Tensor:
    """`decode(latents)`, computed for at most `at_once` latents at a time."""
    return torch.cat([decode(part) for part in latents.split(at_once)])


def fit_size(height: float, width: float, own: int, multiple: int) -> tuple[int, int]:
    """(height, width) of these proportions with about own * own pixels, each side the nearest multiple."""
    scale = own / math.sqrt(height * width)
    return tuple(max(1, round(side * scale / multiple)) * multiple for side in (height, width))


def euler_loop(predict: Callable[[Tensor, float], Tensor], noise: Tensor, sigmas: Sequence[float]) -> Tensor:
    """The latents after all Euler steps: Karras et al. (2022), Algorithm 2 without churn or correction."""
    x = noise * math.sqrt(sigmas[0] ** 2 + 1)
    for sigma, sigma_next in pairwise(sigmas):
        x = euler_step(x, predict(x / math.sqrt(sigma**2 + 1), sigma), sigma, sigma_next)
    return x


BATCH_NOISE = Exercise(
    name="06.batch_noise",
    solution=batch_noise,
    cases=[((7, 3, 11), (4, 8, 8)), ((2, 2), (4, 4, 8))],
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
            lambda seeds, shape: batch_noise(range(seeds[0], seeds[0] + len(seeds)), shape),
            "this counts up from the first seed; the seeds that were given need not follow each other.",
        ),
        Mistake(
            lambda seeds, shape: torch.cat([torch.randn(shape, generator=_generator(seed)) for seed in seeds]),
            "cat joins the pictures along their channels. A batch is a new dimension in front, which stack adds.",
        ),
        Mistake(
            lambda seeds, shape: torch.randn((len(seeds), *shape)),
            "these numbers do not come from the seeds: hand each torch.randn a generator.",
        ),
    ),
)


def _paint(latents: Tensor) -> Tensor:
    """A decoder with room for three latents: each becomes twice as large, in three channels of their mean."""
    if len(latents) > 3:
        raise MemoryError(f"no room for {len(latents)} latents at once")
    return latents.mean(dim=1, keepdim=True).repeat(1, 3, 2, 2)


def _slice_cases() -> list[tuple[Callable[[Tensor], Tensor], Tensor, int]]:
    generator = _generator(1)
    sizes = ((6, 3), (6, 2), (7, 3), (2, 3))
    return [(_paint, torch.randn((count, 4, 2, 2), generator=generator), at_once) for count, at_once in sizes]


def _stack_slices(decode: Callable[[Tensor], Tensor], latents: Tensor, at_once: int) -> Tensor:
    return torch.stack([decode(part) for part in latents.split(at_once)])


IN_SLICES = Exercise(
    name="06.in_slices",
    solution=in_slices,
    cases=_slice_cases,
    mistakes=(
        Mistake(
            lambda decode, latents, at_once: decode(latents),
            "all latents go through the decoder together, and that is what the memory was too small for.",
        ),
        Mistake(
            lambda decode, latents, at_once: torch.cat(
                [decode(latents[i : i + at_once]) for i in range(0, len(latents) - at_once + 1, at_once)]
                or [decode(latents[:0])]
            ),
            "the last slice may be shorter than the others; here it is lost.",
        ),
        Mistake(
            lambda decode, latents, at_once: [decode(part) for part in latents.split(at_once)],
            "this is a list of slices: join them into one batch.",
        ),
        Mistake(
            _stack_slices,
            "stack puts the slices into a new dimension. They belong behind each other in the batch, as cat does it.",
        ),
        Mistake(
            lambda decode, latents, at_once: decode(latents.split(at_once)[-1]),
            "only the last slice is returned: collect all of them.",
        ),
    ),
)


def _fitted(height: float, width: float, multiple: int, scale: float, whole: Callable[[float], int]) -> tuple[int, int]:
    return tuple(max(1, whole(side * scale / multiple)) * multiple for side in (height, width))


FIT_SIZE = Exercise(
    name="06.fit_size",
    solution=fit_size,
    # No side lies near the middle between two multiples, where rounding would depend on the order of the arithmetic.
    cases=[(9, 20, 512, 64), (3, 2, 128, 8), (500, 700, 768, 64), (1, 3, 128, 32)],
    mistakes=(
        Mistake(
            lambda height, width, own, multiple: _fitted(height, width, multiple, own / max(height, width), round),
            "the longer side is the model's own here, which leaves too few pixels. Their number should stay the same.",
        ),
        Mistake(
            lambda height, width, own, multiple: _fitted(height, width, multiple, own / min(height, width), round),
            "the shorter side is the model's own here, which makes too many pixels. Their number should stay the same.",
        ),
        Mistake(
            lambda height, width, own, multiple: _fitted(height, width, multiple, own**2 / (height * width), round),
            "this is the ratio of the two areas. A side grows with its square root.",
        ),
        Mistake(
            lambda height, width, own, multiple: _fitted(
                height, width, multiple, own / math.sqrt(height * width), math.floor
            ),
            "the sides are rounded down; the nearest multiple is asked for.",
        ),
        Mistake(
            lambda height, width, own, multiple: tuple(
                round(side * own / math.sqrt(height * width)) for side in (height, width)
            ),
            "the proportions are right, but these sides are not multiples of what the model needs.",
        ),
        Mistake(
            lambda height, width, own, multiple: fit_size(height, width, own, multiple)[::-1],
            "height and width have changed places.",
        ),
    ),
)


def _predict(x: Tensor, sigma: float) -> Tensor:
    """A stand-in for the guided U-Net: near the noise in x, and never the same at two noise levels."""
    return torch.tanh(x) + 0.1 * sigma * torch.cos(x)


def _euler_cases() -> list[tuple[Callable[[Tensor, float], Tensor], Tensor, list[float]]]:
    noise = torch.randn((1, 4, 4, 4), generator=_generator(1))
    return [(_predict, noise, [14.6, 4.0, 1.2, 0.3, 0.0]), (_predict, noise, [2.0, 0.5, 0.0])]


def _wrong_euler(
    start: Callable[[float], float] = lambda sigma: math.sqrt(sigma**2 + 1),
    shown: Callable[[float], float] = lambda sigma: math.sqrt(sigma**2 + 1),
    sign: int = 1,
    keep: bool = True,
    last: int | None = None,
) -> Callable[..., Tensor]:
    """`euler_loop` with one thing wrong: the start, what the U-Net is shown, the direction, the latents, the end."""

    def wrong(predict: Callable[[Tensor, float], Tensor], noise: Tensor, sigmas: Sequence[float]) -> Tensor:
        x = noise * start(sigmas[0])
        for sigma, sigma_next in pairwise(sigmas[:last]):
            scaled = x / shown(sigma)
            x = (x if keep else scaled) + sign * (sigma_next - sigma) * predict(scaled, sigma)
        return x

    return wrong


EULER_LOOP = Exercise(
    name="06.euler_loop",
    solution=euler_loop,
    cases=_euler_cases,
    mistakes=(
        Mistake(
            _wrong_euler(shown=lambda sigma: 1.0),
            "the U-Net is shown x as it is. Divide it first, so that what it sees has a variance near 1.",
        ),
        Mistake(
            _wrong_euler(start=lambda sigma: 1.0),
            "the start is too weak: Euler's first latents are as strong as the first noise level says.",
        ),
        Mistake(
            _wrong_euler(start=lambda sigma: sigma),
            "nearly: the start is the noise times the root of sigma² + 1, not times sigma.",
        ),
        Mistake(
            _wrong_euler(keep=False),
            "only what the U-Net is shown gets divided. The step goes on from x itself.",
        ),
        Mistake(
            _wrong_euler(sign=-1),
            "the steps go towards more noise: it is (sigma_next - sigma) that is multiplied with eps.",
        ),
        Mistake(
            _wrong_euler(last=-1),
            "one step is missing: the last one goes down to sigma = 0.",
        ),
        Mistake(
            _wrong_euler(shown=lambda sigma: sigma**2 + 1),
            "sigma² + 1 is a variance: divide by its square root.",
        ),
    ),
)

EXERCISES = (BATCH_NOISE, IN_SLICES, FIT_SIZE, EULER_LOOP)
