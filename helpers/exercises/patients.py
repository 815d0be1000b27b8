"""The pipelines of lesson 12, each with one mistake in it. Reading on spoils the lesson: it names every cause.

A pipeline is a dozen small functions, its parts, which the lesson's loop calls by name. `HEALTHY` holds the right ones.
A patient is the same with one part exchanged for a wrong one, of a kind that real projects have had: a thread that
tells of it stands beside each. The lesson shows what a patient draws and what can be measured on the way, so that its
learner reads pictures and numbers, not code.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from helpers.library_calls import quiet

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline

HALF_MAX = torch.finfo(torch.float16).max  # 65504


class Cause(Enum):
    """What may be wrong with a pipeline, to choose from. Not every cause has a patient."""

    WRONG_PADDING = "the prompt is filled up with another token than the padding token"
    LINEAR_BETAS = "the sampler's betas follow another schedule than the one of the training"
    NOISE_REUSED = "the generator is seeded anew for every draw, so that all draws are the same"
    START_NOT_SCALED = "the first latents are standard normal, where the sampler wants them larger"
    INPUT_NOT_SCALED = "the U-Net is shown the sampler's own latents, not brought to the size that it was trained on"
    INDEX_AS_TIMESTEP = "the U-Net is told the number of the step (0, 1, 2, ...) in place of the timestep"
    ROWS_SWAPPED = "guidance takes the prediction without prompt for the one with it, and the other way round"
    WRONG_PREDICTION = "the U-Net's answer is taken for a velocity v, but it is the noise"
    STEPPED_TWICE = "the scheduler takes two steps where the loop takes one"
    SKIPS_CUT = "the skip connections of the U-Net carry nothing"
    NOT_UNSCALED = "the latents are not divided by the scaling factor before they are decoded"
    HALF_OVERFLOW = "float16 overflows inside the VAE"
    NOT_CLAMPED = "values beyond black and white are turned into bytes without clamping them"
    RANGE_MISTAKEN = "values from -1 to 1 are saved as if they went from 0 to 1"
    CHANNELS_SWAPPED = "red and blue have changed places"
    OTHER_SEED = "the run starts from other noise; nothing is broken"


# The right parts.


def pad(rows: Sequence[Sequence[int]], length: int, filler: int) -> list[list[int]]:
    """Token ids as the text encoder wants them: `length` in every row, filled up behind, or cut before the end token.

    rows: for each prompt its ids, from the start token to the end token. filler: the id to fill up with.
    """
    kept = [[*ids[: length - 1], ids[-1]] if len(ids) > length else list(ids) for ids in rows]
    return [ids + [filler] * (length - len(ids)) for ids in kept]


def betas(config: Mapping[str, Any]) -> Tensor:
    """The betas that a scheduler's config asks for, (steps,): `linear`, or `scaled_linear`, linear in the root.

    Raises ValueError for another schedule.
    """
    start, end, steps = config["beta_start"], config["beta_end"], config["num_train_timesteps"]
    if config["beta_schedule"] == "linear":
        return torch.linspace(start, end, steps)
    if config["beta_schedule"] == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps) ** 2
    raise ValueError(f"beta_schedule is {config['beta_schedule']!r}: choose 'linear' or 'scaled_linear'")


def noises(seed: int, count: int, shape: Sequence[int]) -> list[Tensor]:
    """`count` independent standard normal tensors of one shape, all from one generator that is seeded once."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn(tuple(shape), generator=generator) for _ in range(count)]


def start(noise: Tensor, scheduler: Any) -> Tensor:
    """Standard normal noise as the latents that this sampler starts from."""
    return noise * scheduler.init_noise_sigma


def shown(x: Tensor, t: Tensor, scheduler: Any) -> Tensor:
    """The sampler's latents as the U-Net wants to see them, of variance near 1."""
    return scheduler.scale_model_input(x, t)


def clock(timesteps: Tensor, index: int) -> Tensor:
    """The time that the U-Net is told at a step of the loop: the timestep, from near 1000 down to near 0."""
    return timesteps[index]


def predict(network: Callable[..., Tensor], x: Tensor, t: Tensor, uncond: Tensor, text: Tensor) -> tuple[Tensor, ...]:
    """The network's answers for x (1, C, h, w) without and with the prompt, in this order, from one call of it.

    network: takes latents (B, C, h, w), t, and text vectors (B, tokens, width), and answers with (B, C, h, w).
    """
    return network(torch.cat([x, x]), t, torch.cat([uncond, text])).chunk(2)


def as_noise(answer: Tensor, x: Tensor, a: float, kind: str) -> Tensor:
    """The noise that an answer of the U-Net stands for.

    answer, x (what it was shown): of one shape. a: alpha_bar. kind: `epsilon`, the answer is the noise; `v_prediction`,
    it is v = sqrt(a) eps - sqrt(1 - a) x0 of Salimans & Ho (2022), arXiv:2202.00512, section 4.
    """
    if kind == "epsilon":
        return answer
    return math.sqrt(a) * answer + math.sqrt(1 - a) * x


def step(scheduler: Any, eps: Tensor, t: Tensor, x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """One step of the sampler: the next latents, and the estimate of the clean ones."""
    out = scheduler.step(eps, t, x, **options)
    return out.prev_sample, out.pred_original_sample


def unscale(x0: Tensor, factor: float) -> Tensor:
    """Clean latents in the VAE's own scale."""
    return x0 / factor


def vae(pipe: "StableDiffusionPipeline") -> "AutoencoderKL":
    """The VAE that decodes."""
    return pipe.vae


def decode(vae: Any, z: Tensor) -> Tensor:
    """Latents in the VAE's scale as it paints them, computed in the VAE's own dtype."""
    return vae.decode(z.to(vae.dtype)).sample


def to_pixels(y: Tensor) -> Tensor:
    """The VAE's (B, 3, H, W), about -1 to 1, as bytes (B, H, W, 3)."""
    values = ((y + 1) * 127.5).clamp(0, 255)
    return values.round().to(torch.uint8).permute(0, 2, 3, 1)


PARTS = (pad, betas, noises, start, shown, clock, predict, as_noise, step, unscale, vae, decode, to_pixels)
HEALTHY: dict[str, Callable[..., Any]] = {part.__name__: part for part in PARTS}


# The wrong ones. They are written out, so that the lesson can show the lines in which they differ from the right ones.


def _filled_with_zeros(rows: Sequence[Sequence[int]], length: int, filler: int) -> list[list[int]]:
    kept = [[*ids[: length - 1], ids[-1]] if len(ids) > length else list(ids) for ids in rows]
    return [ids + [0] * (length - len(ids)) for ids in kept]


def _linear(config: Mapping[str, Any]) -> Tensor:
    start, end, steps = config["beta_start"], config["beta_end"], config["num_train_timesteps"]
    return torch.linspace(start, end, steps)


def _same_noise(seed: int, count: int, shape: Sequence[int]) -> list[Tensor]:
    generators = [torch.Generator("cpu").manual_seed(seed) for _ in range(count)]
    return [torch.randn(tuple(shape), generator=generator) for generator in generators]


def _not_larger(noise: Tensor, scheduler: Any) -> Tensor:
    return noise


def _as_they_are(x: Tensor, t: Tensor, scheduler: Any) -> Tensor:
    return x


def _index(timesteps: Tensor, index: int) -> Tensor:
    return torch.as_tensor(index, device=timesteps.device)


def _swapped(network: Callable[..., Tensor], x: Tensor, t: Tensor, uncond: Tensor, text: Tensor) -> tuple[Tensor, ...]:
    return network(torch.cat([x, x]), t, torch.cat([text, uncond])).chunk(2)


def _twice(scheduler: Any, eps: Tensor, t: Tensor, x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    x0 = scheduler.step(eps, t, x, **options).pred_original_sample
    return scheduler.step(eps, t, x, **options).prev_sample, x0


def _as_if_v(answer: Tensor, x: Tensor, a: float, kind: str) -> Tensor:
    return as_noise(answer, x, a, "v_prediction")


def _still_scaled(x0: Tensor, factor: float) -> Tensor:
    return x0


def _blue_first(y: Tensor) -> Tensor:
    values = ((y.flip(1) + 1) * 127.5).clamp(0, 255)
    return values.round().to(torch.uint8).permute(0, 2, 3, 1)


def _unclamped(y: Tensor) -> Tensor:
    # A cast of 256 to a byte gives 0 on some machines and 255 on others: the remainder gives 0 on all.
    values = ((y + 1) * 127.5).round()
    return values.to(torch.int64).remainder(256).to(torch.uint8).permute(0, 2, 3, 1)


@torch.no_grad()
def loud_vae(pipe: "StableDiffusionPipeline") -> "AutoencoderKL":
    """A float16 VAE that paints the same as the pipeline's, with inner numbers too large for float16.

    Every block of the decoder adds to a stream of numbers that only normalised copies of are read, so that the stream
    can be made k times as large with no change of the picture. The usual repair of a VAE that overflows does this with
    k below 1. Here k makes the largest number about four times what float16 can hold.
    """
    with quiet(bars=True):  # diffusers remarks on every change of dtype
        vae = copy.deepcopy(pipe.vae).float()
    decoder = vae.decoder
    blocks = [*decoder.mid_block.resnets, *(block for up in decoder.up_blocks for block in up.resnets)]
    peaks: list[float] = []
    hooks = [
        block.register_forward_hook(lambda part, inputs, output: peaks.append(float(output.abs().max())))
        for block in blocks
    ]
    side = pipe.unet.config.sample_size
    shape = (1, vae.config.latent_channels, side, side)
    probe = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0)).to(vae.device)
    vae.decode(probe / vae.config.scaling_factor)
    for hook in hooks:
        hook.remove()

    whole: list[nn.Module] = [decoder.conv_in, *(block.conv2 for block in blocks)]
    whole += [attention.to_out[0] for attention in decoder.mid_block.attentions if attention is not None]
    # The weights themselves must not overflow, or no float32 could help any more.
    k = min(4 * HALF_MAX / max(peaks), HALF_MAX / 2 / max(float(layer.weight.abs().max()) for layer in whole))
    # These read the stream itself, so their weights stay and only what they add of their own grows.
    linear = [block.conv_shortcut for block in blocks if block.conv_shortcut is not None]
    linear += [layer.conv for up in decoder.up_blocks for layer in up.upsamplers or []]
    for layer in whole:
        layer.weight *= k
    for layer in (*whole, *linear):
        if layer.bias is not None:
            layer.bias *= k
    with quiet(bars=True):
        return vae.half()


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A broken pipeline.

    cause: what is wrong with it. look: where to look, without saying what is there to see.
    cure: the name of the part to mend. wrong: the wrong parts, by name.
    dice: whether its sampler draws fresh noise at every step (DDIM with eta 1), or none (Euler).
    """

    cause: Cause
    look: str
    cure: str
    wrong: Mapping[str, Callable[..., Any]]
    dice: bool = False

    def parts(self) -> dict[str, Callable[..., Any]]:
        """All parts of the broken pipeline, by name."""
        return {**HEALTHY, **self.wrong}


PATIENTS: tuple[Patient, ...] = (
    # huggingface/diffusers#5166: a pipeline that decoded latents without undoing their scaling.
    Patient(
        cause=Cause.NOT_UNSCALED,
        look="the range of the decoded values",
        cure="unscale",
        wrong={"unscale": _still_scaled},
    ),
    # deforum/sd-webui-deforum#8: a picture in RGB was converted as if it were in OpenCV's BGR.
    Patient(
        cause=Cause.CHANNELS_SWAPPED,
        look="what is the same in both pictures: then what is not",
        cure="to_pixels",
        wrong={"to_pixels": _blue_first},
        dice=True,
    ),
    # huggingface/candle#1060, invoke-ai/InvokeAI#4454: black pictures from a VAE in float16.
    Patient(
        cause=Cause.HALF_OVERFLOW,
        look="the range of the decoded values, and whether the latents before it are right",
        cure="decode",
        wrong={"vae": loud_vae},
    ),
    # Nerogar/OneTrainer#775: one of two text inputs had its rows in the other order.
    Patient(
        cause=Cause.ROWS_SWAPPED,
        look="the prompt, and then at what was drawn",
        cure="predict",
        wrong={"predict": _swapped},
    ),
    # Project-MONAI/GenerativeModels#323, Nerogar/OneTrainer#440: bytes made of values outside their range.
    Patient(
        cause=Cause.NOT_CLAMPED,
        look="which pixels are wrong, and how bright they are in the right picture",
        cure="to_pixels",
        wrong={"to_pixels": _unclamped},
        dice=True,
    ),
    # LaurentMazare/diffusers-rs#32: a loop without this factor, until Euler came and needed it.
    Patient(
        cause=Cause.START_NOT_SCALED,
        look="the very first column of the table",
        cure="start",
        wrong={"start": _not_larger},
    ),
    # huggingface/diffusers#3544: unnoticed while the usual samplers scale by 1, wrong with Euler.
    Patient(
        cause=Cause.INPUT_NOT_SCALED,
        look="the first column, in the row of what the U-Net is shown",
        cure="shown",
        wrong={"shown": _as_they_are},
    ),
    # fastai/diffusion-nbs#42: one call for the estimate, another for the next latents.
    Patient(
        cause=Cause.STEPPED_TWICE,
        look="how many steps there are",
        cure="step",
        wrong={"step": _twice},
    ),
    # mlfoundations/open_clip#453: one model's padding is the end token, another's token 0.
    Patient(
        cause=Cause.WRONG_PADDING,
        look="the first column: which rows agree in it; then at what has stayed in the picture",
        cure="pad",
        wrong={"pad": _filled_with_zeros},
    ),
    # invoke-ai/InvokeAI#7495, the other way round: there v was taken for the noise.
    Patient(
        cause=Cause.WRONG_PREDICTION,
        look="the row of the estimates, from left to right",
        cure="as_noise",
        wrong={"as_noise": _as_if_v},
    ),
    # Kosinkadink/ComfyUI-AnimateDiff-Evolved#532: the sampler's first draw repeated the noise of the start.
    Patient(
        cause=Cause.NOISE_REUSED,
        look="how the latents change from left to right, and what kind of sampler it is",
        cure="noises",
        wrong={"noises": _same_noise},
        dice=True,
    ),
    # Stability-AI/stablediffusion#226: the index where the timestep belongs.
    Patient(
        cause=Cause.INDEX_AS_TIMESTEP,
        look="the first column: the input agrees, and the answer",
        cure="clock",
        wrong={"clock": _index},
    ),
    # antgroup/echomimic#127: trained with scaled_linear, drawn with linear.
    Patient(
        cause=Cause.LINEAR_BETAS,
        look="the first column, in the row of the sampler's latents",
        cure="betas",
        wrong={"betas": _linear},
    ),
)
