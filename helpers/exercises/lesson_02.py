"""The exercises of lesson 02: the loop, and DDPM's fresh noise for a part of the picture."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz
from helpers.sampling import predict_x0
from helpers.schedules import add_noise, betas
from helpers.schedules import alpha_bar as alpha_bar_of

Network = Callable[[Tensor, int], Tensor]
Mix = Callable[[Tensor, Tensor, int, int, Tensor], Tensor]  # (x0_hat, eps, t, t_next, alpha_bar): the next latent
Loop = Callable[[Tensor, list[int], Network, Tensor, Mix], Tensor]

ALPHA_BAR = alpha_bar_of(betas())


def _tensors(*shape: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def loop(x: Tensor, timesteps: list[int], network: Network, alpha_bar: Tensor, step: Mix) -> Tensor:
    """From noise x to an almost clean latent; network(x, t) predicts the noise, step makes the next latent."""
    for t, t_next in _pairs(timesteps):
        eps = network(x, t)
        x = step(predict_x0(x, eps, t, alpha_bar), eps, t, t_next, alpha_bar)
    return x


def _pairs(timesteps: list[int]) -> list[tuple[int, int]]:
    return list(zip(timesteps, [*timesteps[1:], 0], strict=True))


def dice_at(x0_hat: Tensor, eps: Tensor, a: float, a_next: float, places: Tensor, z: Tensor) -> Tensor:
    """DDPM's step where places is 1, DDIM's where it is 0: Song et al. (2020), equation 12, with a sigma per place."""
    return _mixed(x0_hat, eps, a_next, places * _fresh(a, a_next), z)


def _fresh(a: float, a_next: float) -> float:
    return (1 - a_next) / (1 - a) * (1 - a / a_next)


def _mixed(x0: Tensor, eps: Tensor, a_next: float, fresh: Tensor, z: Tensor) -> Tensor:
    return math.sqrt(a_next) * x0 + (1 - a_next - fresh).sqrt() * eps + fresh.sqrt() * z


def _toy(x: Tensor, t: int) -> Tensor:
    """A network for the check: its answer depends on the place and on t."""
    return torch.tanh(x) + t / 1000


def _ddim(x0: Tensor, eps: Tensor, t: int, t_next: int, alpha_bar: Tensor) -> Tensor:
    return add_noise(x0, eps, t_next, alpha_bar)


def _other(x0: Tensor, eps: Tensor, t: int, t_next: int, alpha_bar: Tensor) -> Tensor:
    """A step that no formula of the lesson gives: what it gives depends on both timesteps."""
    return (x0 * (1 - t_next / 1000) + eps * t / 2000).tanh()


def _loop_cases() -> list[tuple[Tensor, list[int], Network, Tensor, Mix]]:
    (x,) = _tensors(2, 4, 3, 3, count=1)
    runs = (([700, 300, 20], _ddim), ([961, 501], _ddim), ([400], _ddim), ([801, 401, 1], _other))
    return [(x, timesteps, _toy, ALPHA_BAR, step) for timesteps, step in runs]


def _without_the_last(x: Tensor, timesteps: list[int], network: Network, alpha_bar: Tensor, step: Mix) -> Tensor:
    for t, t_next in _pairs(timesteps)[:-1]:
        eps = network(x, t)
        x = step(predict_x0(x, eps, t, alpha_bar), eps, t, t_next, alpha_bar)
    return x


def _ends_with_a_look(x: Tensor, timesteps: list[int], network: Network, alpha_bar: Tensor, step: Mix) -> Tensor:
    x = _without_the_last(x, timesteps, network, alpha_bar, step)
    return predict_x0(x, network(x, timesteps[-1]), timesteps[-1], alpha_bar)


def _asks_once(x: Tensor, timesteps: list[int], network: Network, alpha_bar: Tensor, step: Mix) -> Tensor:
    eps = network(x, timesteps[0])
    return loop(x, timesteps, lambda x, t: eps, alpha_bar, step)


def _with(turn: Callable[[Tensor, int, int, Network, Tensor, Mix], Tensor]) -> Loop:
    """A loop with another round: turn(x, t, t_next, network, alpha_bar, step) gives the next x."""

    def wrong(x: Tensor, timesteps: list[int], network: Network, alpha_bar: Tensor, step: Mix) -> Tensor:
        for t, t_next in _pairs(timesteps):
            x = turn(x, t, t_next, network, alpha_bar, step)
        return x

    return wrong


def _tells_the_next(x: Tensor, t: int, t_next: int, network: Network, alpha_bar: Tensor, step: Mix) -> Tensor:
    eps = network(x, t_next)
    return step(predict_x0(x, eps, t, alpha_bar), eps, t, t_next, alpha_bar)


def _estimates_for_the_next(x: Tensor, t: int, t_next: int, network: Network, alpha_bar: Tensor, step: Mix) -> Tensor:
    eps = network(x, t)
    return step(predict_x0(x, eps, t_next, alpha_bar), eps, t, t_next, alpha_bar)


LOOP = Exercise(
    name="02.loop",
    solution=loop,
    cases=_loop_cases,
    hints=(
        "Each round needs a timestep and the one after it: pair `timesteps` with the list that begins one later and "
        "ends with 0.",
        "Three lines in each round: eps from `network(x, t)`; the x0 estimate from x, eps and t; and the new x.",
        "The new x comes from `step`: give it the estimate, eps, the timestep that x is at, the next one, and "
        "`alpha_bar`.",
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
        Mistake(_with(_tells_the_next), "the network has to be told the timestep that x is at, not the next one."),
        Mistake(
            _with(_estimates_for_the_next),
            "the x0 estimate is made for the next timestep here; make it for the one that x is at.",
        ),
        Mistake(
            lambda x, timesteps, network, alpha_bar, step: loop(
                x, timesteps, network, alpha_bar, lambda x0, eps, t, t_next, bars: step(x0, eps, t_next, t, bars)
            ),
            "the two timesteps are exchanged in `step`: first the one that x is at, then the next one.",
        ),
        Mistake(
            lambda x, timesteps, network, alpha_bar, step: loop(
                x, timesteps, network, alpha_bar, lambda x0, eps, t, t_next, bars: step(x0, eps, t, t, bars)
            ),
            "`step` is given the same timestep twice, so x stays at its noise level. Its second one is the next one.",
        ),
        Mistake(
            _with(lambda x, t, t_next, network, alpha_bar, step: step(x, network(x, t), t, t_next, alpha_bar)),
            "`step` takes the x0 estimate, and here it is given x itself.",
        ),
        Mistake(
            _with(lambda x, t, t_next, network, alpha_bar, step: predict_x0(x, network(x, t), t, alpha_bar)),
            "here each round ends at the x0 estimate. Let `step` make the next x of it.",
        ),
        Mistake(
            lambda x, timesteps, network, alpha_bar, step: loop(x, timesteps, network, alpha_bar, _ddim),
            "this draws with DDIM's formula whatever `step` it is given. Let `step` make the next x.",
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
