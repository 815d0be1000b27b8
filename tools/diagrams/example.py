"""The run that several diagrams show, and latents as colours."""

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from helpers import scenes
from helpers.latents import channel_pictures, encode
from helpers.loading import load_pipeline
from helpers.sampling import Run, run

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PROMPT = ("a blue fox", "in the snow,", "noto style")  # in the lines that it is shown in
SEED, STEPS, GUIDANCE = 7, 20, 4.0
SAID = f"{' '.join(PROMPT)}; seed {SEED}, {STEPS} DDIM steps, guidance {GUIDANCE:g}"
CHANNEL_LIMIT = 3.0  # what the strongest blue and red of a channel stand for
NOISE = 0.5  # its standard deviation in the latents that colours are fitted to
SCENES = 64  # with 256 places each, enough to fit the fifteen numbers of `as_colours`


@functools.cache
def pocket() -> "StableDiffusionPipeline":
    return load_pipeline("pocket", device="cpu")


@functools.cache
def fox() -> Run:
    """The run from noise to a fox, with every step."""
    return run(pocket(), " ".join(PROMPT), steps=STEPS, guidance=GUIDANCE, seed=SEED)


def tokens() -> tuple[list[str], list[int], torch.Tensor]:
    """The prompt's tokens up to the first end, their numbers, and the vectors of all (tokens, width), padding too."""
    pipe = pocket()
    ids = pipe.tokenizer(" ".join(PROMPT), padding="max_length").input_ids
    ids = ids[: ids.index(pipe.tokenizer.eos_token_id) + 1]
    words = [word.removesuffix("</w>") for word in pipe.tokenizer.convert_ids_to_tokens(ids)]
    with torch.no_grad():
        vectors = pipe.encode_prompt(" ".join(PROMPT), "cpu", 1, False)[0][0]
    return ["start", *words[1:-1], "end"], ids, vectors


def channels(latents: torch.Tensor) -> list[np.ndarray]:
    """The channels of one latent (1, C, h, w) in blue for negative and red for positive numbers, on one scale."""
    return channel_pictures(latents, limit=CHANNEL_LIMIT)[0]


def as_colours(latents: torch.Tensor) -> np.ndarray:
    """One latent (1, C, h, w) as a picture uint8 (h, w, 3), a pixel for each place.

    Each colour is a mix of the channels, the one that comes nearest to scenes from their latents with some noise.
    """
    inputs = torch.cat([latents[0], torch.ones_like(latents[0, :1])]).movedim(0, -1)  # (h, w, C + 1)
    return ((inputs @ _mix()).clamp(0, 1) * 255).round().to(torch.uint8).numpy()


@functools.cache
def _mix() -> torch.Tensor:
    rng = np.random.default_rng(0)
    pictures = [scenes.draw(scenes.random_scene(rng, things=1)) for _ in range(SCENES)]
    latents = encode(pocket(), pictures)  # (SCENES, C, h, w)
    small = torch.stack([torch.from_numpy(np.array(one.reduce(pocket().vae_scale_factor))) for one in pictures]) / 255
    # Fitted to noisy latents: from clean ones the colours of noise would be too strong for a screen.
    latents = latents + torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)) * NOISE
    inputs = torch.cat([latents, torch.ones_like(latents[:, :1])], 1).movedim(1, -1).flatten(0, 2)
    return torch.linalg.lstsq(inputs, small.flatten(0, 2)).solution  # (C + 1, 3)
