"""The exercises of lesson 10: the Min-SNR weight, averaged weights, the ends of a flow's line, missing labels."""

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake


def min_snr_weight(alpha_bar: Tensor, gamma: float) -> Tensor:
    """The weight of the error in eps: Hang et al. (2023), arXiv:2303.09556, section 3.4."""
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / snr


def averaged_weights(mean: Tensor, now: Tensor, step: int, decay: float) -> Tensor:
    """One update of an exponential moving average whose decay starts small, as in diffusers' EMAModel."""
    d = min(decay, (1 + step) / (10 + step))
    return d * mean + (1 - d) * now


def ends(x_s: Tensor, v: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """x0 and eps from a point of the line x_s = (1 - s) x0 + s eps and its velocity v = eps - x0."""
    return x_s - s * v, x_s + (1 - s) * v


def drop_labels(labels: Tensor, dice: Tensor, share: float, nothing: int) -> Tensor:
    """Labels with a share replaced by the empty one: Ho and Salimans (2022), arXiv:2207.12598, Algorithm 1."""
    return torch.where(dice < share, nothing, labels)


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


_LEVELS = torch.tensor([0.01, 0.2, 0.5, 0.8, 0.95, 0.999])

MIN_SNR_WEIGHT = Exercise(
    name="10.min_snr_weight",
    solution=min_snr_weight,
    cases=[(_LEVELS, 5.0), (_LEVELS, 1.0), (_LEVELS[:2], 20.0)],
    mistakes=(
        Mistake(
            lambda alpha_bar, gamma: (alpha_bar / (1 - alpha_bar)).clamp(max=gamma),
            "this is the weight of the error in x0. For the error in eps it is divided by the SNR.",
        ),
        Mistake(
            lambda alpha_bar, gamma: (alpha_bar / (1 - alpha_bar)).clamp(min=gamma) / (alpha_bar / (1 - alpha_bar)),
            "this takes the larger of the SNR and gamma. The smaller one is asked for.",
        ),
        Mistake(
            lambda alpha_bar, gamma: (alpha_bar / (1 - alpha_bar)) / (alpha_bar / (1 - alpha_bar)).clamp(max=gamma),
            "upside down: the smaller of the two stands above, the SNR below.",
        ),
        Mistake(
            lambda alpha_bar, gamma: (
                (alpha_bar / (1 - alpha_bar)).sqrt().clamp(max=gamma) / (alpha_bar / (1 - alpha_bar)).sqrt()
            ),
            "this takes a root: the SNR is a ratio of variances, alpha_bar / (1 - alpha_bar).",
        ),
        Mistake(
            lambda alpha_bar, gamma: alpha_bar.clamp(max=gamma) / alpha_bar,
            "alpha_bar is not yet the signal-to-noise ratio; divide it by 1 - alpha_bar.",
        ),
        Mistake(
            lambda alpha_bar, gamma: ((1 - alpha_bar) / alpha_bar).clamp(max=gamma) / ((1 - alpha_bar) / alpha_bar),
            "this is noise over signal. The SNR is signal over noise.",
        ),
    ),
)


def _states() -> list[tuple]:
    mean, now = _normal(4, seed=0), _normal(4, seed=1)
    return [(mean, now, 0, 0.99), (mean, now, 50, 0.99), (mean, now, 5000, 0.99), (mean, now, 5000, 0.5)]


AVERAGED_WEIGHTS = Exercise(
    name="10.averaged_weights",
    solution=averaged_weights,
    cases=_states,
    mistakes=(
        Mistake(
            lambda mean, now, step, decay: decay * mean + (1 - decay) * now,
            "the decay is full from the first step on, so the random start stays in the mean for long.",
        ),
        Mistake(
            lambda mean, now, step, decay: averaged_weights(now, mean, step, decay),
            "the two are swapped: d belongs to the mean, and 1 - d to the weights of now.",
        ),
        Mistake(
            lambda mean, now, step, decay: (
                max(decay, (1 + step) / (10 + step)) * mean + (1 - max(decay, (1 + step) / (10 + step))) * now
            ),
            "this takes the larger of the two decays. The smaller one lets the beginning be forgotten.",
        ),
        Mistake(
            lambda mean, now, step, decay: averaged_weights(mean, now, step, 1.0),
            "`decay` is not used: it is the largest that d becomes.",
        ),
        Mistake(
            lambda mean, now, step, decay: (step * mean + now) / (step + 1),
            "this is the plain mean of all states. It would never forget the first ones.",
        ),
    ),
)


def _points() -> list[tuple]:
    x0, eps = _normal(2, 4, seed=2), _normal(2, 4, seed=3)
    return [((1 - s) * x0 + s * eps, eps - x0, s) for s in (1.0, 0.75, 0.25, 0.0)]


ENDS = Exercise(
    name="10.ends",
    solution=ends,
    cases=_points,
    mistakes=(
        Mistake(
            lambda x_s, v, s: ends(x_s, v, s)[::-1],
            "both are right, in the other order: first x0, then eps.",
        ),
        Mistake(
            lambda x_s, v, s: (x_s + s * v, x_s - (1 - s) * v),
            "the signs are turned round: v points from the picture to the noise.",
        ),
        Mistake(
            lambda x_s, v, s: (x_s - (1 - s) * v, x_s + s * v),
            "s is counted from the picture: x0 is s away, and eps 1 - s.",
        ),
        Mistake(
            lambda x_s, v, s: (x_s - v, x_s + v),
            "a whole v leads from one end to the other, and x_s lies somewhere between. How far is it to each?",
        ),
        Mistake(
            lambda x_s, v, s: x_s - s * v,
            "this is x0. Give both ends, as a pair.",
        ),
    ),
)


def _batches() -> list[tuple]:
    labels = torch.arange(8)
    dice = torch.rand(8, generator=torch.Generator().manual_seed(4))
    return [(labels, dice, 0.5, 8), (labels, dice, 0.0, 8), (labels, dice, 1.0, 8), (labels.flip(0), dice, 0.3, 9)]


def _dropped_by_place(labels: Tensor, dice: Tensor, share: float, nothing: int) -> Tensor:
    """The first of the batch, always."""
    answer = labels.clone()
    answer[: round(share * len(labels))] = nothing
    return answer


DROP_LABELS = Exercise(
    name="10.drop_labels",
    solution=drop_labels,
    cases=_batches,
    mistakes=(
        Mistake(
            lambda labels, dice, share, nothing: torch.where(dice > share, nothing, labels),
            "the share that is kept and the one that is replaced are swapped: replace where the dice are below it.",
        ),
        Mistake(
            lambda labels, dice, share, nothing: torch.where(dice < share, 0, labels),
            "0 is the first thing's label. The empty one is `nothing`.",
        ),
        Mistake(
            lambda labels, dice, share, nothing: torch.where(dice[0] < share, nothing, labels),
            "one throw decides for the whole batch. Each picture has its own.",
        ),
        Mistake(
            lambda labels, dice, share, nothing: labels[dice >= share],
            "the pictures are still there, so each needs a label: replace it, do not leave it out.",
        ),
        Mistake(
            _dropped_by_place,
            "these are always the first of a batch. Use the dice, picture by picture.",
        ),
    ),
)

EXERCISES = (MIN_SNR_WEIGHT, AVERAGED_WEIGHTS, ENDS, DROP_LABELS)
