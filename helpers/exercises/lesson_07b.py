"""The exercises of lesson 07b: a promise that a part keeps, and pipelines with a wrong part.

`make_suspect` makes the pipelines of the search for a wrong part. Reading on from there spoils it: each fault is named.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz
from helpers.exercises.lesson_07 import ddim_loop, timesteps

Loop = Callable[[Callable[[Tensor, int], Tensor], Tensor, Sequence[int], Tensor], Tensor]


def ends_right(ddim_loop: Loop, x0: Tensor, eps: Tensor, timesteps: Sequence[int], alpha_bar: Tensor) -> bool:
    """True if a network that always answers with the true noise is led, within 0.001, to x0 with the noise of t = 0."""
    return _ends_at(ddim_loop, x0, eps, timesteps, alpha_bar, alpha_bar[0])


# --- where the loop ends


def _ends_at(
    loop: Loop, x0: Tensor, eps: Tensor, times: Sequence[int], alpha_bar: Tensor, a_end: Tensor, within: float = 0.001
) -> bool:
    a = alpha_bar[times[0]]
    end = loop(lambda x, t: eps, a**0.5 * x0 + (1 - a) ** 0.5 * eps, times, alpha_bar)
    return bool((end - a_end**0.5 * x0 - (1 - a_end) ** 0.5 * eps).abs().max() <= within)


def _one_step_short(loop: Loop) -> Loop:
    """The last latents are those of the last timestep: a step to the noise that is already there changes nothing."""

    def short(predict: Callable[[Tensor, int], Tensor], x: Tensor, times: Sequence[int], alpha_bar: Tensor) -> Tensor:
        kept = alpha_bar.clone()
        kept[0] = kept[times[-1]]
        return loop(predict, x, times, kept)

    return short


def _ends_clean(predict: Callable[[Tensor, int], Tensor], x: Tensor, times: Sequence[int], alpha_bar: Tensor) -> Tensor:
    clean = alpha_bar.clone()
    clean[0] = 1
    return ddim_loop(predict, x, times, clean)


def _end_cases() -> list[tuple[Loop, Tensor, Tensor, list[int], Tensor]]:
    alpha_bar = schedules.alpha_bar(schedules.betas())
    x0, eps = (torch.randn((1, 4, 4, 4), generator=_generator(seed)) for seed in (1, 2))
    loops = (ddim_loop, _one_step_short(ddim_loop), _ends_clean)
    return [(loop, x0, eps, timesteps(15), alpha_bar) for loop in loops]


ENDS_RIGHT = Exercise(
    name="07b.ends_right",
    solution=ends_right,
    cases=_end_cases,
    hints=(
        "Make the latent of the first timestep yourself, from x0 and eps, as in lesson 01. Then give the loop a "
        "`predict` that answers with eps, whatever it is asked.",
        "Then every x0 estimate is x0 itself, and the loop must end at the mixture of x0 and eps that belongs to "
        "t = 0: the one with `alpha_bar[0]`.",
    ),
    mistakes=(
        Mistake(
            lambda loop, x0, eps, times, alpha_bar: _ends_at(loop, x0, eps, times, alpha_bar, torch.ones(())),
            "you expect x0 itself. Stable Diffusion's settings end at t = 0, where a little noise is left.",
        ),
        Mistake(
            lambda loop, x0, eps, times, alpha_bar: _ends_at(loop, x0, eps, times, alpha_bar, alpha_bar[times[-1]]),
            "you expect the latent of the last timestep. One more step leads from there to t = 0.",
        ),
        Mistake(
            lambda loop, x0, eps, times, alpha_bar: _ends_at(loop, x0, eps, times, alpha_bar, alpha_bar[0], 0.5),
            "what is left out at the end is small: with so wide a limit everybody passes.",
        ),
    ),
)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# --- which part is wrong?


@torch.no_grad()
def _in_turns(unet: nn.Module, x: Tensor, t: int, vectors: Tensor, guidance: float) -> Tensor:
    """The vectors alternate, while the latents stand in two blocks."""
    without, words = unet(torch.cat([x, x]), t, vectors.repeat(len(x), 1, 1)).sample.chunk(2)
    return without + guidance * (words - without)


@torch.no_grad()
def _layer_before(text_encoder: nn.Module, empty_ids: Tensor, word_ids: Tensor) -> Tensor:
    both = [ids.to(text_encoder.device) for ids in (empty_ids, word_ids)]
    return torch.cat([text_encoder(ids, output_hidden_states=True).hidden_states[-2] for ids in both])


# In the order of their numbers, from 1: which part is wrong, and how it is made.
_FAULTS: tuple[tuple[str, Callable[[SimpleNamespace], Callable[..., Any]]], ...] = (
    ("ddim_loop", lambda sound: _one_step_short(sound.ddim_loop)),
    ("timesteps", lambda sound: lambda steps: [1 + int(1000 / steps * i) for i in reversed(range(steps))]),
    ("text_vectors", lambda sound: _layer_before),
    ("guided_noise", lambda sound: _in_turns),
    (
        "start_noise",
        lambda sound: lambda seeds, shape: sound.start_noise(range(seeds[0], seeds[0] + len(seeds)), shape),
    ),
)


# A request that finds all five.
TELLING_REQUEST = {"prompt": "a mushroom on grass", "seeds": [3, 8], "steps": 15}


def make_suspect(sound: SimpleNamespace, number: int) -> SimpleNamespace:
    """The seven parts of `sound` with one of them replaced by a wrong one, which `number` decides.

    sound: its attributes are the parts, by name. Raises ValueError for a number that has no suspect.
    """
    if number not in range(1, len(_FAULTS) + 1):
        raise ValueError(f"There is no suspect {number!r}: choose a number from 1 to {len(_FAULTS)}")
    name, fault = _FAULTS[number - 1]
    return SimpleNamespace(**{**vars(sound), name: fault(sound)})


EXERCISES = (ENDS_RIGHT,)

FIRST_DIFFERENCE = Quiz(
    name="07b.first_difference",
    question="One of two pipelines has one wrong part. With the same prompt and seed, parts 1 to 4 answer alike. Part "
    "5 answers alike at the first timestep, and differently from the second on. Which part is wrong?",
    options=(
        Option(
            "Part 5, which is right at the first timestep only",
            "Not for certain: the loop may also have handed part 5 another latent. Then a different answer is no "
            "fault.",
        ),
        Option(
            "Part 6, which has made another latent by then",
            "Not for certain: part 5 can also be wrong at some timesteps only, for example if it always tells the "
            "U-Net the first t.",
        ),
        Option(
            "Part 5 or part 6",
            "Compare the latent and the t that went into the second call. If both are alike, part 5 is wrong. If not, "
            "part 6 has handed it something else.",
            right=True,
        ),
    ),
)

QUIZZES = (FIRST_DIFFERENCE,)
