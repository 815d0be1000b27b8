"""The exercises of lesson 00: which words in which round of the loop, and a rule to be found by counting."""

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz


def change_words(i: int, first: Tensor, second: Tensor, after: int) -> Tensor:
    """The vectors for round i, counted from 0: `first` in the first `after` rounds, `second` in all later ones."""
    return first if i < after else second


def _rounds() -> list[tuple[int, Tensor, Tensor, int]]:
    first, second = torch.randn((2, 2, 7, 6), generator=torch.Generator().manual_seed(0))
    return [(i, first, second, after) for after in (0, 2, 5) for i in range(6)]


def latents_shown(steps: int, pictures: int, guidance: float) -> int:
    """How many latents the U-Net is shown: each twice a step with guidance, which the library switches off up to 1."""
    return steps * pictures * (2 if guidance > 1 else 1)


CHANGE_WORDS = Exercise(
    name="00.change_words",
    solution=change_words,
    cases=_rounds,
    hints=(
        "With `after` = 4 the rounds i = 0, 1, 2 and 3 use `first`, the rounds i = 4, 5, ... use `second`.",
        "Compare i with `after`. Which vectors belong to the smaller i?",
    ),
    mistakes=(
        Mistake(
            lambda i, first, second, after: first if i <= after else second,
            "the words change one round late. i counts from 0: what is it in the last round with `first`?",
        ),
        Mistake(
            lambda i, first, second, after: first if i < after - 1 else second,
            "the words change one round early. i counts from 0: what is it in the last round with `first`?",
        ),
        Mistake(
            lambda i, first, second, after: second if i < after else first,
            "the two have changed places: here the run begins with `second`.",
        ),
        Mistake(
            lambda i, first, second, after: second if i == after else first,
            "only one round gets `second`. It should be all rounds from there on.",
        ),
        Mistake(lambda i, first, second, after: first, "all rounds get `first`: the words never change."),
        Mistake(lambda i, first, second, after: second, "all rounds get `second`, the first ones, too."),
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
            "Only its answer for the empty prompt is the same. With other words it is given other vectors, so its "
            "second answer differs, and so does what guidance makes of the two.",
        ),
        Option(
            "The latent after the first step",
            "The scheduler has taken away a part of what the U-Net called noise, and that answer depends on the words.",
        ),
        Option(
            "All of the picture but the thing that the word names",
            "Some of it may look alike, but every pixel is computed anew and may change.",
        ),
    ),
)

QUIZZES = (EVERY_STEP, SAME_NOISE)
