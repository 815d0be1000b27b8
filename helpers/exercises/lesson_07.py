"""The exercises of lesson 07: the seven parts of Stable Diffusion, and a whole Euler loop."""

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers import schedules
from helpers.exercises import Exercise, Mistake, Option, Quiz
from helpers.sampling import euler_step


def token_ids(tokenizer: Any, text: str) -> Tensor:
    """The ids of a text (1, tokens), filled up or cut to the length that the text encoder reads."""
    return tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def text_vectors(text_encoder: nn.Module, empty_ids: Tensor, word_ids: Tensor) -> Tensor:
    """The vectors of the empty prompt and of the words (2, tokens, width), in this order."""
    return torch.cat([text_encoder(ids).last_hidden_state for ids in (empty_ids, word_ids)])


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
    """Clean latents as pictures (B, height, width, 3) of bytes."""
    return _bytes(_painted(vae, x / vae.config.scaling_factor))


def euler_loop(predict: Callable[[Tensor, float], Tensor], noise: Tensor, sigmas: Sequence[float]) -> Tensor:
    """The latents after all Euler steps: Karras et al. (2022), Algorithm 2 without churn or correction."""
    x = noise * math.sqrt(sigmas[0] ** 2 + 1)
    for sigma, sigma_next in pairwise(sigmas):
        x = euler_step(x, predict(x / math.sqrt(sigma**2 + 1), sigma), sigma, sigma_next)
    return x


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# --- 1: tokens


class _Tokenizer:
    """In place of a CLIP tokenizer, with eight places: a number for each letter, 1 for the start and 2 for the end."""

    model_max_length, bos_token_id, eos_token_id, pad_token_id = 8, 1, 2, 2

    def __call__(
        self,
        text: str,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
    ) -> SimpleNamespace:
        most = max_length or self.model_max_length
        ids = [ord(letter) for letter in text if letter != " "]
        special = 2 if add_special_tokens else 0
        if truncation:
            ids = ids[: most - special]
        if add_special_tokens:
            ids = [1, *ids, 2]
        mask = [1] * len(ids)
        if padding == "max_length":
            ids += [2] * (most - len(ids))
        rows = torch.tensor([ids]) if return_tensors == "pt" else ids
        return SimpleNamespace(input_ids=rows, attention_mask=torch.tensor([mask]) if return_tensors == "pt" else mask)


TOKEN_IDS = Exercise(
    name="07.token_ids",
    solution=token_ids,
    cases=[(_Tokenizer(), text) for text in ("fox", "", "a fox on grass")],
    hints=(
        "The tokenizer can be called like a function; what it gives has a field `input_ids`.",
        "Three of its arguments matter: one fills short texts up, one cuts long ones, one asks for a tensor.",
        'They are called `padding`, which has to say up to which length, and `truncation`; "pt" stands for PyTorch.',
    ),
    mistakes=(
        Mistake(
            lambda tokenizer, text: tokenizer(text, truncation=True, return_tensors="pt").input_ids,
            "the row is as long as the text. The text encoder was trained on rows of full length: fill it up.",
        ),
        Mistake(
            lambda tokenizer, text: tokenizer(text, padding="max_length", return_tensors="pt").input_ids,
            "a long text gives more ids than the text encoder has places for: cut it.",
        ),
        Mistake(
            lambda tokenizer, text: tokenizer(text, return_tensors="pt").input_ids,
            "short rows have to be filled up to the full length, and long ones cut.",
        ),
        Mistake(
            lambda tokenizer, text: tokenizer(text, padding="max_length", truncation=True).input_ids,
            "the ids are right, but they are a list: the text encoder wants a tensor, a row for each text.",
        ),
        Mistake(
            lambda tokenizer, text: token_ids(tokenizer, text)[0],
            "the ids are right, but one dimension is missing: (1, tokens), a batch of one.",
        ),
    ),
)


# --- 2: vectors


@functools.cache
def _text_encoder() -> nn.Module:
    """A CLIP text encoder with small random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel  # here, because it takes seconds

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPTextConfig(vocab_size=12, max_position_embeddings=6, bos_token_id=1, eos_token_id=2, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return CLIPTextModel(config).eval()


def _vector_cases() -> list[tuple[nn.Module, Tensor, Tensor]]:
    empty, words = torch.tensor([[1, 2, 2, 2, 2, 2]]), torch.tensor([[1, 5, 9, 7, 2, 2]])
    return [(_text_encoder(), empty, words), (_text_encoder(), empty, empty.flip(1))]


@torch.no_grad()
def _hidden(text_encoder: nn.Module, empty_ids: Tensor, word_ids: Tensor) -> Tensor:
    found = [text_encoder(ids, output_hidden_states=True).hidden_states[-2] for ids in (empty_ids, word_ids)]
    return torch.cat(found)


TEXT_VECTORS = Exercise(
    name="07.text_vectors",
    solution=text_vectors,
    cases=_vector_cases,
    hints=(
        "Call the text encoder on the ids. Which field of its answer has a vector for each token?",
        "`last_hidden_state` has the shape (1, tokens, width). You need it for both rows of ids.",
        "Join the two along the batch, the empty prompt first: `torch.cat`.",
    ),
    mistakes=(
        Mistake(
            lambda text_encoder, empty_ids, word_ids: text_vectors(text_encoder, word_ids, empty_ids),
            "the two have changed places: the empty prompt comes first.",
        ),
        Mistake(
            lambda text_encoder, empty_ids, word_ids: text_vectors(text_encoder, word_ids, word_ids)[:1],
            "this has the words alone. Guidance needs the empty prompt too.",
        ),
        Mistake(
            lambda text_encoder, empty_ids, word_ids: text_vectors(text_encoder, empty_ids, word_ids).flatten(0, 1)[
                None
            ],
            "these are joined along the tokens, as one long sentence. They are two: join them along the batch.",
        ),
        Mistake(
            lambda text_encoder, empty_ids, word_ids: torch.stack(
                [text_vectors(text_encoder, ids, ids)[:1] for ids in (empty_ids, word_ids)]
            ),
            "stack adds a dimension in front of the batch of one that is there already; cat joins along it.",
        ),
        Mistake(
            _hidden,
            "these come from the layer before the last: `last_hidden_state` has gone through the last norm too.",
        ),
    ),
)


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


# --- 4: timesteps

TIMESTEPS = Exercise(
    name="07.timesteps",
    solution=timesteps,
    cases=[(20,), (25,), (30,), (1,), (7,)],
    hints=(
        "How far apart are 20 of 1000 timesteps? And 30, if the distance has to be a whole number?",
        "Begin at the lower end: 1, 1 + distance, 1 + 2 distances. A run goes the other way.",
        "`1000 // steps` is the distance; `reversed(range(steps))` counts down.",
    ),
    mistakes=(
        Mistake(
            lambda steps: timesteps(steps)[::-1],
            "the right timesteps, but they rise: a run begins with the most noise.",
        ),
        Mistake(
            lambda steps: [t - 1 for t in timesteps(steps)],
            "all one too low: Stable Diffusion's settings shift them by 1, so that the last is 1 and not 0.",
        ),
        Mistake(
            lambda steps: [round(1000 - 1000 / steps * i) - 1 for i in range(steps)],
            'these begin at 999, spacing "trailing". Here the last one is 1, and the first is wherever the steps lead.',
        ),
        Mistake(
            lambda steps: [round(t) for t in np.linspace(999, 0, steps)],
            'these go from end to end, spacing "linspace". Here the last one is 1, and all distances are equal.',
        ),
        Mistake(
            lambda steps: [1 + int(1000 / steps * i) for i in reversed(range(steps))],
            "right where steps divide 1000. Elsewhere take the distance as a whole number first, then multiply.",
        ),
        Mistake(
            lambda steps: [1 + 1000 // steps * i for i in range(steps, 0, -1)],
            "all one distance too high: the last timestep is 1.",
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
        "The U-Net has to be asked about every latent twice: with the empty prompt, and with the words.",
        "One call does both: put the latents into the batch twice, and give a row of vectors for each.",
        "`.sample.chunk(2)` takes the two answers apart. Begin at the first, and go s times the way to the second.",
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
        "Which timestep comes after the last of the list? In Stable Diffusion's settings it is 0.",
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
    return (unit.permute(0, 2, 3, 1).float().cpu().numpy() * 255).round().astype(np.uint8)


def _not_clamped(vae: nn.Module, x: Tensor) -> np.ndarray:
    unit = vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5
    values = (unit.permute(0, 2, 3, 1).float().cpu().numpy() * 255).round()
    return values.astype(np.int64).astype(np.uint8)  # in two steps, so that every machine wraps around alike


TO_PIXELS = Exercise(
    name="07.to_pixels",
    solution=to_pixels,
    cases=lambda: [(_Vae(), torch.randn((b, 4, 4, 6), generator=_generator(b))) for b in (1, 2)],
    hints=(
        "The decoder wants latents as the encoder made them: what did lesson 04 multiply them by?",
        "The decoder answers with -1 for black and 1 for white. Bring that to 0 to 1, and cut off what lies beyond.",
        "A picture has its colours last: `permute(0, 2, 3, 1)`. Then times 255, rounded, as `np.uint8`.",
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
            lambda vae, x: np.floor(
                _painted(vae, x / vae.config.scaling_factor).permute(0, 2, 3, 1).float().cpu().numpy() * 255
            ).astype(np.uint8),
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


# --- and one more


def _predict(x: Tensor, sigma: float) -> Tensor:
    """A stand-in for the guided U-Net: near the noise in x, and never the same at two noise levels."""
    return torch.tanh(x) + 0.1 * sigma * torch.cos(x)


def _euler_cases() -> list[tuple[Callable[[Tensor, float], Tensor], Tensor, list[float]]]:
    noise = torch.randn((1, 4, 4, 4), generator=_generator(1))
    return [(_predict, noise, [14.6, 4.0, 1.2, 0.3, 0.0]), (_predict, noise, [2.0, 0.5, 0.0])]


def _wrong_euler(
    start: Callable[[float], float] = lambda sigma: math.sqrt(sigma**2 + 1),
    shown: Callable[[float], float] = lambda sigma: math.sqrt(sigma**2 + 1),
    sign: int = 1,
    keep: bool = True,
    last: int | None = None,
) -> Callable[..., Tensor]:
    """`euler_loop` with one thing wrong: the start, what the U-Net is shown, the direction, the latents, the end."""

    def wrong(predict: Callable[[Tensor, float], Tensor], noise: Tensor, sigmas: Sequence[float]) -> Tensor:
        x = noise * start(sigmas[0])
        for sigma, sigma_next in pairwise(sigmas[:last]):
            scaled = x / shown(sigma)
            x = (x if keep else scaled) + sign * (sigma_next - sigma) * predict(scaled, sigma)
        return x

    return wrong


EULER_LOOP = Exercise(
    name="07.euler_loop",
    solution=euler_loop,
    cases=_euler_cases,
    hints=(
        "Three things belong into it: the start, what the U-Net is shown, and the step.",
        "The start and the divisor are the same root, of the first sigma and of the present one.",
        "Keep x itself beside what is shown: the step changes x. `zip(sigmas[:-1], sigmas[1:])` gives the pairs.",
    ),
    mistakes=(
        Mistake(
            _wrong_euler(shown=lambda sigma: 1.0),
            "the U-Net is shown x as it is. Divide it first, so that what it sees has a variance near 1.",
        ),
        Mistake(
            _wrong_euler(start=lambda sigma: 1.0),
            "the start is too weak: Euler's first latents are as strong as the first noise level says.",
        ),
        Mistake(
            _wrong_euler(start=lambda sigma: sigma),
            "nearly: the start is the noise times the root of sigma² + 1, not times sigma.",
        ),
        Mistake(
            _wrong_euler(keep=False),
            "only what the U-Net is shown gets divided. The step goes on from x itself.",
        ),
        Mistake(
            _wrong_euler(sign=-1),
            "the steps go towards more noise: it is (sigma_next - sigma) that is multiplied with eps.",
        ),
        Mistake(
            _wrong_euler(last=-1),
            "one step is missing: the last one goes down to sigma = 0.",
        ),
        Mistake(
            _wrong_euler(shown=lambda sigma: sigma**2 + 1),
            "sigma² + 1 is a variance: divide by its square root.",
        ),
    ),
)

EXERCISES = (
    TOKEN_IDS,
    TEXT_VECTORS,
    START_NOISE,
    TIMESTEPS,
    GUIDED_NOISE,
    DDIM_LOOP,
    TO_PIXELS,
    EULER_LOOP,
)

SWAPPED = Quiz(
    name="07.swapped",
    question="In part 5 you take the two answers for one another: the loop gets `words + s * (empty - words)`, with "
    "s = 4. What guidance is that?",
    options=(
        Option(
            "The same: the difference is only written the other way round",
            "Both its start and its direction have changed. Only at s = 0.5, half way between the two answers, do the "
            "formulas agree.",
        ),
        Option(
            "Guidance of -3, away from the words",
            "`words + s * (empty - words)` is `empty + (1 - s) * (words - empty)`. With s = 4 that is -3: each step "
            "goes away from what was asked.",
            right=True,
        ),
        Option(
            "Guidance of 0: the words are ignored",
            "That would be the answer without words alone. Here the words still count, and heavily; their sign is "
            "wrong.",
        ),
    ),
)

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
            "With all four noises of seed 7, of which you keep the third",
            "Its noise has no seed of its own. You have to draw the two before it too, if only their noise.",
            right=True,
        ),
    ),
)

EULER_START = Quiz(
    name="07.euler_start",
    question="DDIM starts from the noise as it is, Euler from the same noise times 11. Does the U-Net see more noise "
    "with Euler?",
    options=(
        Option(
            "Yes, 11 times as much, so the picture gets more detail",
            "The U-Net was trained on latents of variance near 1 and knows no others. What it is shown is divided "
            "first.",
        ),
        Option(
            "No: what it is shown is divided by `sqrt(sigma ** 2 + 1)` before each call",
            "Euler counts in another unit, x0 + sigma eps, where the picture keeps its size and the noise is as large "
            "as it has to be. The division turns that into the U-Net's unit.",
            right=True,
        ),
        Option(
            "No: the first step takes it all away",
            "One step takes away a small part. The unit is another one from the first step to the last.",
        ),
    ),
)

QUIZZES = (SWAPPED, ONE_GENERATOR, EULER_START)
