"""The exercises of lesson 00: the loop with a change of words on the way, and a rule to be found by counting."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz

SCALE = 4.0  # of guidance


def change_words(
    unet: Callable[..., Any], scheduler: Any, x: Tensor, first: Tensor, second: Tensor, after: int
) -> Tensor:
    """The lesson's loop, with the vectors `first` in the first `after` rounds and `second` in all others."""
    return _loop(_changed)(unet, scheduler, x, first, second, after)


def _changed(i: int, first: Tensor, second: Tensor, after: int) -> Tensor:
    return first if i < after else second


def _guided(empty: Tensor, yours: Tensor) -> Tensor:
    return empty + SCALE * (yours - empty)


def _loop(
    vectors: Callable[[int, Tensor, Tensor, int], Tensor],
    mix: Callable[[Tensor, Tensor], Tensor] = _guided,
    rounds: int | None = None,
) -> Callable[..., Tensor]:
    """The loop with a choice of vectors in round i, another guidance, or fewer rounds."""

    def run(unet: Callable[..., Any], scheduler: Any, x: Tensor, first: Tensor, second: Tensor, after: int) -> Tensor:
        for i, t in enumerate(scheduler.timesteps[:rounds]):
            noise = mix(*unet(torch.cat([x, x]), t, vectors(i, first, second, after)).sample.chunk(2))
            x = scheduler.step(noise, t, x).prev_sample
        return x

    return run


def _unet(x: Tensor, t: Tensor, vectors: Tensor) -> SimpleNamespace:
    """Stands for a U-Net: what it answers depends on each latent, its vectors and t."""
    if len(x) != len(vectors):
        raise ValueError(f"{len(x)} latents and {len(vectors)} sets of vectors: give one set for each latent")
    mean, spread = (part[:, None, None, None] for part in (vectors.mean(dim=(1, 2)), vectors.std(dim=(1, 2))))
    return SimpleNamespace(sample=torch.tanh(x) * (0.8 + mean) + t / 1000 * spread / 4)


def _runs() -> list[tuple[Callable[..., Any], Any, Tensor, Tensor, Tensor, int]]:
    from diffusers import DDIMScheduler  # slow to import

    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, 4, 3, 5), generator=generator)
    first, second = torch.randn((2, 2, 7, 6), generator=generator)
    runs = []
    for steps, after in ((6, 2), (5, 4), (4, 1)):
        scheduler = DDIMScheduler(clip_sample=False)
        scheduler.set_timesteps(steps)
        runs.append((_unet, scheduler, x, first, second, after))
    return runs


def latents_shown(steps: int, pictures: int, guidance: float) -> int:
    """How many latents the U-Net is shown: each twice a step with guidance, which the library switches off up to 1."""
    return steps * pictures * (2 if guidance > 1 else 1)


CHANGE_WORDS = Exercise(
    name="00.change_words",
    solution=change_words,
    cases=_runs,
    hints=(
        "Copy the three lines from the loop of the lesson. Which names have to change? The function is given its own "
        "`unet` and `scheduler`, and its own vectors.",
        "In front of the copied lines, choose the vectors for this round: i is 0 in the first round.",
        "With `after` = 4 the rounds i = 0, 1, 2 and 3 use `first`. The answer is x after the last round.",
    ),
    mistakes=(
        Mistake(
            _loop(lambda i, first, second, after: first if i <= after else second),
            "the words change one round late. i counts from 0: what is it in the last round with `first`?",
        ),
        Mistake(
            _loop(lambda i, first, second, after: first if i < after - 1 else second),
            "the words change one round early. i counts from 0: what is it in the last round with `first`?",
        ),
        Mistake(
            _loop(lambda i, first, second, after: second if i < after else first),
            "the two have changed places: here the run begins with `second`.",
        ),
        Mistake(
            _loop(lambda i, first, second, after: second if i == after else first),
            "only one round is asked with `second`. It should be all rounds from there on.",
        ),
        Mistake(
            _loop(lambda i, first, second, after: first), "all rounds are asked with `first`: the words never change."
        ),
        Mistake(
            _loop(lambda i, first, second, after: second), "all rounds are asked with `second`, the first ones, too."
        ),
        Mistake(_loop(_changed, rounds=1), "this is x after one round. Does return stand inside the loop?"),
        Mistake(
            _loop(_changed, lambda empty, yours: yours), "the words change where they should. But guidance is missing."
        ),
        Mistake(
            _loop(_changed, lambda empty, yours: _guided(yours, empty)),
            "the words change where they should. But chunk gives the answer to the empty prompt first, then the other.",
        ),
    ),
)


LATENTS_SHOWN = Exercise(
    name="00.latents_shown",
    solution=latents_shown,
    # Guidance 1 is the border: off, as in diffusers, since uncond + 1 * (cond - uncond) = cond.
    cases=((20, 1, 7.5), (20, 3, 1.0), (50, 2, 4.0), (8, 3, 0.5)),
    hints=(
        "Change one argument at a time: count_latents(2, 1, 4.0), then count_latents(4, 1, 4.0). What happens?",
        "Two of the arguments multiply the count. Now try guidance 7.5, 1.5, 1 and 0.5.",
        "Guidance compares two answers, with and without the words. Where does the count fall to a half?",
    ),
    mistakes=(
        Mistake(
            lambda steps, pictures, guidance: steps * pictures,
            "with guidance above 1 each latent is shown twice a step: compare count_latents(2, 1, 4.0) with "
            "count_latents(2, 1, 1.0).",
        ),
        Mistake(
            lambda steps, pictures, guidance: 2 * steps * pictures,
            "you always count two. Measure with guidance 1, and below.",
        ),
        Mistake(
            lambda steps, pictures, guidance: steps * (2 if guidance > 1 else 1),
            "this is the count for one picture. Every picture has a latent of its own.",
        ),
        Mistake(
            lambda steps, pictures, guidance: steps * pictures * guidance,
            "guidance is a strength, not a count. It only decides whether a latent is shown once or twice a step.",
        ),
        Mistake(
            lambda steps, pictures, guidance: steps * pictures * (1 if guidance == 1 else 2),
            "at exactly 1 you are right. Measure below it, too: count_latents(2, 1, 0.5).",
        ),
        Mistake(
            lambda steps, pictures, guidance: steps * pictures * (1 if guidance > 1 else 2),
            "the two cases have changed places: guidance above 1 is the one that costs twice.",
        ),
    ),
)

EXERCISES = (CHANGE_WORDS, LATENTS_SHOWN)

EVERY_STEP = Quiz(
    name="00.every_step",
    question="Put 4 for 20 in `set_timesteps(20)` of the cell above. Before you run it: what will these lines draw?",
    options=(
        Option(
            "Blots, as the latent after 4 of the 20 steps",
            "`set_timesteps` spreads the steps over the whole way, however few there are: t is 751, 501, 251 and 1. To "
            "stop the run of 20 steps after four, leave the 20 and write `pocket.scheduler.timesteps[:4]` in the line "
            "of the loop: then there are blots.",
        ),
        Option(
            "A fox much like that of the pipeline",
            "The four steps go the whole way, too, at t = 751, 501, 251 and 1, and each takes away more of the noise. "
            "Run it and compare: details differ.",
            right=True,
        ),
        Option(
            "Exactly the fox of the pipeline, because prompt and seed are the same",
            "The noise at the start is the same, and so are the vectors. But the U-Net is asked at four timesteps "
            "instead of 20, and what it is shown after the first step differs.",
        ),
        Option(
            "Something that is no fox: the U-Net was trained for 20 steps",
            "In training it never took a step: it was shown latents of pictures with noise, each at one t from 0 to "
            "999. How many steps there are is up to you and the scheduler.",
        ),
    ),
)

SAME_NOISE = Quiz(
    name="00.same_noise",
    question="You keep the seed and change one word of the prompt. What is exactly the same in both runs?",
    options=(
        Option(
            "The latent before the first step",
            "Seed and shape make the noise at the start; the prompt has no part in it.",
            right=True,
        ),
        Option(
            "Both of the U-Net's answers at the first step",
            "Only its answer without words is. With other words it is given other vectors, so its second answer "
            "differs, and so does what guidance makes of the two.",
        ),
        Option(
            "The latent after the first step",
            "The scheduler has taken away a part of what the U-Net called noise, and that answer depends on the words.",
        ),
        Option(
            "All of the picture but the thing that the word names",
            "Some of it may look alike, such as a planet's corner above, but every pixel is computed anew and may "
            "change.",
        ),
    ),
)

QUIZZES = (EVERY_STEP, SAME_NOISE)
