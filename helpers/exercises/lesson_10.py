"""The exercises of lesson 10: what an answer implies, Min-SNR for three questions, and a guided run."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz

Network = Callable[[Tensor, int, Tensor], Tensor]
Pair = tuple[float, float]


def ends(x: Tensor, answer: Tensor, mix: Pair, asked: Pair) -> tuple[Tensor, Tensor]:
    """x0 and eps of x = mix[0] x0 + mix[1] eps and answer = asked[0] x0 + asked[1] eps: Cramer's rule."""
    det = mix[0] * asked[1] - mix[1] * asked[0]
    return (asked[1] * x - mix[1] * answer) / det, (mix[0] * answer - asked[0] * x) / det


def min_snr_weight(alpha_bar: Tensor, gamma: float, question: str) -> Tensor:
    """What weighs errors of x0 by min(SNR, gamma): Hang et al. (2023), arXiv:2303.09556, section 3.4."""
    snr = alpha_bar / (1 - alpha_bar)
    already = {"x0": torch.ones_like(snr), "eps": snr, "v": snr + 1}[question]
    return snr.clamp(max=gamma) / already


def guided_sample(
    network: Network, x: Tensor, y: Tensor, nothing: int, times: Sequence[int], alpha_bar: Tensor, scale: float
) -> Tensor:
    """DDIM with classifier-free guidance: Song et al. (2020), equation 12; Ho and Salimans (2022), equation 6."""
    empty = torch.full_like(y, nothing)
    return _run(network, x, y, empty, times, alpha_bar, lambda bare, told: bare + scale * (told - bare))


def _tensors(*shape: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(10)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def _points() -> list[tuple[Tensor, Tensor, Pair, Pair]]:
    """A flow, v, eps and x0 themselves, at two noise levels each."""
    x0, eps = _tensors(2, 4, 3, 3, count=2)
    found = []
    for a in (0.8, 0.1):
        alpha, sigma, s = math.sqrt(a), math.sqrt(1 - a), 1 - a
        for mix, asked in [
            ((1 - s, s), (-1.0, 1.0)),
            ((alpha, sigma), (-sigma, alpha)),
            ((alpha, sigma), (0.0, 1.0)),
            ((alpha, sigma), (1.0, 0.0)),
        ]:
            found.append((mix[0] * x0 + mix[1] * eps, asked[0] * x0 + asked[1] * eps, mix, asked))
    return found


def _undivided(x: Tensor, answer: Tensor, mix: Pair, asked: Pair) -> tuple[Tensor, Tensor]:
    return asked[1] * x - mix[1] * answer, mix[0] * answer - asked[0] * x


ENDS = Exercise(
    name="10.ends",
    solution=ends,
    cases=_points,
    hints=(
        "These are two equations with two unknowns, x0 and eps. Everything else in them is given.",
        "Multiply the first by asked[1] and the second by mix[1], and subtract: eps is gone.",
        "What is left is x0 times mix[0] * asked[1] - mix[1] * asked[0]. For eps do the same with the other numbers.",
    ),
    mistakes=(
        Mistake(
            lambda x, answer, mix, asked: ends(x, answer, mix, asked)[::-1],
            "both are right, in the other order: first x0, then eps.",
        ),
        Mistake(
            lambda x, answer, mix, asked: ends(x, answer, mix, asked)[0],
            "this is x0. Give both, as a pair.",
        ),
        Mistake(
            _undivided,
            "right for v and for a flow, where the determinant is 1. For other questions it has to be divided by.",
        ),
        Mistake(
            lambda x, answer, mix, asked: ends(x, answer, asked, mix),
            "the two pairs are exchanged: `mix` belongs to x, and `asked` to the answer.",
        ),
        Mistake(
            lambda x, answer, mix, asked: ((x - mix[1] * answer) / mix[0], answer),
            "this takes every answer for the noise. What was asked for stands in `asked`.",
        ),
        Mistake(
            lambda x, answer, mix, asked: tuple(-end for end in ends(x, answer, mix, asked)),
            "the sign is turned round: the determinant is mix[0] * asked[1] - mix[1] * asked[0].",
        ),
    ),
)

_LEVELS = torch.tensor([0.01, 0.2, 0.5, 0.8, 0.95, 0.999])


def _cut(alpha_bar: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """SNR, and the smaller of SNR and gamma."""
    snr = alpha_bar / (1 - alpha_bar)
    return snr, snr.clamp(max=gamma)


MIN_SNR_WEIGHT = Exercise(
    name="10.min_snr_weight",
    solution=min_snr_weight,
    cases=[(_LEVELS, gamma, question) for question in ("eps", "v", "x0") for gamma in (5.0, 1.0)],
    hints=(
        "What the weighted loss is to be stands in the lesson: min(SNR, gamma) times the error of x0.",
        "The table in the lesson has the weight that each question's plain loss gives to an error of x0 already.",
        "So divide by what is there already: SNR for eps, SNR + 1 for v, 1 for x0.",
    ),
    mistakes=(
        Mistake(
            lambda alpha_bar, gamma, question: _cut(alpha_bar, gamma)[1],
            "this is the weight of the error in x0, right for that question only. The others weigh it already.",
        ),
        Mistake(
            lambda alpha_bar, gamma, question: min_snr_weight(alpha_bar, gamma, "eps"),
            "this is right for eps. The plain losses of v and of x0 weigh an error of x0 in other ways.",
        ),
        Mistake(
            lambda alpha_bar, gamma, question: min_snr_weight(alpha_bar, gamma, "eps" if question == "v" else question),
            "v is not eps: its plain loss is SNR + 1 times the error of x0, not SNR times.",
        ),
        Mistake(
            lambda alpha_bar, gamma, question: 1 / min_snr_weight(alpha_bar, gamma, question),
            "upside down: the smaller of SNR and gamma stands above.",
        ),
        Mistake(
            lambda alpha_bar, gamma, question: (
                min_snr_weight(alpha_bar, gamma, question)
                * _cut(alpha_bar, gamma)[0].clamp(min=gamma)
                / _cut(alpha_bar, gamma)[1]
            ),
            "this takes the larger of the SNR and gamma. The smaller one is asked for.",
        ),
        Mistake(
            lambda alpha_bar, gamma, question: min_snr_weight(1 - alpha_bar, gamma, question),
            "this takes noise over signal. The SNR is signal over noise.",
        ),
    ),
)


def _stand_in(alpha_bar: Tensor) -> Network:
    """In place of a network: the best noise for data that is standard normal, and a little for each label."""

    def network(x: Tensor, t: int, y: Tensor) -> Tensor:
        told = torch.cos(y.float() + t).reshape(-1, *[1] * (x.ndim - 1))
        return (1 - alpha_bar[t]).sqrt() * x + 0.05 * told

    return network


def _runs() -> list[tuple]:
    alpha_bar = schedules.alpha_bar(schedules.betas())
    (x,) = _tensors(3, 2, 2, 2, count=1)
    y = torch.tensor([0, 5, 2])
    lists = ([999, 749, 499, 249, -1], [*range(999, 0, -50), -1])
    return [(_stand_in(alpha_bar), x, y, 8, times, alpha_bar, scale) for times in lists for scale in (1.0, 3.0, 0.0)]


def _run(
    network: Network,
    x: Tensor,
    y: Tensor,
    empty: Tensor,
    times: Sequence[int],
    alpha_bar: Tensor,
    joined: Callable[[Tensor, Tensor], Tensor],
    clean: float = 1.0,
) -> Tensor:
    """The run, with `joined` making one answer of that without a label and that with it."""
    for t, t_next in itertools.pairwise(times):
        eps = joined(network(x, t, empty), network(x, t, y))
        a, a_next = alpha_bar[t], alpha_bar[t_next] if t_next >= 0 else torch.tensor(clean)
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = a_next.sqrt() * x0 + (1 - a_next).sqrt() * eps
    return x


GUIDED_SAMPLE = Exercise(
    name="10.guided_sample",
    solution=guided_sample,
    cases=_runs,
    # A run adds up the roundings of its steps.
    rtol=1e-3,
    atol=1e-3,
    hints=(
        "Begin with the plain run: an answer, a DDIM step to the next of `times`, and again.",
        "Each step asks twice about the same x: with y, and with labels of the same shape that are all `nothing`.",
        "From the answer without a label go `scale` times the way to the answer with it. 1 is then the plain run.",
    ),
    mistakes=(
        Mistake(
            lambda network, x, y, nothing, times, a, scale: guided_sample(network, x, y, nothing, times, a, 1.0),
            "this is the run without guidance: scale is not used.",
        ),
        Mistake(
            lambda network, x, y, nothing, times, a, scale: guided_sample(network, x, y, nothing, times, a, scale + 1),
            "this starts from the answer with the label. Start from the one without: then 1 means no guidance.",
        ),
        Mistake(
            lambda network, x, y, nothing, times, a, scale: guided_sample(network, x, y, nothing, times, a, 1 - scale),
            "the two answers are exchanged: go from the one without a label towards the one with it.",
        ),
        Mistake(
            lambda network, x, y, nothing, times, a, scale: guided_sample(network, x, y, 0, times, a, scale),
            "0 is the first thing's label. The label that says nothing is `nothing`.",
        ),
        Mistake(
            lambda network, x, y, nothing, times, a, scale: guided_sample(network, x, y, nothing, times[:-1], a, scale),
            "one step is missing: the last one, to -1, the clean picture.",
        ),
        Mistake(
            lambda network, x, y, nothing, times, a, scale: _run(
                network,
                x,
                y,
                torch.full_like(y, nothing),
                times,
                a,
                lambda bare, told: bare + scale * (told - bare),
                clean=float(a[-1]),
            ),
            "to Python alpha_bar[-1] is that of the noisiest timestep. Here -1 is the clean picture, where it is 1.",
        ),
    ),
)

EXERCISES = (ENDS, MIN_SNR_WEIGHT, GUIDED_SAMPLE)

GOOD_ERROR = Quiz(
    name="10.good_error",
    question="A network predicts the noise at t = 999 with a mean squared error of 0.006. What does it know about the "
    "picture under that noise?",
    options=(
        Option(
            "Nearly all: the error is small, so the noise is known, and with it the picture.",
            "The picture is x_t less the noise, enlarged, and its error with it. Squared errors grow by 1 / SNR = 214: "
            "0.006 in the noise is 1.3 in x0, which is about the error of an answer of zeros.",
        ),
        Option(
            "Perhaps nothing. The simple guess, which knows nothing of the picture, has about that error too.",
            "At t = 999 the simple guess is wrong by about that much, too: alpha_bar is 0.0047, and the mean square of "
            "these latents 1.24. So small an error says little here.",
            right=True,
        ),
        Option(
            "That cannot be said, because every noise is another one.",
            "The mean over many pictures and noises is steady. What it lacks is something to be compared with.",
        ),
    ),
)

WEIGHT_OF_X0 = Quiz(
    name="10.weight_of_x0",
    question="Somebody lets the same network answer with x0 itself and takes the plain squared error. Where does an "
    "error of x0 weigh more in it than in the plain loss of the noise?",
    options=(
        Option(
            "At low t, where the picture is nearly clean.",
            "There the loss of the noise gives an error of x0 the weight SNR, up to more than a thousand. The plain "
            "loss of x0 gives it 1.",
        ),
        Option(
            "Nowhere: both are squared errors, and one can be computed from the other.",
            "The answers can be computed from each other, and the errors too: with a factor, SNR, that depends on t.",
        ),
        Option(
            "At high t, where nearly all is noise.",
            "The loss of the noise gives an error of x0 the weight SNR, at t = 999 only 0.005. The plain loss of x0 "
            "gives it 1, as everywhere.",
            right=True,
        ),
    ),
)

FAR_AWAY = Quiz(
    name="10.far_away",
    question="A model's pictures lie farther from their nearest training pictures than fresh real pictures do. What "
    "does that show?",
    options=(
        Option(
            "That it invents: its pictures are newer than real ones.",
            "Real pictures of the same world are as new as can be. What is farther away than these is not of that "
            "world, or not quite.",
        ),
        Option(
            "That it does not copy as a rule, and no more: a blur is far from everything too.",
            "Distance measures flaws and news together. Only what is nearer than fresh pictures is suspicious. Of "
            "single copies among many pictures their average distance says nothing.",
            right=True,
        ),
        Option(
            "That it was trained on too few pictures.",
            "With few pictures a model tends to come very near to them, as the last experiment of the lesson shows.",
        ),
    ),
)

QUIZZES = (GOOD_ERROR, WEIGHT_OF_X0, FAR_AWAY)
