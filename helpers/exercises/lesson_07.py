"""The exercises of lesson 07: four of Stable Diffusion's seven parts, and the function that puts all seven together."""

import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz


def start_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Noise (B, *shape) for a batch in which every picture has a seed of its own."""
    return torch.stack([torch.randn(shape, generator=_generator(seed)) for seed in seeds])


def timesteps(steps: int) -> list[int]:
    """Falling timesteps at whole, equal distances down to 1: spacing "leading" with an offset of 1."""
    return [1 + 1000 // steps * i for i in reversed(range(steps))]


@torch.no_grad()
def guided_noise(unet: nn.Module, x: Tensor, t: int, vectors: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance, one call of the U-Net for both prompts: Ho & Salimans (2022), equation 6."""
    both = unet(torch.cat([x, x]), t, encoder_hidden_states=vectors.repeat_interleave(len(x), dim=0)).sample
    without, words = both.chunk(2)
    return without + guidance * (words - without)


def ddim_loop(
    predict: Callable[[Tensor, int], Tensor], x: Tensor, timesteps: Sequence[int], alpha_bar: Tensor
) -> Tensor:
    """All DDIM steps down to t = 0: Song et al. (2020), arXiv:2010.02502, equation 12 with sigma 0."""
    for t, t_next in pairwise([*timesteps, 0]):
        x = _ddim(x, predict(x, t), alpha_bar[t], alpha_bar[t_next])
    return x


@torch.no_grad()
def to_pixels(vae: nn.Module, x: Tensor) -> np.ndarray:
    """Latents at t = 0 as pictures (B, height, width, 3) of bytes."""
    return unrounded(vae, x).round().astype(np.uint8)


@torch.no_grad()
def unrounded(vae: nn.Module, x: Tensor) -> np.ndarray:
    """Part 7 without its last step: numbers from 0 to 255 that are not whole, (B, height, width, 3)."""
    return _scaled(_painted(vae, x / vae.config.scaling_factor))


def draw(
    parts: SimpleNamespace,
    given: SimpleNamespace,
    prompt: str,
    seeds: Sequence[int],
    steps: int = 20,
    guidance: float = 4.0,
) -> np.ndarray:
    """The seven parts put together: pictures (B, height, width, 3), one for each seed, in one batch."""
    ids = [parts.token_ids(given.tokenizer, text) for text in ("", prompt)]
    vectors = parts.text_vectors(given.text_encoder, *ids)
    noise = parts.start_noise(seeds, given.shape).to(vectors)

    def predict(x: Tensor, t: int) -> Tensor:
        return parts.guided_noise(given.unet, x, t, vectors, guidance)

    latents = parts.ddim_loop(predict, noise, parts.timesteps(steps), given.alpha_bar)
    return parts.to_pixels(given.vae, latents)


def yours(parts: SimpleNamespace, pipeline: Callable[..., np.ndarray]) -> str:
    """What is not the course's own, such as "5, draw": parts by their numbers, then draw; or "nothing yet"."""
    own = {3: start_noise, 5: guided_noise, 6: ddim_loop, 7: to_pixels}
    found = [str(number) for number, part in own.items() if getattr(parts, part.__name__) is not part]
    return ", ".join([*found, *(["draw"] if pipeline is not draw else [])]) or "nothing yet"


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# --- 3: noise

START_NOISE = Exercise(
    name="07.start_noise",
    solution=start_noise,
    cases=[((7, 3, 11), (4, 8, 8)), ((2, 2), (4, 4, 8)), ((5,), (4, 8, 8))],
    hints=(
        "Lesson 01 draws noise with `torch.randn` and a generator. How many generators do these pictures need?",
        'Each has its own: `torch.Generator("cpu").manual_seed(seed)`. Draw each picture\'s noise alone.',
        "`torch.stack` makes a batch of a list of tensors.",
    ),
    mistakes=(
        Mistake(
            lambda seeds, shape: torch.randn((len(seeds), *shape), generator=_generator(seeds[0])),
            "one generator drew for all of them, so only the first picture is that of its seed.",
        ),
        Mistake(
            lambda seeds, shape: torch.stack([torch.randn(shape, generator=_generator(seeds[0])) for _ in seeds]),
            "every picture starts from the same noise here: give each generator the seed of its own picture.",
        ),
        Mistake(
            lambda seeds, shape: start_noise(range(seeds[0], seeds[0] + len(seeds)), shape),
            "this counts up from the first seed; the seeds that were given need not follow each other.",
        ),
        Mistake(
            lambda seeds, shape: torch.cat([torch.randn(shape, generator=_generator(seed)) for seed in seeds]),
            "cat joins the pictures along their channels. A batch is a new dimension in front, which stack adds.",
        ),
        Mistake(
            lambda seeds, shape: torch.stack([torch.rand(shape, generator=_generator(seed)) for seed in seeds]),
            "rand draws evenly between 0 and 1. The noise of diffusion is normal: randn.",
        ),
        Mistake(
            lambda seeds, shape: torch.randn((len(seeds), *shape)),
            "these numbers do not come from the seeds: hand each torch.randn a generator.",
        ),
    ),
)


# --- 5: guidance


class _Unet(nn.Module):
    """In place of a U-Net: an answer that depends on the latent, on the time and on the vectors."""

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, return_dict: bool = True) -> Any:
        if len(sample) != len(encoder_hidden_states):
            raise ValueError(f"{len(sample)} latents came with vectors for {len(encoder_hidden_states)}")
        said = encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None]
        answer = torch.tanh(sample * (1 + float(timestep) / 1000) + said)
        return SimpleNamespace(sample=answer) if return_dict else (answer,)


def _guidance_cases() -> list[tuple[nn.Module, Tensor, int, Tensor, float]]:
    generator = _generator(6)
    vectors = torch.randn((2, 6, 5), generator=generator)
    sizes = ((1, 500, 4.0), (3, 900, 7.5), (2, 20, 1.0))
    return [(_Unet(), torch.randn((b, 4, 3, 3), generator=generator), t, vectors, s) for b, t, s in sizes]


def _answers(unet: nn.Module, x: Tensor, t: int, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """What the U-Net says without words and with them."""
    return guided_noise(unet, x, t, vectors, 0.0), guided_noise(unet, x, t, vectors, 1.0)


def _guided_otherwise(mix: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    return lambda unet, x, t, vectors, guidance: mix(*_answers(unet, x, t, vectors), guidance)


@torch.no_grad()
def _in_turns(unet: nn.Module, x: Tensor, t: int, vectors: Tensor, guidance: float) -> Tensor:
    """The vectors alternate, while the latents stand in two blocks."""
    without, words = unet(torch.cat([x, x]), t, vectors.repeat(len(x), 1, 1)).sample.chunk(2)
    return without + guidance * (words - without)


GUIDED_NOISE = Exercise(
    name="07.guided_noise",
    solution=guided_noise,
    cases=_guidance_cases,
    hints=(
        "The latents go in twice: `torch.cat([x, x])`. Which vectors belong to the first half, which to the second?",
        "`vectors.repeat_interleave(len(x), dim=0)` gives empty, empty, words, words; with `repeat` they alternate.",
        "`.sample.chunk(2)` takes the two halves of the answer apart. Begin at the first, the one without words, and "
        "go s times the way to the second.",
    ),
    mistakes=(
        Mistake(
            _guided_otherwise(lambda without, words, s: words + s * (without - words)),
            "the two answers have changed places: the way begins at the one without words.",
        ),
        Mistake(
            _guided_otherwise(lambda without, words, s: words + s * (words - without)),
            "this begins at the answer with the words, and so goes one way too far: s = 1 has to change nothing.",
        ),
        Mistake(
            _guided_otherwise(lambda without, words, s: s * (words - without)),
            "this is the way alone. It has to begin somewhere: at the answer without words.",
        ),
        Mistake(
            _guided_otherwise(lambda without, words, s: words),
            "this is the answer with the words, without guidance. Where does s come in?",
        ),
        Mistake(
            _guided_otherwise(lambda without, words, s: without),
            "this is the answer without words: nobody asked for anything.",
        ),
        Mistake(
            _in_turns,
            "with several latents the vectors are in another order than the latents: first all empty, then all words.",
        ),
    ),
)


# --- 6: the loop


def _ddim(x: Tensor, eps: Tensor, a: Tensor, a_next: Tensor) -> Tensor:
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    return a_next**0.5 * x0 + (1 - a_next) ** 0.5 * eps


def _loop_cases() -> list[tuple[Callable[[Tensor, int], Tensor], Tensor, list[int], Tensor]]:
    alpha_bar = schedules.alpha_bar(schedules.betas())
    x = torch.randn((1, 4, 4, 4), generator=_generator(2))

    def predict(x: Tensor, t: int) -> Tensor:  # near the noise of data that is standard normal
        return (1 - alpha_bar[t]).sqrt() * x + 0.1 * torch.sin(3 * x)

    return [(predict, x, times, alpha_bar) for times in (timesteps(20), timesteps(4), [999])]


def _loop_otherwise(
    *, last: int | None = 0, told: int = 0, step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _ddim
) -> Callable[..., Tensor]:
    """A loop with mistakes: where it ends (None: with the last timestep), which timestep predict is told, the step."""

    def wrong(predict: Callable[[Tensor, int], Tensor], x: Tensor, times: Sequence[int], alpha_bar: Tensor) -> Tensor:
        a_of = torch.cat([alpha_bar, torch.ones(1)])
        for pair in pairwise([*times, *([] if last is None else [last])]):
            x = step(x, predict(x, max(pair[told], 0)), a_of[pair[0]], a_of[pair[1]])
        return x

    return wrong


DDIM_LOOP = Exercise(
    name="07.ddim_loop",
    solution=ddim_loop,
    cases=_loop_cases,
    # A run of 20 steps adds up the roundings of each.
    rtol=1e-3,
    atol=1e-3,
    hints=(
        "One step has two moves: estimate x0, then put back the noise that belongs to the next timestep.",
        "The first move uses alpha_bar[t], the second alpha_bar[t_next], and both the same predicted noise.",
        "`zip(timesteps, [*timesteps[1:], 0])` pairs each timestep with the next one; the last is paired with 0.",
    ),
    mistakes=(
        Mistake(
            _loop_otherwise(last=1000),
            "nearly: this ends at the clean picture, alpha_bar 1. Stable Diffusion's settings end at alpha_bar[0].",
        ),
        Mistake(
            _loop_otherwise(last=None),
            "one step is missing: the one from the last timestep of the list to 0.",
        ),
        Mistake(
            _loop_otherwise(last=999),
            "alpha_bar[-1] is the noisiest of all to Python. The last step ends at alpha_bar[0].",
        ),
        Mistake(
            _loop_otherwise(step=lambda x, eps, a, a_next: _ddim(x, eps, a, torch.ones(()))),
            "this jumps to the clean picture at every step; after each estimate noise has to come back, a little less.",
        ),
        Mistake(
            _loop_otherwise(step=lambda x, eps, a, a_next: _ddim(x, eps, a, a_next) + eps * _excess(a, a_next)),
            "the noise comes back as strong as it was. It takes the strength of the next timestep.",
        ),
        Mistake(
            _loop_otherwise(told=1),
            "predict has to be told the timestep that x is at now, not the one it goes to.",
        ),
        Mistake(
            _loop_otherwise(step=lambda x, eps, a, a_next: _ddim(x, eps, a**2, a_next**2)),
            "alpha_bar is a share of the variance: the latents are multiplied by its root.",
        ),
    ),
)


def _excess(a: Tensor, a_next: Tensor) -> Tensor:
    return (1 - a) ** 0.5 - (1 - a_next) ** 0.5


# --- 7: pixels


class _Vae(nn.Module):
    """In place of a VAE: paints each place as a square of two by two pixels, some of them beyond -1 to 1."""

    config = SimpleNamespace(scaling_factor=0.5)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        painted = 0.55 * z[:, :3].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return SimpleNamespace(sample=painted) if return_dict else (painted,)


def _painted(vae: nn.Module, z: Tensor) -> Tensor:
    """What the decoder makes of z, from 0 to 1, what lies beyond cut off: (B, 3, height, width)."""
    return (vae.decode(z).sample / 2 + 0.5).clamp(0, 1)


def _bytes(unit: Tensor) -> np.ndarray:
    """(B, 3, height, width) from 0 to 1 as (B, height, width, 3) from 0 to 255."""
    return _scaled(unit).round().astype(np.uint8)


def _scaled(unit: Tensor) -> np.ndarray:
    """(B, 3, height, width) from 0 to 1 as (B, height, width, 3) from 0 to 255, not rounded."""
    return unit.permute(0, 2, 3, 1).float().cpu().numpy() * 255


def _not_clamped(vae: nn.Module, x: Tensor) -> np.ndarray:
    unit = vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5
    values = (unit.permute(0, 2, 3, 1).float().cpu().numpy() * 255).round()
    return values.astype(np.int64).astype(np.uint8)  # in two steps, so that every machine wraps around alike


TO_PIXELS = Exercise(
    name="07.to_pixels",
    solution=to_pixels,
    cases=lambda: [(_Vae(), torch.randn((b, 4, 4, 6), generator=_generator(b))) for b in (1, 2)],
    hints=(
        "Divide, decode, bring the numbers to 0 to 1, cut off what lies beyond, turn the axes; last, make bytes.",
        "From -1 to 1 to 0 to 1: `painted / 2 + 0.5`. What lies beyond: `.clamp(0, 1)`.",
        "Colours last: `.permute(0, 2, 3, 1)`. Then `.float().cpu().numpy()`, times 255, `.round()` and "
        "`.astype(np.uint8)`.",
    ),
    mistakes=(
        Mistake(
            lambda vae, x: _bytes(_painted(vae, x)),
            "the latents go into the decoder as they are: divide them by `vae.config.scaling_factor` first.",
        ),
        Mistake(
            lambda vae, x: _bytes(_painted(vae, x * vae.config.scaling_factor)),
            "the scale is applied the wrong way round: the encoder's side multiplies, the decoder's side divides.",
        ),
        Mistake(
            _not_clamped,
            "what lies beyond black and white wraps around and becomes its opposite: clamp it to 0 to 1 first.",
        ),
        Mistake(
            lambda vae, x: np.floor(unrounded(vae, x)).astype(np.uint8),
            "astype cuts off what follows the point, so that the picture is half a step too dark: round first.",
        ),
        Mistake(
            lambda vae, x: _bytes(vae.decode(x / vae.config.scaling_factor).sample.clamp(0, 1)),
            "everything darker than the middle has become black: bring -1 to 1 to 0 to 1 before you cut off.",
        ),
        Mistake(
            lambda vae, x: to_pixels(vae, x).transpose(0, 3, 1, 2),
            "the colours stand in front of the pixels. In a picture they come last: (B, height, width, 3).",
        ),
        Mistake(
            lambda vae, x: to_pixels(vae, x).transpose(0, 3, 1, 2).reshape(len(x), *to_pixels(vae, x).shape[1:]),
            "reshape deals the numbers out anew, row by row, and tears the colours apart: permute moves whole axes.",
        ),
        Mistake(
            lambda vae, x: to_pixels(vae, x)[0],
            "this is the first picture alone. Keep the batch, also if it is one of one.",
        ),
    ),
)


# --- all seven together


class _Tokenizer:
    """In place of a tokenizer."""


class _TextEncoder:
    """In place of a text encoder."""


# As in the lesson, but in other numbers: what is taken from the notebook instead is noticed.
_SHAPE = (4, 3, 5)
_ALPHA_BAR = torch.linspace(0.999, 0.01, 1000)


def _expect(kept: bool, part: int, wants: str, got: Any) -> None:
    """Say in words that a part was handed what is not meant for it."""
    if not kept:
        kind = {torch.Tensor: "tensor", np.ndarray: "array", type(None): "None"}.get(type(got), type(got).__name__)
        raise ValueError(f"part {part} wants {wants}, and got: {kind}")


def _latents(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dim() == 4


def _small_ids(tokenizer: Any, text: Any) -> Tensor:
    _expect(isinstance(tokenizer, _Tokenizer), 1, "given.tokenizer first", tokenizer)
    _expect(isinstance(text, str), 1, "one text", text)
    return torch.tensor([[len(text), sum(map(ord, text)) % 89]])


def _small_vectors(text_encoder: Any, empty_ids: Any, word_ids: Any) -> Tensor:
    _expect(isinstance(text_encoder, _TextEncoder), 2, "given.text_encoder first", text_encoder)
    for ids in (empty_ids, word_ids):
        _expect(isinstance(ids, Tensor), 2, "the ids of two texts, one after the other", ids)
    # Double, as on a GPU they would be half: whoever forgets to move the noise notices here.
    return torch.cat([empty_ids, word_ids]).double()[..., None] / 50


def _small_noise(seeds: Any, shape: Any) -> Tensor:
    _expect(isinstance(seeds, list | tuple), 3, "the list of all seeds first", seeds)
    _expect(shape == _SHAPE, 3, "given.shape second", shape)
    return start_noise(seeds, shape)


def _small_guided(unet: Any, x: Any, t: Any, vectors: Any, guidance: Any) -> Tensor:
    _expect(isinstance(unet, _Unet), 5, "given.unet first", unet)
    _expect(_latents(x), 5, "latents second", x)
    _expect(isinstance(t, int), 5, "the timestep third", t)
    _expect(isinstance(vectors, Tensor) and len(vectors) == 2, 5, "the vectors of part 2 fourth", vectors)
    _expect(isinstance(guidance, int | float), 5, "guidance fifth", guidance)
    return guided_noise(unet, x, t, vectors, guidance)


def _small_loop(predict: Any, x: Any, timesteps: Any, alpha_bar: Any) -> Tensor:
    _expect(callable(predict), 6, "predict itself first, not its answer", predict)
    try:
        inspect.signature(predict).bind(None, None)
    except TypeError:
        raise ValueError(
            "part 6 calls what it is handed with x and t alone; inside draw, define a function that adds the rest"
        ) from None
    _expect(_latents(x), 6, "the noise second", x)
    _expect(isinstance(timesteps, list), 6, "the list of part 4 third", timesteps)
    known = isinstance(alpha_bar, Tensor) and torch.equal(alpha_bar, _ALPHA_BAR)
    _expect(known, 6, "given.alpha_bar fourth", alpha_bar)
    if x.dtype != torch.float64:
        raise ValueError("the noise is still as part 3 drew it; before part 6, `.to(vectors)` takes it to the vectors")

    def asked(x: Tensor, t: int) -> Tensor:
        answer = predict(x, t)
        _expect(isinstance(answer, Tensor), 6, "a tensor from predict, given back with return", answer)
        return answer

    return ddim_loop(asked, x, timesteps, alpha_bar)


def _small_pixels(vae: Any, x: Any) -> np.ndarray:
    _expect(isinstance(vae, _Vae), 7, "given.vae first", vae)
    _expect(_latents(x), 7, "the latents of part 6 second", x)
    # The size of the batch leaves its mark, so that pictures drawn one by one are others.
    return to_pixels(vae, x) // 2 + np.uint8(20 * len(x))


def _draw_cases() -> list[tuple[SimpleNamespace, SimpleNamespace, str, list[int], int, float]]:
    parts = SimpleNamespace(
        token_ids=_small_ids,
        text_vectors=_small_vectors,
        start_noise=_small_noise,
        timesteps=timesteps,
        guided_noise=_small_guided,
        ddim_loop=_small_loop,
        to_pixels=_small_pixels,
    )
    for name, part in vars(parts).items():
        part.__qualname__ = name  # as Python's own messages have it
    given = SimpleNamespace(
        tokenizer=_Tokenizer(),
        text_encoder=_TextEncoder(),
        unet=_Unet(),
        vae=_Vae(),
        shape=_SHAPE,
        alpha_bar=_ALPHA_BAR,
    )
    return [(parts, given, "a fox", [3, 1], 4, 7.5), (parts, given, "a red car", [5, 2, 9], 7, 2.0)]


def _with(**others: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """The solution with some parts called otherwise; each of `others` gets the part, then what it is called with."""

    def wrong(parts: SimpleNamespace, *rest: Any) -> np.ndarray:
        def other(name: str) -> Callable[..., Any]:
            return lambda *handed: others[name](getattr(parts, name), *handed)

        return draw(SimpleNamespace(**(vars(parts) | {name: other(name) for name in others})), *rest)

    return wrong


def _asked_about_the_noise(part: Callable[..., Tensor], predict: Callable[..., Tensor], x: Tensor, *rest: Any) -> Any:
    return part(lambda _, t: predict(x, t), x, *rest)


def _one_by_one(parts: SimpleNamespace, given: SimpleNamespace, prompt: str, seeds: list[int], *how: Any) -> np.ndarray:
    return np.concatenate([draw(parts, given, prompt, [seed], *how) for seed in seeds])


DRAW = Exercise(
    name="07.draw",
    solution=draw,
    cases=_draw_cases,
    hints=(
        "Go backwards from `to_pixels`: what does it need, which part makes that, and what does that part need?",
        'Part 1 is called twice, with `""` and with the prompt; part 2 takes both answers, the empty prompt\'s first. '
        "Parts 3 and 4 are called once each.",
        "Inside `draw`, `def predict(x, t):` calls part 5 with the U-Net, x, t, the vectors and the guidance. Part 6 "
        "gets `predict` itself, without brackets, then the noise, the timesteps and `given.alpha_bar`.",
    ),
    mistakes=(
        Mistake(
            _with(text_vectors=lambda part, encoder, empty, words: part(encoder, words, empty)),
            "the words come first here, so that guidance leads away from them. In part 2 the empty prompt's are first.",
        ),
        Mistake(
            _with(text_vectors=lambda part, encoder, empty, words: part(encoder, words, words)),
            "both sets of vectors are the words', so that guidance has nothing to compare. One text is the empty one.",
        ),
        Mistake(
            _with(start_noise=lambda part, seeds, shape: part(seeds[:1], shape)),
            "only the first seed has a picture: part 3 takes the whole list.",
        ),
        Mistake(
            _one_by_one,
            "each picture went through alone. Hand part 3 all seeds; the other parts take a batch as it is.",
        ),
        Mistake(
            _with(guided_noise=lambda part, unet, x, t, vectors, guidance: part(unet, x, t, vectors, 4.0)),
            "the guidance is 4 whatever is asked for: hand on `guidance`.",
        ),
        Mistake(
            _with(timesteps=lambda part, steps: part(20)),
            "there are 20 steps whatever is asked for: hand on `steps`.",
        ),
        Mistake(
            _with(ddim_loop=_asked_about_the_noise),
            "part 5 is asked about the starting noise at every step. It needs the x that the loop hands to predict.",
        ),
        Mistake(
            _with(to_pixels=lambda part, vae, x: x),
            "these are latents. One part is missing, the one that makes pictures of them.",
        ),
        Mistake(
            lambda *handed: draw(*handed)[0],
            "this is the first picture alone. Give back one for each seed, also if there is one.",
        ),
    ),
)


EXERCISES = (START_NOISE, GUIDED_NOISE, DRAW, DDIM_LOOP, TO_PIXELS)

ONE_GENERATOR = Quiz(
    name="07.one_generator",
    question="You drew four pictures at once with one generator, seed 7, and like the third. How do you draw it again?",
    options=(
        Option(
            "With a batch of one and seed 9",
            "That counts from 7 to 9. But nobody started a generator with 9: the third noise is what one generator, "
            "started with 7, drew third.",
        ),
        Option(
            "With a batch of one and seed 7",
            "That gives the first noise of this generator, and so the first picture again.",
        ),
        Option(
            "With the first three noises of seed 7, of which you keep the third",
            "Its noise has no seed of its own. You have to draw the two before it too, if only their noise.",
            right=True,
        ),
    ),
)

QUIZZES = (ONE_GENERATOR,)
