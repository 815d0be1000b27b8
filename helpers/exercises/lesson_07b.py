"""The exercises of lesson 07b: promises that a part keeps, and pipelines with a wrong part.

`make_suspect` makes the pipelines of the search for a wrong part. Reading on from there spoils it: each fault is named.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz
from helpers.exercises.lesson_07 import ddim_loop, guided_noise, timesteps

Guide = Callable[[nn.Module, Tensor, int, Tensor, float], Tensor]
Loop = Callable[[Callable[[Tensor, int], Tensor], Tensor, Sequence[int], Tensor], Tensor]


def alike_in_batch(guided_noise: Guide, unet: nn.Module, x: Tensor, t: int, vectors: Tensor, guidance: float) -> bool:
    """True if each latent of the batch x gets, within 0.05, the answer that it gets alone."""
    together, alone = _together_and_alone(guided_noise, unet, x, t, vectors, guidance)
    return bool((together - alone).abs().max() <= 0.05)


def ends_right(ddim_loop: Loop, x0: Tensor, eps: Tensor, timesteps: Sequence[int], alpha_bar: Tensor) -> bool:
    """True if a network that always answers with the true noise is led, within 0.001, to x0 with the noise of t = 0."""
    return _ends_at(ddim_loop, x0, eps, timesteps, alpha_bar, alpha_bar[0])


# --- alone and in a batch


@torch.no_grad()
def _together_and_alone(
    guide: Guide, unet: nn.Module, x: Tensor, t: int, vectors: Tensor, guidance: float
) -> tuple[Tensor, Tensor]:
    alone = [guide(unet, one, t, vectors, guidance) for one in x.split(1)]
    return guide(unet, x, t, vectors, guidance), torch.cat(alone)


class _Unet(nn.Module):
    """In place of a U-Net: what it answers in a larger batch is rounded a little otherwise."""

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, return_dict: bool = True) -> Any:
        said = encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None]
        answer = torch.tanh(sample * (1 + float(timestep) / 1000) + said) + 1e-6 * len(sample)
        return SimpleNamespace(sample=answer) if return_dict else (answer,)


@torch.no_grad()
def _in_turns(unet: nn.Module, x: Tensor, t: int, vectors: Tensor, guidance: float) -> Tensor:
    """The vectors alternate, while the latents stand in two blocks."""
    without, words = unet(torch.cat([x, x]), t, vectors.repeat(len(x), 1, 1)).sample.chunk(2)
    return without + guidance * (words - without)


def _first_for_all(unet: nn.Module, x: Tensor, t: int, vectors: Tensor, guidance: float) -> Tensor:
    return guided_noise(unet, x[:1], t, vectors, guidance).expand_as(x)


def _less_in_batch(unet: nn.Module, x: Tensor, t: int, vectors: Tensor, guidance: float) -> Tensor:
    return guided_noise(unet, x, t, vectors, guidance) - 0.3 * (len(x) - 1)


def _batch_cases() -> list[tuple[Guide, nn.Module, Tensor, int, Tensor, float]]:
    generator = _generator(6)
    vectors = torch.randn((2, 6, 5), generator=generator)
    x = torch.randn((3, 4, 3, 3), generator=generator)
    guides = (guided_noise, _in_turns, _first_for_all, _less_in_batch)
    return [(guide, _Unet(), x, 501, vectors, 4.0) for guide in guides]


ALIKE_IN_BATCH = Exercise(
    name="07b.alike_in_batch",
    solution=alike_in_batch,
    cases=_batch_cases,
    hints=(
        "Ask for the whole batch once, and then for each of its latents alone. `x.split(1)` gives batches of one.",
        "Make one batch of the single answers again. A difference below zero counts as much as one above.",
    ),
    mistakes=(
        Mistake(
            lambda *given: torch.equal(*_together_and_alone(*given)),
            "a sum may be rounded otherwise in a larger batch, and nothing is wrong with that: allow 0.05.",
        ),
        Mistake(
            lambda guide, unet, x, t, vectors, s: bool(
                (guide(unet, x, t, vectors, s)[:1] - guide(unet, x[:1], t, vectors, s)).abs().max() <= 0.05
            ),
            "only the first latent is compared. A part can be right about it and wrong about the others.",
        ),
        Mistake(
            lambda *given: bool((torch.sub(*_together_and_alone(*given))).max() <= 0.05),
            "an answer that is far too small passes: take the size of the difference, `.abs()`.",
        ),
        Mistake(
            lambda *given: True,
            "this accuses nobody. Compare the numbers of the two answers.",
        ),
    ),
)


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
def _layer_before(text_encoder: nn.Module, empty_ids: Tensor, word_ids: Tensor) -> Tensor:
    found = [text_encoder(ids, output_hidden_states=True).hidden_states[-2] for ids in (empty_ids, word_ids)]
    return torch.cat(found)


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


EXERCISES = (ALIKE_IN_BATCH, ENDS_RIGHT)

FIRST_DIFFERENCE = Quiz(
    name="07b.first_difference",
    question="One of two pipelines has one wrong part. With the same prompt and seed, parts 1 to 4 answer alike. Part "
    "5 answers alike at the first timestep, and otherwise from the second on. Which part is wrong?",
    options=(
        Option(
            "Part 5, which is right at the first timestep only",
            "Not for certain: the loop may also have handed part 5 another latent. Then another answer is no fault.",
        ),
        Option(
            "Part 6, which has made another latent by then",
            "Not for certain: part 5 can also be wrong at some timesteps only, for example if it always tells the "
            "U-Net the first t.",
        ),
        Option(
            "Part 5 or part 6",
            "Compare the latent and the t that went into the second call. If either differs, part 6 is wrong; if "
            "neither, part 5.",
            right=True,
        ),
    ),
)

QUIZZES = (FIRST_DIFFERENCE,)
