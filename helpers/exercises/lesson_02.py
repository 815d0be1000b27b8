"""The exercises of lesson 02: the loop, and DDPM's fresh noise for a part of the picture."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz
from helpers.sampling import ddim_step, predict_x0
from helpers.schedules import alpha_bar as alpha_bar_of
from helpers.schedules import betas

Network = Callable[[Tensor, int], Tensor]


def _tensors(*shape: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def loop(
    x: Tensor, timesteps: list[int], network: Network, alpha_bar: Tensor, step: Callable[..., Tensor] = ddim_step
) -> Tensor:
    """DDIM from noise x to an almost clean latent; network(x, t) predicts the noise: Song et al. (2020), eq. 12."""
    for t, t_next in _pairs(timesteps):
        x = step(x, network(x, t), t, t_next, alpha_bar)
    return x


def _pairs(timesteps: list[int]) -> list[tuple[int, int]]:
    return list(zip(timesteps, [*timesteps[1:], 0], strict=True))


def dice_at(x0: Tensor, eps: Tensor, a: float, a_next: float, places: Tensor, z: Tensor) -> Tensor:
    """DDPM's step where places is 1, DDIM's where it is 0: Song et al. (2020), equation 12, with a sigma per place."""
    return _mixed(x0, eps, a_next, places * _fresh(a, a_next), z)


def _fresh(a: float, a_next: float) -> float:
    return (1 - a_next) / (1 - a) * (1 - a / a_next)


def _mixed(x0: Tensor, eps: Tensor, a_next: float, fresh: Tensor, z: Tensor) -> Tensor:
    return math.sqrt(a_next) * x0 + (1 - a_next - fresh).sqrt() * eps + fresh.sqrt() * z


def _toy(x: Tensor, t: int) -> Tensor:
    """A network for the check: its answer depends on the place and on t."""
    return torch.tanh(x) + t / 1000


def _loop_cases() -> list[tuple[Tensor, list[int], Network, Tensor]]:
    (x,) = _tensors(2, 4, 3, 3, count=1)
    return [(x, timesteps, _toy, alpha_bar_of(betas())) for timesteps in ([700, 300, 20], [961, 501], [400])]


def _without_the_last(x: Tensor, timesteps: list[int], network: Network, alpha_bar: Tensor) -> Tensor:
    for t, t_next in _pairs(timesteps)[:-1]:
        x = ddim_step(x, network(x, t), t, t_next, alpha_bar)
    return x


def _ends_with_a_look(x: Tensor, timesteps: list[int], network: Network, alpha_bar: Tensor) -> Tensor:
    x = _without_the_last(x, timesteps, network, alpha_bar)
    return predict_x0(x, network(x, timesteps[-1]), timesteps[-1], alpha_bar)


def _asks_once(x: Tensor, timesteps: list[int], network: Network, alpha_bar: Tensor) -> Tensor:
    eps = network(x, timesteps[0])
    for t, t_next in _pairs(timesteps):
        x = ddim_step(x, eps, t, t_next, alpha_bar)
    return x


def _tells_the_next(x: Tensor, timesteps: list[int], network: Network, alpha_bar: Tensor) -> Tensor:
    for t, t_next in _pairs(timesteps):
        x = ddim_step(x, network(x, t_next), t, t_next, alpha_bar)
    return x


LOOP = Exercise(
    name="02.loop",
    solution=loop,
    cases=_loop_cases,
    hints=(
        "Each round needs a timestep and the one after it: pair `timesteps` with the list that begins one later and "
        "ends with 0.",
        "Three lines in each round: eps from `network(x, t)`; the x0 estimate from x, eps and t; and the new x.",
        "The new x is a noised picture at the next timestep: `schedules.add_noise`, with the estimate as the picture "
        "and eps as the noise.",
    ),
    mistakes=(
        Mistake(
            _without_the_last,
            "the last step is missing: from the last of the timesteps one more goes to t = 0.",
        ),
        Mistake(
            _ends_with_a_look,
            "this ends with the last x0 estimate. The last step is a step like the others, to t = 0, where a little "
            "noise is left.",
        ),
        Mistake(_asks_once, "here the network is asked once. Ask it again in each round, about the new x."),
        Mistake(_tells_the_next, "the network has to be told the timestep that x is at, not the next one."),
        Mistake(
            partial(loop, step=lambda x, eps, t, t_next, bar: ddim_step(x, eps, t, t, bar)),
            "x stays where it was: picture and noise are mixed for the same timestep again. Mix them for the next one.",
        ),
        Mistake(
            partial(loop, step=lambda x, eps, t, t_next, bar: ddim_step(x, eps, t_next, t, bar)),
            "the two timesteps are exchanged: the estimate belongs to the one that x is at, the mix to the next one.",
        ),
        Mistake(
            partial(loop, step=lambda x, eps, t, t_next, bar: predict_x0(x, eps, t, bar)),
            "here each round ends at the x0 estimate. Put noise on it again, as much as belongs to the next timestep.",
        ),
        Mistake(
            partial(loop, step=lambda x, eps, t, t_next, bar: bar[t_next].sqrt() * predict_x0(x, eps, t, bar)),
            "the noise is missing in the mix: the next x is the estimate with the predicted noise on it.",
        ),
    ),
)


def _dice_at_cases() -> list[tuple[Tensor, Tensor, float, float, Tensor, Tensor]]:
    x0, eps, z = _tensors(2, 4, 3, 3, count=3)
    places = torch.tensor([[0.0, 1, 1], [0, 0, 1], [1, 0, 1]])
    return [(x0, eps, a, a_next, places, z) for a, a_next in ((0.0047, 0.02), (0.3, 0.5), (0.8, 0.97))]


def _half(kept: Callable[[Tensor], Tensor], put: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """`dice_at` with something else in place of the variance taken out, or of what z is multiplied by."""

    def step(x0: Tensor, eps: Tensor, a: float, a_next: float, places: Tensor, z: Tensor) -> Tensor:
        fresh = places * _fresh(a, a_next)
        return math.sqrt(a_next) * x0 + (1 - a_next - kept(fresh)).sqrt() * eps + put(fresh) * z

    return step


DICE_AT = Exercise(
    name="02.dice_at",
    solution=dice_at,
    cases=_dice_at_cases,
    hints=(
        "You need no second formula and no `if`. Which number in DDPM's formula makes DDIM of it?",
        "The variance of the fresh noise: with 0 the step is DDIM's. Let it be a tensor (h, w), 0 where `places` is 0.",
        "Use that tensor twice: it is taken out of what the predicted noise keeps, and its root is the size of z. "
        "`math.sqrt` takes no tensors; `** 0.5` does.",
    ),
    mistakes=(
        Mistake(
            lambda x0, eps, a, a_next, places, z: _mixed(
                x0, eps, a_next, torch.ones_like(places) * _fresh(a, a_next), z
            ),
            "this puts fresh noise everywhere.",
        ),
        Mistake(
            lambda x0, eps, a, a_next, places, z: _mixed(x0, eps, a_next, (1 - places) * _fresh(a, a_next), z),
            "the wrong places: fresh noise belongs where `places` is 1.",
        ),
        Mistake(
            _half(torch.zeros_like, torch.sqrt),
            "where fresh noise is put there is too much noise now: as much has to be taken out of the predicted noise.",
        ),
        Mistake(
            lambda x0, eps, a, a_next, places, z: (
                math.sqrt(a_next) * x0
                + math.sqrt(1 - a_next - _fresh(a, a_next)) * eps
                + (places * _fresh(a, a_next)).sqrt() * z
            ),
            "where no fresh noise is put there is too little noise now: there the predicted noise stays whole.",
        ),
        Mistake(
            _half(lambda fresh: fresh, lambda fresh: fresh),
            "z is multiplied by a variance; multiply it by the root.",
        ),
        Mistake(
            _half(torch.sqrt, torch.sqrt),
            "variances add up, not their roots: take the variance itself out of 1 - a_next.",
        ),
        Mistake(
            lambda x0, eps, a, a_next, places, z: _mixed(x0, eps, a_next, places * (1 - a / a_next), z),
            "this is 1 - alpha. The variance in the formula is smaller: (1 - a_next) / (1 - a) times that.",
        ),
    ),
)


EXERCISES = (LOOP, DICE_AT)

ONE_LOOK = Quiz(
    name="02.one_look",
    question="A world has two pictures, equally likely: a white square and a black square. A perfect network is shown "
    "noise in which no trace of the picture is left, and asked once for the picture. What does it answer?",
    options=(
        Option(
            "White or black, each in half of the cases",
            "That would be a sample, not the best guess. In half of the cases such an answer is as wrong as can be, "
            "and the squared error punishes that.",
        ),
        Option(
            "Grey, every time",
            "Grey is never right, but never as far off as the wrong guess. Its squared error is half of what a gamble "
            "on white or black costs on average.",
            right=True,
        ),
        Option(
            "A square with a white and a black half",
            "Every place is white or black with equal chances, so the best number for each place is the one between "
            "them, everywhere alike.",
        ),
    ),
)

QUIZZES = (ONE_LOOK,)
