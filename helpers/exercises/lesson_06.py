"""The exercises of lesson 06: a broken guidance mended, several prompts at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz

Ask = Callable[[Tensor, int, Tensor], Tensor]  # latents, timestep, vectors: the predicted noise


def at_once(ask: Ask, x: Tensor, t: int, words: Tensor, empty: Tensor, s: float) -> Tensor:
    """The guided noise in one call of the network, as pipelines do it: Ho & Salimans (2022), arXiv:2207.12598, eq. 6.

    x: (B, channels, h, w). words, empty: (B, tokens, width). Returns the shape of x.
    """
    eps_empty, eps_words = ask(torch.cat([x, x]), t, torch.cat([empty, words])).chunk(2)
    return eps_empty + s * (eps_words - eps_empty)


def compose(eps_empty: Tensor, answers: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Guidance by several prompts: Liu et al. (2022), arXiv:2206.01714, section 4; a negative scale leads away.

    eps_empty and each of `answers`: (B, 4, h, w). scales: as many as answers.
    """
    pulls = [scale * (answer - eps_empty) for answer, scale in zip(answers, scales, strict=True)]
    return eps_empty + sum(pulls)


def _network(x: Tensor, t: int, vectors: Tensor) -> Tensor:
    """Stands for a U-Net: what it answers depends on each latent, its vectors and t."""
    if len(x) != len(vectors):
        raise ValueError(f"{len(x)} latents and {len(vectors)} sets of vectors: give one set for each latent")
    return (
        x * (0.5 + vectors.mean(dim=(1, 2)))[:, None, None, None]
        + t / 1000 * vectors.std(dim=(1, 2))[:, None, None, None]
    )


def _calls() -> list[tuple[Ask, Tensor, int, Tensor, Tensor, float]]:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn((2, 4, 3, 5), generator=generator)
    words, empty = torch.randn((2, 2, 7, 6), generator=generator)
    return [(_network, x, 400, words, empty, s) for s in (0.0, 1.0, 4.0)] + [
        (_network, x[:1], 900, words[:1], empty[:1], 7.5)
    ]


def _from(base: int, turned: bool) -> Callable[..., Tensor]:
    """Guidance that starts at the first (0) or the second (1) half, with the sets of vectors in the wrong order."""

    def wrong(ask: Ask, x: Tensor, t: int, words: Tensor, empty: Tensor, s: float) -> Tensor:
        sets = [words, empty] if turned else [empty, words]
        halves = ask(torch.cat([x, x]), t, torch.cat(sets)).chunk(2)
        return halves[base] + s * (halves[1] - halves[0])

    return wrong


def _in_turns(ask: Ask, x: Tensor, t: int, words: Tensor, empty: Tensor, s: float) -> Tensor:
    both = ask(x.repeat_interleave(2, dim=0), t, torch.stack([empty, words], dim=1).flatten(0, 1))
    eps_empty, eps_words = both.chunk(2)
    return eps_empty + s * (eps_words - eps_empty)


AT_ONCE = Exercise(
    name="06.at_once",
    solution=at_once,
    cases=_calls,
    hints=(
        "Which half of the answer belongs to which set of vectors? Follow one set through the call.",
        "Put s = 0 and s = 1 into the last line. What should come out for each?",
        "There are two faults: one in the order of the sets, one in where the walk begins.",
    ),
    mistakes=(
        Mistake(
            _from(1, turned=True),
            "this is still the careless function. What does it give at s = 1, and what should it give?",
        ),
        Mistake(
            _from(1, turned=False),
            "the halves are in order now. But at s = 0 this gives the answer to the words: where does the walk begin?",
        ),
        Mistake(
            _from(0, turned=True),
            "the walk begins at the first half now. But that half answers the words: in which order do the sets go in?",
        ),
        Mistake(
            _in_turns,
            "chunk cuts in the middle: first all rows for the empty prompt, then all for the words, not in turns.",
        ),
        Mistake(
            lambda ask, x, t, words, empty, s: ask(x, t, empty + s * (words - empty)),
            "this guides the vectors. Guidance makes the difference of the two answers longer.",
        ),
    ),
)


def _noises() -> list[tuple[Tensor, list[Tensor], list[float]]]:
    uncond, fox, pizza = torch.randn((3, 2, 4, 3, 5), generator=torch.Generator().manual_seed(4))
    return [(uncond, [fox], [4.0]), (uncond, [fox, pizza], [3.0, 2.5]), (uncond, [fox, pizza], [4.0, -1.5])]


COMPOSE = Exercise(
    name="06.compose",
    solution=compose,
    cases=_noises,
    hints=(
        "For one prompt it must be the guidance formula of this lesson.",
        "A pull is a prompt's answer minus the answer without words, times its scale.",
        "The answer without words is counted once, however many prompts pull.",
    ),
    mistakes=(
        Mistake(
            lambda uncond, noises, scales: (
                uncond + sum(scale * noise for noise, scale in zip(noises, scales, strict=True))
            ),
            "each prompt pulls by its difference from the answer without words, not by its whole answer.",
        ),
        Mistake(
            lambda uncond, noises, scales: sum(
                uncond + scale * (noise - uncond) for noise, scale in zip(noises, scales, strict=True)
            ),
            "the answer without words is counted once for every prompt. It is where all of them start: once.",
        ),
        Mistake(
            lambda uncond, noises, scales: uncond + (compose(uncond, noises, scales) - uncond) / len(noises),
            "this is the mean of the pulls. Prompts add up: what each of them weighs is said by its scale.",
        ),
        Mistake(
            lambda uncond, noises, scales: sum(
                scale * (noise - uncond) for noise, scale in zip(noises, scales, strict=True)
            ),
            "these are the pulls alone: add them to the answer without words.",
        ),
        Mistake(
            lambda uncond, noises, scales: compose(uncond, noises, [abs(scale) for scale in scales]),
            "a negative scale has to keep its sign: it leads away from its prompt.",
        ),
        Mistake(
            lambda uncond, noises, scales: compose(uncond, noises, [-scale for scale in scales]),
            "the sign is turned around: the difference is with words minus without words.",
        ),
        Mistake(
            lambda uncond, noises, scales: compose(uncond, noises[:1], scales[:1]),
            "only the first prompt is in it. Sum over all of them.",
        ),
    ),
)

SCALE = Quiz(
    name="06.scale",
    question="Guidance by Ho and Salimans, rearranged: ε_words + w (ε_words − ε_empty). "
    "Which s is w\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}2?",
    options=(
        Option(
            "s = 1: both formulas start at one of the two answers",
            "s = 1 is the plain answer to the words. That is w = 0, where the second term is gone.",
        ),
        Option(
            "s = 2: both multiply the same gap",
            "They do, but this one starts at the answer to the words, which is one gap further on.",
        ),
        Option(
            "s = 3: this formula starts one gap later",
            "From the answer without words it is one gap to the answer with words, and then w more: s = 1 + w.",
            right=True,
        ),
    ),
)

EXERCISES = (AT_ONCE, COMPOSE)
QUIZZES = (SCALE,)
