"""The exercises of lesson 02: the loop, DDPM's step from two bells, dice for a part, and the perfect network."""

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
    """DDIM from noise x to a clean latent, with network(x, t) for the predicted noise: Song et al. (2020), eq. 12."""
    for t, t_next in _pairs(timesteps):
        x = step(x, network(x, t), t, t_next, alpha_bar)
    return x


def _pairs(timesteps: list[int]) -> list[tuple[int, int]]:
    return list(zip(timesteps, [*timesteps[1:], 0], strict=True))


def two_bells(x_t: Tensor, x0: Tensor, a: float, a_next: float) -> tuple[Tensor, float]:
    """Mean and variance of x at the next timestep, given x_t and x0: Ho et al. (2020), equations 6 and 7."""
    alpha = a / a_next
    return _product(math.sqrt(a_next) * x0, 1 - a_next, x_t / math.sqrt(alpha), (1 - alpha) / alpha)


def _product(one: Tensor, of_one: float, other: Tensor, of_other: float) -> tuple[Tensor, float]:
    """The product of two normal densities, each with its mean and its variance."""
    variance = 1 / (1 / of_one + 1 / of_other)
    return variance * (one / of_one + other / of_other), variance


def dice_at(x0: Tensor, eps: Tensor, a: float, a_next: float, places: Tensor, z: Tensor) -> Tensor:
    """DDPM's step where places is 1, DDIM's where it is 0: Song et al. (2020), equation 12, with a sigma per place."""
    return _mixed(x0, eps, a_next, places * _fresh(a, a_next), z)


def _fresh(a: float, a_next: float) -> float:
    return (1 - a_next) / (1 - a) * (1 - a / a_next)


def _mixed(x0: Tensor, eps: Tensor, a_next: float, fresh: Tensor, z: Tensor) -> Tensor:
    return math.sqrt(a_next) * x0 + (1 - a_next - fresh).sqrt() * eps + fresh.sqrt() * z


def perfect(x_t: Tensor, truths: Tensor, counts: Tensor, a: float) -> Tensor:
    """The mean of x0 given x_t, in a world of n pictures (n, ...) that stand in it counts (n,) times: (1, ...)."""
    return _mean(truths, counts.log() - _squares(x_t - math.sqrt(a) * truths) / (2 * (1 - a)))


def _squares(x: Tensor) -> Tensor:
    at_least_single = torch.promote_types(x.dtype, torch.float32)  # half precision rounds a sum this large to 8 or 16
    return x.to(at_least_single).flatten(1).square().sum(dim=1)


def _sum(truths: Tensor, weights: Tensor) -> Tensor:
    return (weights.reshape(-1, *[1] * (truths.ndim - 1)) * truths).sum(dim=0, keepdim=True)


def _mean(truths: Tensor, scores: Tensor) -> Tensor:
    return _sum(truths, scores.softmax(dim=0))


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


def _two_bells_cases() -> list[tuple[Tensor, Tensor, float, float]]:
    x_t, x0 = _tensors(2, 4, 3, 3, count=2)
    return [(x_t, x0, a, a_next) for a, a_next in ((0.0047, 0.02), (0.3, 0.5), (0.8, 0.97))]


TWO_BELLS = Exercise(
    name="02.two_bells",
    solution=two_bells,
    cases=_two_bells_cases,
    hints=(
        "Two people have measured the same length, one twice as carefully as the other. Whom do you believe more?",
        "The middle is a weighted mean of the two values. The smaller the variance, the larger the weight.",
        "The weights are 1 over each variance, divided by their sum; and 1 over that sum is the variance.",
    ),
    mistakes=(
        Mistake(
            lambda x_t, x0, a, a_next: (
                (math.sqrt(a_next) * x0 + x_t / math.sqrt(a / a_next)) / 2,
                two_bells(x_t, x0, a, a_next)[1],
            ),
            "this is the plain mean of the two. The surer one of them has to count more.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: (
                _weighted(x_t, x0, a, a_next, 1 - a_next, (a_next - a) / a),
                two_bells(x_t, x0, a, a_next)[1],
            ),
            "here the less sure one counts more: a weight is 1 over the variance.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: (
                _weighted(x_t, x0, a, a_next, (1 - a_next) ** -0.5, ((a_next - a) / a) ** -0.5),
                two_bells(x_t, x0, a, a_next)[1],
            ),
            "the exponent of a bell is divided by its variance, so the weights are 1 over variances, without a root.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: (
                two_bells(x_t, x0, a, a_next)[0] / two_bells(x_t, x0, a, a_next)[1],
                two_bells(x_t, x0, a, a_next)[1],
            ),
            "the weights do not add up to 1 yet: multiply the mean by the variance, which is 1 over their sum.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: _product(math.sqrt(a_next) * x0, 1 - a_next, x_t, 1 - a / a_next),
            "x_t is x at the next timestep times the root of alpha, and noise. Divide it by that root first, and its "
            "variance by alpha.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: _product(x0, 1 - a_next, x_t / math.sqrt(a / a_next), (a_next - a) / a),
            "the picture stands in x at the next timestep with the root of a_next of its strength.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: (
                two_bells(x_t, x0, a, a_next)[0],
                math.sqrt(two_bells(x_t, x0, a, a_next)[1]),
            ),
            "the mean is right; return the variance itself, not its root.",
        ),
        Mistake(
            lambda x_t, x0, a, a_next: two_bells(x_t, x0, a, a_next)[0],
            "the mean is right; return the variance, too: `return mean, variance`.",
        ),
    ),
)


def _weighted(x_t: Tensor, x0: Tensor, a: float, a_next: float, of_picture: float, of_latent: float) -> Tensor:
    total = of_picture + of_latent
    return (of_picture * math.sqrt(a_next) * x0 + of_latent * x_t / math.sqrt(a / a_next)) / total


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
        "One formula does both: DDIM is the step whose fresh noise has the variance 0.",
        "So let the variance be a tensor (h, w): DDPM's where `places` is 1, and 0 elsewhere. `places` times a number.",
        "Use that tensor twice: it is taken out of what the predicted noise keeps, and its root is the size of z. "
        "`math.sqrt` takes no tensors; `** 0.5` does.",
    ),
    mistakes=(
        Mistake(
            lambda x0, eps, a, a_next, places, z: _mixed(
                x0, eps, a_next, torch.ones_like(places) * _fresh(a, a_next), z
            ),
            "this throws the dice everywhere.",
        ),
        Mistake(
            lambda x0, eps, a, a_next, places, z: _mixed(x0, eps, a_next, (1 - places) * _fresh(a, a_next), z),
            "the wrong places: fresh noise belongs where `places` is 1.",
        ),
        Mistake(
            _half(torch.zeros_like, torch.sqrt),
            "where dice fall there is too much noise now: what is put in has to be taken out of the predicted noise.",
        ),
        Mistake(
            lambda x0, eps, a, a_next, places, z: (
                math.sqrt(a_next) * x0
                + math.sqrt(1 - a_next - _fresh(a, a_next)) * eps
                + (places * _fresh(a, a_next)).sqrt() * z
            ),
            "where no dice fall there is too little noise now: there the predicted noise stays whole.",
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
            "this is the wide variance. The step here is DDPM's with the narrow one.",
        ),
    ),
)


def _perfect_cases() -> list[tuple[Tensor, Tensor, Tensor, float]]:
    truths = torch.stack(_tensors(2, 2, 2, count=5))
    (eps,) = _tensors(1, 2, 2, 2, count=1)
    counts = torch.tensor([2.0, 1.0, 5.0, 1.0, 20.0])
    return [(math.sqrt(a) * truths[:1] + math.sqrt(1 - a) * eps, truths, counts, a) for a in (0.01, 0.3, 0.8)]


def _exponents(x_t: Tensor, truths: Tensor, a: float) -> Tensor:
    """Those of `likely` in the lesson."""
    return -_squares(x_t - math.sqrt(a) * truths) / (2 * (1 - a))


PERFECT = Exercise(
    name="02.perfect",
    solution=perfect,
    cases=_perfect_cases,
    hints=(
        "Two parts: a weight for each truth, as in `likely`, then a weighted mean. The weights add up to 1.",
        "Bayes' rule: what is likely afterwards is what was likely before, times how well it fits. So each weight is "
        "multiplied by its count, before all are made to add up to 1.",
        "Inside `torch.softmax` a factor becomes a sum: add `counts.log()` to the exponents. Reshape the weights to "
        "(n, 1, 1, 1) for the mean, and keep the first dimension.",
    ),
    mistakes=(
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, _exponents(x_t, truths, a)),
            "here every picture counts once. One that stands in the data twice weighs twice as much.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts + _exponents(x_t, truths, a)),
            "the counts stand in the exponent as they are. They are factors of the weights: in the exponent that is a "
            "sum with their logarithm.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts * _exponents(x_t, truths, a)),
            "the counts multiply the exponents. They are factors of the weights themselves.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _sum(truths, counts * _exponents(x_t, truths, a).softmax(dim=0)),
            "after the counts the weights do not add up to 1 any more: divide by their sum.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _sum(truths, counts / counts.sum()),
            "this is right for noise in which nothing is left: truths that fit x_t better weigh more.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: truths[(counts.log() + _exponents(x_t, truths, a)).argmax()][None],
            "this takes the likeliest one. The best answer is a mean, with a weight for each truth.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts.log() - _exponents(x_t, truths, a)),
            "the exponent is negative: the larger the distance, the smaller the weight.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts.log() - _squares(x_t - truths) / (2 * (1 - a))),
            "a truth stands in x_t with only the root of a of its strength: multiply it before you compare.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts.log() - _squares(x_t - a * truths) / (2 * (1 - a))),
            "a is a variance; a truth stands in x_t times its square root.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: _mean(truths, counts.log() + 2 * _exponents(x_t, truths, a)),
            "the exponent of a normal distribution is divided by twice the variance.",
        ),
        Mistake(
            lambda x_t, truths, counts, a: perfect(x_t, truths, counts, a)[0],
            "the right numbers; keep the first dimension, so that the answer has the shape of x_t.",
        ),
    ),
)

EXERCISES = (LOOP, TWO_BELLS, DICE_AT, PERFECT)

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

COPIES = Quiz(
    name="02.copies",
    question="Scene 1 stands in the data 100 times, each of the other 199 scenes once. The loop starts from pure "
    "noise, with the perfect network for these data. In how many of the runs does it draw scene 1?",
    options=(
        Option(
            "In about one of 200: it is one scene of 200",
            "The perfect network counts how often each stands in the data: before anything is seen, scene 1 is a "
            "hundred times as likely as another.",
        ),
        Option(
            "In about a third: 100 of 299",
            "So many end there if the starts are made of these data, by adding noise: then a trace of the scene is "
            "left in each start. Pure noise holds no trace of any.",
        ),
        Option(
            "In more than one of 200, but in fewer than a third",
            "Among 199 different scenes some fit the noise by chance; a hundred copies fit or miss together. So the "
            "copies here get less weight than their share. The table below counts.",
            right=True,
        ),
    ),
)

QUIZZES = (ONE_LOOK, COPIES)
