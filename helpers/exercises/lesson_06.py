"""The exercises of lesson 06: a broken guidance mended, a lost scale found, several prompts at once."""

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


def scale_of(eps_empty: Tensor, eps_words: Tensor, eps: Tensor) -> float:
    """The s for which eps_empty + s (eps_words - eps_empty) comes nearest to eps, by least squares."""
    step = eps_words - eps_empty
    return float(((eps - eps_empty) * step).sum() / (step * step).sum())


def compose(noise_uncond: Tensor, noises: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    """Guidance by several prompts: Liu et al. (2022), arXiv:2206.01714, section 4; a negative scale leads away.

    noise_uncond and each of `noises`: (B, 4, h, w). scales: as many as noises.
    """
    pulls = [scale * (noise - noise_uncond) for noise, scale in zip(noises, scales, strict=True)]
    return noise_uncond + sum(pulls)


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


def _steps() -> list[tuple[Tensor, Tensor, Tensor]]:
    empty, words, rounding = torch.randn((3, 2, 4, 6, 6), generator=torch.Generator().manual_seed(8))
    words = empty + 0.2 * words  # nearly the same, as in a run
    exact = [(empty, words, empty + s * (words - empty)) for s in (7.5, -2.0, 0.0)]
    return [*exact, (empty, words, empty + 4 * (words - empty) + 0.1 * rounding)]


SCALE_OF = Exercise(
    name="06.scale_of",
    solution=scale_of,
    cases=_steps,
    hints=(
        "Call the difference of the two answers `step`, and the way from the empty answer to eps `way`. way = s step.",
        "The s with the least squares is the projection of `way` on `step`: their product over the step's own square.",
        "Two sums: of `way * step` and of `step * step`.",
    ),
    mistakes=(
        Mistake(
            lambda empty, words, eps: float((eps - empty).norm() / (words - empty).norm()),
            "the ratio of two lengths has no sign, and rounding makes it longer. Project one on the other.",
        ),
        Mistake(
            lambda empty, words, eps: float(((eps - empty) / (words - empty)).mean()),
            "a mean of ratios: where the two answers hardly differ, rounding is divided by nearly nothing.",
        ),
        Mistake(
            lambda empty, words, eps: scale_of(empty, words, eps) - 1,
            "this counts from the answer to the words, as the paper's w does. s counts from the empty one.",
        ),
        Mistake(
            lambda empty, words, eps: float(
                torch.cosine_similarity((eps - empty).flatten(), (words - empty).flatten(), dim=0)
            ),
            "this is the cosine of the angle between both ways. s says how long one is, measured with the other.",
        ),
        Mistake(
            lambda empty, words, eps: float((eps * words).sum() / (words * words).sum()),
            "both arrows have to start at the empty answer: subtract it first.",
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
        "A pull is a prompt's prediction minus the prediction without a prompt, times its scale.",
        "The prediction without a prompt is counted once, however many prompts pull.",
    ),
    mistakes=(
        Mistake(
            lambda uncond, noises, scales: (
                uncond + sum(scale * noise for noise, scale in zip(noises, scales, strict=True))
            ),
            "each prompt pulls by its difference from the prediction without a prompt, not by its whole prediction.",
        ),
        Mistake(
            lambda uncond, noises, scales: sum(
                uncond + scale * (noise - uncond) for noise, scale in zip(noises, scales, strict=True)
            ),
            "the prediction without a prompt is counted once for every prompt. It is where all of them start: once.",
        ),
        Mistake(
            lambda uncond, noises, scales: uncond + (compose(uncond, noises, scales) - uncond) / len(noises),
            "this is the mean of the pulls. Prompts add up: what each of them weighs is said by its scale.",
        ),
        Mistake(
            lambda uncond, noises, scales: sum(
                scale * (noise - uncond) for noise, scale in zip(noises, scales, strict=True)
            ),
            "these are the pulls alone: add them to the prediction without a prompt.",
        ),
        Mistake(
            lambda uncond, noises, scales: compose(uncond, noises, [abs(scale) for scale in scales]),
            "a negative scale has to keep its sign: it leads away from its prompt.",
        ),
        Mistake(
            lambda uncond, noises, scales: compose(uncond, noises, [-scale for scale in scales]),
            "the sign is turned around: the difference is prompt minus no prompt.",
        ),
        Mistake(
            lambda uncond, noises, scales: compose(uncond, noises[:1], scales[:1]),
            "only the first prompt is in it. Sum over all of them.",
        ),
    ),
)

SCALE = Quiz(
    name="06.scale",
    question="From s = 1 to s = 4 the foxes become clear. What does guidance above 1 change at a single step?",
    options=(
        Option(
            "It removes more noise than the network predicts",
            "The guided answer is about as long as the plain one while s is small; it points elsewhere.",
        ),
        Option(
            "It asks the network with a stronger prompt",
            "The vectors are the same at every scale, and so are both answers of the network.",
        ),
        Option(
            "It goes further along the difference that the words make",
            "Away from the answer without words, past the answer with them, by a multiple of their difference.",
            right=True,
        ),
    ),
)
NEGATIVE = Quiz(
    name="06.negative",
    question="The prompt is `a rose`, the negative prompt is `a rose` too, and s = 7.5. What is drawn?",
    options=(
        Option(
            "Anything but a rose",
            "For that the walk would have to lead away from the answer to `a rose`, and here it leads nowhere.",
        ),
        Option(
            "A rose as at s = 1, pale and soft",
            "Both answers are the same, so their difference is zero, and the plain answer to `a rose` is left.",
            right=True,
        ),
        Option(
            "A rose as at s = 7.5, since the prompt counts more than the negative prompt",
            "The scale multiplies the difference of both answers, and that is zero here.",
        ),
        Option(
            "A fog, because the two prompts cancel",
            "They cancel in the difference only. The answer that it is added to is that for `a rose`.",
        ),
    ),
)

EXERCISES = (AT_ONCE, SCALE_OF, COMPOSE)
QUIZZES = (SCALE, NEGATIVE)
