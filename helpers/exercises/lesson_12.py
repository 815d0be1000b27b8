"""The exercises of lesson 12: for each broken pipeline what is wrong, a part mended, and the first difference.

A diagnosis is a member of `patients.Cause` and not a text, so that a misspelt one is an error of its own and no verdict
has to name the right one.
"""

import copy
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from helpers.exercises import Exercise, Mistake
from helpers.exercises.patients import PATIENTS, Cause

# --- diagnoses

# What one would see if it were this cause; the answer to whoever names it where it is not.
SIGNS = {
    Cause.WRONG_PADDING: "the first noise would differ, and the picture still show the thing of the prompt",
    Cause.LINEAR_BETAS: "the sampler would start from another size, neither the right one nor 1",
    Cause.NOISE_REUSED: "the sampler would be the stochastic one, and the latents would grow: equal draws add up",
    Cause.START_NOT_SCALED: "the sampler's latents would begin at a standard deviation of 1, and the right ones do not",
    Cause.INPUT_NOT_SCALED: "what the U-Net is shown would begin as large as the sampler's latents",
    Cause.INDEX_AS_TIMESTEP: "the first noise would be far off and too large, and the first estimate huge",
    Cause.ROWS_SWAPPED: "the sizes would stay within bounds, and the picture would show what the prompt does not say",
    Cause.WRONG_PREDICTION: "the first noise would have nearly the right size, and all estimates would be too small",
    Cause.STEPPED_TWICE: "the sampler would be at its last step when the loop is half through",
    Cause.SKIPS_CUT: "the first noise would be far too small: without skips the answer has next to none of its grain",
    Cause.NOT_UNSCALED: "the whole run would be right, and the decoded values in a narrower range than they should be",
    Cause.HALF_OVERFLOW: "the decoded values would be nan",
    Cause.NOT_CLAMPED: "most pixels would be right, and only the brightest and the darkest far off",
    Cause.RANGE_MISTAKEN: "whatever is darker than a middle grey would be black",
    Cause.CHANNELS_SWAPPED: "every outline would be right, with latents and decoded range as they should be",
    Cause.OTHER_SEED: "the first latents would be others of the same size, and the picture another good one",
}


def _diagnosis(number: int) -> Exercise:
    right, look = PATIENTS[number].cause, PATIENTS[number].look

    def solution() -> Cause:
        return right

    solution.__name__ = f"diagnosis_{number}"
    return Exercise(
        name=f"12.diagnosis_{number}",
        solution=solution,
        cases=[()],
        mistakes=tuple(
            Mistake(lambda cause=cause: cause, f"with {cause.name}, {SIGNS[cause]}. Look at {look}.")
            for cause in Cause
            if cause is not right
        ),
    )


DIAGNOSES = tuple(_diagnosis(number) for number in range(1, len(PATIENTS)))


# --- what both of them need


def _latents(seed: int = 0) -> Tensor:
    return torch.randn((1, 4, 3, 3), generator=torch.Generator().manual_seed(seed))


# --- float16


class _Loud:
    """A stand-in for a VAE that overflows in float16: no nn.Module, so that each call gets a fresh one to change."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(10)
            loud, last = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        with torch.no_grad():
            loud.weight *= 3e5
        self.layers = nn.Sequential(loud, nn.GroupNorm(2, 8), last).requires_grad_(False).half()

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].weight.dtype

    def parameters(self):
        return self.layers.parameters()

    def to(self, *arguments: Any, **options: Any) -> "_Loud":
        self.layers.to(*arguments, **options)
        return self

    def float(self) -> "_Loud":
        return self.to(torch.float32)

    def half(self) -> "_Loud":
        return self.to(torch.float16)

    def decode(self, z: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.layers(z))


def decode(vae: Any, z: Tensor) -> Tensor:
    """The VAE's picture computed in float32, whatever the weights came in. The VAE given is left as it is."""
    return copy.deepcopy(vae).to(torch.float32).decode(z.float()).sample


DECODE = Exercise(
    name="12.decode",
    solution=decode,
    cases=lambda: [(_Loud(), _latents(seed).half()) for seed in (0, 1)],
    rtol=1e-3,
    atol=1e-3,
    mistakes=(
        Mistake(
            lambda vae, z: vae.decode(z).sample,
            "this is nan, in float16: inside the VAE numbers pass 65504. They have to be computed in float32.",
        ),
        Mistake(
            lambda vae, z: vae.decode(z).sample.nan_to_num(),
            "the nan are gone, and so is the picture. Keep them from arising.",
        ),
        Mistake(
            lambda vae, z: vae.decode(z).sample.float(),
            "the answer is converted, but it was computed in float16 and is nan by then.",
        ),
        Mistake(
            lambda vae, z: vae.decode(z.float()).sample,
            "the latents are float32 and the weights are not: the VAE has to change too, with `vae.to(...)`.",
        ),
        Mistake(
            lambda vae, z: decode(vae, z).half(),
            "computed rightly, and then cut down to float16 again. Give it back in float32.",
        ),
    ),
)


# --- the first difference

QUANTITIES = ("x", "x_in", "eps", "x0")  # in the order in which a step computes them
Place = tuple[int | None, str | None]


def apart(ill: Tensor, well: Tensor) -> float:
    """How far `ill` is from `well`, as a share of the norm of `well`."""
    return float((ill.float() - well.float()).norm() / well.float().norm())


def first_divergence(ill: Sequence[Any], well: Sequence[Any], limit: float) -> Place:
    """The step, counted from 1, and the quantity in which two runs are first further apart than `limit`.

    ill, well: the moments of two runs, each with the tensors `x`, `x_in`, `eps` and `x0`; the runs may end at different
    steps. limit: a share of the healthy tensor's norm. nan is further apart than any limit. Returns (None, None) if
    they are never that far apart.
    """
    for index, (a, b) in enumerate(zip(ill, well, strict=False), start=1):
        for name in QUANTITIES:
            if not apart(getattr(a, name), getattr(b, name)) <= limit:  # nan too: it is neither above nor below
                return index, name
    return None, None


def _pairs() -> list[tuple[list[SimpleNamespace], list[SimpleNamespace], float]]:
    """Two runs apart in `eps` from step 2 on, in `x` a hair before; others: ends early, alike, turns nan."""
    well = [
        SimpleNamespace(**{n: size * _latents(9 * i + j) for j, n in enumerate(QUANTITIES)})
        for i, size in enumerate((9, 4, 1, 1))
    ]
    off = torch.ones(1, 4, 3, 3) * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None]  # of mean 0

    def changed(amounts: dict[tuple[int, str], float], steps: int = 4) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(**{n: getattr(m, n) + amounts.get((i, n), 0) * off for n in QUANTITIES})
            for i, m in enumerate(well[:steps])
        ]

    first = changed({(0, "x"): 0.001, (1, "eps"): 0.8, (1, "x0"): 0.9, (2, "x"): 1.2, (2, "x_in"): 1.2, (3, "x"): 3.0})
    early = changed({(0, "x0"): 0.5, (1, "x"): 2.0}, steps=2)
    places = [(i, n) for i in range(4) for n in QUANTITIES]
    lost = changed(dict.fromkeys(places[places.index((1, "eps")) :], math.nan))
    return [(run, well, 0.01) for run in (first, early, changed({}), lost)]


def _found(ill: Sequence[Any], well: Sequence[Any]) -> list[tuple[float, int, str]]:
    pairs = enumerate(zip(ill, well, strict=False), start=1)
    return [(apart(getattr(a, n), getattr(b, n)), i, n) for i, (a, b) in pairs for n in QUANTITIES]


def _place(found: Sequence[tuple[float, int, str]], shift: int = 0) -> Place:
    return (found[0][1] + shift, found[0][2]) if found else (None, None)


FIRST_DIVERGENCE = Exercise(
    name="12.first_divergence",
    solution=first_divergence,
    cases=_pairs,
    mistakes=(
        Mistake(
            lambda ill, well, limit: _place([one for one in _found(ill, well) if one[0] > limit]),
            "one of the runs turns to nan on the way, and yours calls it right: a comparison with nan is always False.",
        ),
        Mistake(
            lambda ill, well, limit: _place([one for one in _found(ill, well) if one[0] > limit], -1),
            "the right place, counted from 0. Count the steps from 1, as the tables do.",
        ),
        Mistake(
            lambda ill, well, limit: _place(sorted(one for one in _found(ill, well) if one[0] > limit)[::-1]),
            "this is where they are furthest apart. The cause is at the first difference, which may be a small one.",
        ),
        Mistake(
            lambda ill, well, limit: _place([one for one in _found(ill, well) if one[0] > 0]),
            "two runs on two machines never agree to the last bit: ask for more than `limit`.",
        ),
        Mistake(
            lambda ill, well, limit: _place(
                sorted(
                    (one for one in _found(ill, well) if one[0] > limit),
                    key=lambda one: (QUANTITIES.index(one[2]), one[1]),
                )
            ),
            "this goes through all steps of one quantity before the next quantity. Go step by step.",
        ),
    ),
)


EXERCISES = (
    *DIAGNOSES,
    DECODE,
    FIRST_DIVERGENCE,
)
