"""The exercises of lesson 08: the way up, a mask out of two prompts, and a strength for each place."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz
from helpers.sampling import ddim_step

Predict = Callable[[Tensor, int], Tensor]


def up(x: Tensor, order: Sequence[int], predict_eps: Predict, alpha_bar: Tensor) -> list[Tensor]:
    """A picture walked towards noise: DDIM inversion (Song et al., 2020, arXiv:2010.02502, section 4.3).

    x: the latents at t = 0. order: the timesteps to reach, rising. predict_eps: the predicted noise for (x, t).
    Returns x and the latents at every timestep of `order`. As in diffusers, the noise is asked for at the timestep
    that a step leads to, of the latents that it starts from.
    """
    path = [x]
    for t, t_next in pairwise([0, *order]):
        path.append(ddim_step(path[-1], predict_eps(path[-1], t_next), t, t_next, alpha_bar))
    return path


def difference_mask(noise_source: Tensor, noise_target: Tensor) -> Tensor:
    """Where two prompts disagree: the mask of DiffEdit (Couairon et al., 2022, arXiv:2210.11427), without its clipping.

    noise_source, noise_target: (B, C, h, w), the predictions of both prompts for the same B noisy latents.
    Returns (1, 1, h, w), float32: 1 where the mean magnitude of the difference, rescaled to 0 to 1, is above one half.
    """
    heat = (noise_target - noise_source).abs().mean(dim=(0, 1), keepdim=True)
    return ((heat - heat.min()) / (heat.max() - heat.min()) > 0.5).float()


def still_kept(strengths: Tensor, i: int, steps: int) -> Tensor:
    """Where the original still goes back: Differential Diffusion (Levin and Fried, 2023, arXiv:2306.00950), as a mask.

    strengths: from 0 to 1, one for each place. i: the step just taken, from 0 to steps - 1.
    Returns float32 of the same shape: 1 where the place's own run, the last int(steps * strength) steps, has not begun.
    """
    return (i < steps - (strengths * steps).int()).float()


def _strengths() -> list[tuple[Tensor, int, int]]:
    values = (torch.arange(12).reshape(1, 1, 3, 4) + 0.5) / 12  # no product with the steps is a whole number
    ends = torch.tensor([[[[0.0, 1.0]]]])
    return [(values, 0, 20), (values, 7, 20), (values, 3, 8), (ends, 0, 20), (ends, 19, 20)]


def _predictions() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(6)
    cases = []
    for gain in (1.0, 4.0):
        source = torch.randn((3, 4, 6, 8), generator=generator)
        change = 0.3 * torch.randn(source.shape, generator=generator)
        change[:, :, 2:5, 3:6] += torch.randn((3, 4, 3, 3), generator=generator)
        cases.append((source, source + gain * change))
    return cases


def _difference_mask(
    source: Tensor, target: Tensor, *, heat: Callable[[Tensor], Tensor], rescale: bool = True
) -> Tensor:
    values = heat(target - source)
    if rescale:
        values = (values - values.min()) / (values.max() - values.min())
    return (values > 0.5).float()


def _mean_magnitude(change: Tensor) -> Tensor:
    return change.abs().mean(dim=(0, 1), keepdim=True)


def _walks() -> list[tuple[Tensor, list[int], Predict, Tensor]]:
    x = torch.randn((1, 4, 2, 3), generator=torch.Generator().manual_seed(8))
    alpha_bar = schedules.alpha_bar(schedules.betas())
    orders = ([201, 401, 601, 801], [51, 101, 151])
    return [(x, order, lambda x, t: 0.5 * torch.sin(3 * x + t / 300), alpha_bar) for order in orders]


def _asked_too_low(x: Tensor, order: Sequence[int], predict_eps: Predict, alpha_bar: Tensor) -> list[Tensor]:
    path = [x]
    for t, t_next in pairwise([0, *order]):
        path.append(ddim_step(path[-1], predict_eps(path[-1], t), t, t_next, alpha_bar))
    return path


def _from_the_first(x: Tensor, order: Sequence[int], predict_eps: Predict, alpha_bar: Tensor) -> list[Tensor]:
    path = [x]
    for t, t_next in pairwise(order):
        path.append(ddim_step(path[-1], predict_eps(path[-1], t_next), t, t_next, alpha_bar))
    return path


UP = Exercise(
    name="08.up",
    solution=up,
    cases=_walks,
    hints=(
        "A list `path` begins with x. A loop over `order` adds one latent after the other. From which t does it start?",
        "Each step is a ddim_step from path[-1], at t, to t_next. Its predicted noise is asked for at t_next.",
        "The first step goes from 0 to order[0]. After each step t_next becomes the t of the next.",
    ),
    mistakes=(
        Mistake(
            _asked_too_low,
            "the noise is asked for at the timestep that the step comes from: ask for it where the step leads.",
        ),
        Mistake(
            lambda x, order, predict_eps, alpha_bar: up(x, order[::-1], predict_eps, alpha_bar),
            "order rises already: taken backwards, the first step jumps to the top, and the others lead down.",
        ),
        Mistake(lambda *given: up(*given)[1:], "the list lacks its first item: x, at t = 0."),
        Mistake(lambda *given: up(*given)[-1], "the top alone is returned: give the list of all latents on the way."),
        Mistake(
            lambda x, order, predict_eps, alpha_bar: [
                x,
                *(ddim_step(x, predict_eps(x, t), 0, t, alpha_bar) for t in order),
            ],
            "every step starts from the picture here: start each from the latents that the step before has reached.",
        ),
        Mistake(
            _from_the_first,
            "the picture is at t = 0, not at order[0]: the first step leads from 0 to order[0].",
        ),
    ),
)


DIFFERENCE_MASK = Exercise(
    name="08.difference_mask",
    solution=difference_mask,
    cases=_predictions,
    hints=(
        "Differences have both signs, and a mean lets them cancel. What do you take of them first?",
        "DiffEdit takes magnitudes. One mean over dimensions 0 and 1, with keepdim=True, leaves (1, 1, h, w).",
        "For the middle of the range: subtract the smallest value, divide by the range, and ask for above 0.5.",
    ),
    mistakes=(
        Mistake(
            lambda source, target: _difference_mask(source, target, heat=lambda d: d.mean(dim=(0, 1), keepdim=True)),
            "differences of both signs cancel in the mean: take magnitudes first.",
        ),
        Mistake(
            lambda source, target: _difference_mask(
                source, target, heat=lambda d: d.mean(dim=(0, 1), keepdim=True).abs()
            ),
            "the magnitude comes before the mean: after it, differences of both signs have cancelled.",
        ),
        Mistake(
            lambda source, target: _difference_mask(
                source, target, heat=lambda d: d.square().mean(dim=(0, 1), keepdim=True)
            ),
            "squares do not cancel either. But DiffEdit takes the mean of the magnitudes, and so does the check.",
        ),
        Mistake(
            lambda source, target: _difference_mask(
                source, target, heat=lambda d: d.square().mean(dim=(0, 1), keepdim=True).sqrt()
            ),
            "a root mean square does not cancel either. But DiffEdit takes the mean magnitude, and so does the check.",
        ),
        Mistake(
            lambda source, target: _difference_mask(source, target, heat=_mean_magnitude, rescale=False),
            "the threshold is for values rescaled to 0 to 1: subtract the smallest, divide by the range.",
        ),
        Mistake(
            lambda source, target: (
                _mean_magnitude(target - source) / _mean_magnitude(target - source).max() > 0.5
            ).float(),
            "the smallest value has to become 0 as well: subtract it before you divide.",
        ),
        Mistake(
            lambda source, target: _difference_mask(source, target, heat=lambda d: d.abs().mean(dim=1, keepdim=True)),
            "the mean goes over the batch too: one mask for all the noises, of shape (1, 1, h, w).",
        ),
        Mistake(
            lambda source, target: 1 - difference_mask(source, target),
            "0 and 1 have changed places: 1 is where the prompts disagree.",
        ),
    ),
)

STILL_KEPT = Exercise(
    name="08.still_kept",
    solution=still_kept,
    cases=_strengths,
    hints=(
        "A place of strength r takes its last int(steps * r) steps as they are. How many steps come before them?",
        "After each of those earlier steps it is put back, the last of them included. Steps count from 0.",
        "For tensors, .int() cuts off what stands behind the point, and .float() turns a comparison into 0 and 1.",
    ),
    mistakes=(
        Mistake(
            lambda strengths, i, steps: 1 - still_kept(strengths, i, steps),
            "0 and 1 have changed places: 1 is where the original goes back.",
        ),
        Mistake(
            lambda strengths, i, steps: (i < (strengths * steps).int()).float(),
            "high strengths are put back the longest here: a place's own steps are the last ones, not the first.",
        ),
        Mistake(
            lambda strengths, i, steps: (i <= steps - (strengths * steps).int()).float(),
            "one step too many: the first of a place's own steps is put back as well.",
        ),
        Mistake(
            lambda strengths, i, steps: (i + 1 < steps - (strengths * steps).int()).float(),
            "one step too few: after the last step before a place's own, the original has to go back once more.",
        ),
        Mistake(
            lambda strengths, i, steps: (i < (steps * (1 - strengths)).int()).float(),
            "rounded the other way: a place takes int(steps * strength) steps, and the rest comes before them.",
        ),
    ),
)

MORE_STEPS = Quiz(
    name="08.more_steps",
    question="Say that at strength 0.5 and 20 steps the result is too much like the scribble. What do 40 steps change?",
    options=(
        Option(
            "More of the scribble is lost: the U-Net now draws over it 20 times instead of 10",
            "What decides is how much noise there is at the start, which hardly changes. The steps only get smaller.",
        ),
        Option(
            "Little: the loop starts at nearly the same t, and the steps are smaller",
            "At t = 476 instead of 451. To lose more of the scribble, raise the strength.",
            right=True,
        ),
        Option(
            "Less is lost: the loop starts nearer to the picture, because each step is smaller",
            "Strength is a share of the steps, not a number of them: half of the way is half of the way.",
        ),
    ),
)

OTHER_WAY = Quiz(
    name="08.other_way",
    question="In the middle row (up 1, down 2) most of the error is still there at 40 steps. Where is it from?",
    options=(
        Option(
            "From steps that are still too large: with ever more of them it vanishes as well",
            "Then it would shrink as in the other rows, where 40 steps leave less than half of the error at 5 steps.",
        ),
        Option(
            "From the way down, which follows another predicted noise than the way up did",
            "Guided and plain prediction differ, however small the steps are, so down is another way than up.",
            right=True,
        ),
        Option(
            "From fresh noise, which guidance draws in every step and the way up did not contain",
            "Guidance draws nothing: it mixes two predictions, and a DDIM step adds no fresh noise.",
        ),
    ),
)

EXERCISES = (UP, DIFFERENCE_MASK, STILL_KEPT)
QUIZZES = (MORE_STEPS, OTHER_WAY)
