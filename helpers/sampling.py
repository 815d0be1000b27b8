"""From noise to a picture: the denoising loop, which yields every step, and the steps of three samplers by hand."""

import copy
import inspect
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from helpers import inputs
from helpers.library_calls import memory_advice, quiet
from helpers.schedules import check_timesteps

if TYPE_CHECKING:
    from diffusers import SchedulerMixin, StableDiffusionPipeline

CLEAN = -1  # the t_prev of a picture without noise, where alpha_bar is 1


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class Step:
    """One call of the U-Net: what it was shown, what it answered, and what that says about the picture.

    All tensors are (B, channels, height / f, width / f), on the pipeline's device and in its dtype.

    index: counts the calls, from 0. t: the timestep; a whole number except where a sampler steps between two.
    latents: x_t in the sampler's own scale: of variance near 1 all along, but Euler's start near 15 times as large.
    noise_uncond: the noise predicted for the negative prompt; None with guidance 1, which has no need of it.
    noise_text: the noise predicted for the prompt. noise: the guided one, which the sampler uses.
    x0: the clean latents that `noise` implies, whatever the sampler.
    """

    index: int
    t: int | float
    latents: Tensor
    noise_uncond: Tensor | None
    noise_text: Tensor
    noise: Tensor
    x0: Tensor


@dataclass(frozen=True, eq=False)
class Run:
    """A whole run: its steps, and the latents after the last one, ready to decode."""

    steps: list[Step]
    latents: Tensor


def denoise(
    pipe: "StableDiffusionPipeline",
    prompt: str | Sequence[str],
    *,
    steps: int = 25,
    guidance: float | None = None,
    seed: int = 0,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    sampler: "SchedulerMixin | None" = None,
    latents: Tensor | None = None,
) -> Generator[Step, None, Tensor]:
    """Stable Diffusion's denoising loop: yields a Step for every call of the U-Net, and returns the final latents.

    The latents are those of the pipeline for the same seed. Keep what you want of each Step; to keep all, and to get
    the final latents, use `run`. In a generator of your own, `final = yield from denoise(...)` gets them.

    prompt: one, or a list of B; picture i starts from noise drawn with seed + i on the CPU, as in `generate`.
    steps: of the sampler; some, such as PNDM and Heun, call the U-Net more often, and yield as many Steps.
    guidance: s of `guide`, from 0 to 50; None stands for 4.0 with Pocket, else 7.5. With 1 (off) the U-Net runs for
        the prompt alone. Below 1 the formula holds as well, where the pipeline would silently draw with 1.
    height, width: in pixels; None stands for the model's own.
    sampler: any diffusers scheduler for noise prediction; None stands for `pipe.scheduler`. A copy is used, so that
        runs can be taken step by step side by side.
    latents: standard normal noise to start from instead, (B, channels, height / f, width / f). It is scaled to what
        the sampler starts from. `seed` still serves the samplers that draw noise at every step.

    Everything is checked in this call, before the first step: ValueError says what is wrong and what would do. What
    the model will not understand of a prompt is printed, once each. Gradients are off in the loop, not in yours.
    """
    scheduler = _checked_sampler(pipe.scheduler if sampler is None else sampler)
    inputs.check_prompt(negative_prompt, name="negative_prompt")
    checked = inputs.check_run(
        pipe,
        prompt,
        scheduler=scheduler,
        steps=steps,
        guidance=guidance,
        seed=seed,
        negative_prompt=negative_prompt,
        height=height,
        width=width,
    )
    prompts = checked.prompts
    for note in checked.notes:
        print(note)
    shape = _latent_shape(pipe, len(prompts), height, width)
    if latents is not None and (not isinstance(latents, Tensor) or latents.shape != shape):
        given = f"of shape {tuple(latents.shape)}" if isinstance(latents, Tensor) else f"a {type(latents).__name__}"
        raise ValueError(f"latents is {given}: give a tensor of shape {shape}, which these prompts and sizes ask for")

    # A function with a yield would run none of the checks above before its first step: so the loop is another one.
    generators = [torch.Generator("cpu").manual_seed(int(seed) + i) for i in range(len(prompts))]
    return _loop(
        pipe,
        prompts,
        [negative_prompt] * len(prompts),
        steps=int(steps),
        guidance=checked.guidance,
        scheduler=copy.deepcopy(scheduler),
        generators=generators,
        shape=shape,
        latents=latents,
    )


def run(pipe: "StableDiffusionPipeline", prompt: str | Sequence[str], **options: Any) -> Run:
    """All of `denoise` at once, with the same options: every Step in a list, and the final latents."""
    steps, loop = [], denoise(pipe, prompt, **options)
    while True:
        try:
            steps.append(next(loop))
        except StopIteration as end:
            return Run(steps, end.value)


def _loop(
    pipe: "StableDiffusionPipeline",
    prompts: list[str],
    negative_prompts: list[str],
    *,
    steps: int,
    guidance: float,
    scheduler: Any,
    generators: list[torch.Generator],
    shape: tuple[int, int, int, int],
    latents: Tensor | None,
) -> Generator[Step, None, Tensor]:
    device = pipe._execution_device  # differs from pipe.device when the weights wait on the CPU to be used
    guided = guidance != 1
    # The library's own warning about cut text repeats the note of `denoise`.
    with torch.no_grad(), quiet(bars=True), memory_advice():
        text, uncond = pipe.encode_prompt(prompts, device, 1, guided, negative_prompt=negative_prompts)
    if guided:
        text = torch.cat([uncond, text])  # (2B, tokens, width): one call of the U-Net answers for both

    scheduler.set_timesteps(steps, device=device)
    accepted = inspect.signature(scheduler.step).parameters
    options = {"eta": 0.0, "generator": generators}
    options = {name: value for name, value in options.items() if name in accepted}

    if latents is None:
        latents = torch.cat([torch.randn((1, *shape[1:]), generator=one, dtype=text.dtype) for one in generators])
    x = latents.to(device, text.dtype) * scheduler.init_noise_sigma

    # Read once as numbers: each later look at a tensor on a GPU would wait for it.
    for index, number in enumerate(scheduler.timesteps.tolist()):
        t = scheduler.timesteps[index]
        # Not around the yield, where it would switch off the gradients of whoever takes the step.
        with torch.no_grad(), memory_advice():
            shown = scheduler.scale_model_input(x, t)
            batch = torch.cat([shown, shown]) if guided else shown
            noise_text = pipe.unet(batch, t, encoder_hidden_states=text, return_dict=False)[0]
            noise_uncond = None
            noise = noise_text
            if guided:
                noise_uncond, noise_text = noise_text.chunk(2)  # views: nothing is copied
                noise = guide(noise_uncond, noise_text, guidance)
            x0 = _x0(shown, noise, _alpha_bar_shown(scheduler, index, t, number))
            x_t, x = x, scheduler.step(noise, t, x, **options, return_dict=False)[0]
        yield Step(index, int(number) if number == int(number) else number, x_t, noise_uncond, noise_text, noise, x0)
    return x


def normal(count: int, seed: int, like: Tensor) -> Tensor:
    """Standard normal noise (count, channels, height, width), one tensor for each latent or picture.

    like: a tensor (B, channels, height, width) whose shape but for B, device and dtype the noise has. It is drawn on
    the CPU, so that every machine has the same.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((count, *like.shape[1:]), generator=generator, dtype=like.dtype).to(like.device)


@torch.no_grad()
def predict(pipe: "StableDiffusionPipeline", x: Tensor, t: int | Tensor, words: Tensor) -> Tensor:
    """The noise that the U-Net sees in latents x (B, channels, h, w) at timestep t, of the same shape.

    words: vectors of one prompt (1, tokens, width), which all latents share, or of one for each (B, tokens, width).
    """
    return pipe.unet(x, t, words.expand(len(x), -1, -1)).sample


def guide(noise_uncond: Tensor, noise_text: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: uncond + s (text - uncond), Ho & Salimans (2022), arXiv:2207.12598, equation 6.

    scale: s, which is 1 + w of the paper. 0 ignores the prompt, 1 means off, above 1 goes further than the prompt.
    """
    return noise_uncond + scale * (noise_text - noise_uncond)


def predict_x0(x_t: Tensor, eps: Tensor, t: int | Tensor, alpha_bar: Tensor) -> Tensor:
    """The clean picture that x_t would be if eps were all its noise: Ho et al. (2020), arXiv:2006.11239, equation 15.

    x_t, eps: of one shape and dtype, which the result keeps. t: one timestep. alpha_bar: (steps,).
    Raises ValueError for a timestep out of range.
    """
    return _x0(x_t, eps, _alpha_bar_at(alpha_bar, t))


def ddpm_step(
    x_t: Tensor, eps: Tensor, t: int | Tensor, t_prev: int | Tensor, alpha_bar: Tensor, noise: Tensor
) -> Tensor:
    """One step back with fresh noise: Ho et al. (2020), arXiv:2006.11239, equation 11, with the variance of equation 7.

    x_t, eps (predicted) and noise (standard normal) have one shape and dtype, which the result keeps.
    t, t_prev: from which timestep to which; they need not be neighbours, as alpha_t is alpha_bar_t / alpha_bar_t_prev.
    t_prev = -1 stands for the clean picture, and then no noise is added. alpha_bar: (steps,).

    Raises ValueError for timesteps out of range, or t_prev not below t.
    """
    a, a_prev = _alpha_bar_at(alpha_bar, t), _alpha_bar_at(alpha_bar, t_prev, clean=True)
    if not t_prev < t:
        raise ValueError(f"t_prev is {int(t_prev)} and t is {int(t)}: DDPM steps to an earlier timestep")
    alpha_t = a / a_prev
    beta_t = 1 - alpha_t
    mean = (x_t - beta_t / math.sqrt(1 - a) * eps) / math.sqrt(alpha_t)
    variance = (1 - a_prev) / (1 - a) * beta_t
    return mean + math.sqrt(variance) * noise


def ddim_step(
    x_t: Tensor,
    eps: Tensor,
    t: int | Tensor,
    t_prev: int | Tensor,
    alpha_bar: Tensor,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """One step of DDIM: Song et al. (2020), arXiv:2010.02502, equation 12, with the sigma of equation 16.

    x_t, eps (predicted) and noise (standard normal) have one shape and dtype, which the result keeps.
    t, t_prev: from which timestep to which. t_prev = -1 stands for the clean picture; Stable Diffusion's own
    settings end at t_prev = 0 instead. With eta = 0 the step can also be taken upwards, towards noise.
    eta: from 0, no randomness and no need of `noise`, to 1, the same as `ddpm_step`. alpha_bar: (steps,).

    Raises ValueError for timesteps or eta out of range, or eta above 0 with no noise or a step upwards.
    """
    a, a_prev = _alpha_bar_at(alpha_bar, t), _alpha_bar_at(alpha_bar, t_prev, clean=True)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta!r}: choose a number from 0 (no randomness) to 1 (as much as DDPM)")
    if eta > 0 and noise is None:
        raise ValueError(f"eta is {eta!r} and noise is None: give standard normal noise, or eta 0")
    if eta > 0 and not t_prev <= t:
        raise ValueError(f"t_prev is {int(t_prev)} and t is {int(t)}: a step towards noise needs eta 0")
    sigma = eta * math.sqrt((1 - a_prev) / (1 - a)) * math.sqrt(1 - a / a_prev) if eta > 0 else 0.0
    # The maximum guards against a rounding below zero, at a last step with eta 1.
    direction = math.sqrt(max(1 - a_prev - sigma**2, 0.0)) * eps
    x_prev = math.sqrt(a_prev) * _x0(x_t, eps, a) + direction
    return x_prev + sigma * noise if eta > 0 else x_prev


def _x0(x_t: Tensor, eps: Tensor, a: float) -> Tensor:
    # Numbers in place of tensors, here and in the steps: they fit every dtype and device.
    return (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)


def _alpha_bar_at(alpha_bar: Tensor, t: int | Tensor, *, clean: bool = False) -> float:
    """alpha_bar of one timestep, as a number; 1 for t = -1 if that may stand for the clean picture."""
    if isinstance(t, Tensor) and t.numel() == 1 and not t.is_floating_point():
        t = t.item()
    if clean and not isinstance(t, Tensor) and t == CLEAN:
        return 1.0
    if isinstance(t, Tensor):
        raise ValueError(f"t is of shape {tuple(t.shape)} and {t.dtype}: a step needs one whole number")
    check_timesteps(t, alpha_bar)
    return float(alpha_bar[t])


def _alpha_bar_shown(scheduler: Any, index: int, t: Tensor, number: float) -> float:
    """alpha_bar of the latents that the U-Net is shown at a step of a sampler, whichever kind it is.

    The U-Net always sees sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps. Samplers such as Euler, whose own latents are
    x0 + sigma eps, divide them by sqrt(sigma² + 1) for it, so that alpha_bar is 1 / (sigma² + 1). What they make of
    the number 1 is its root, also where Heun and its kin stand between two entries of `sigmas`.
    """
    scale = float(scheduler.scale_model_input(torch.ones((), dtype=torch.float64), t))
    if scale != 1:
        return scale**2
    if hasattr(scheduler, "sigmas"):  # DPM-Solver and its kin: their noise levels may lie between timesteps
        return 1 / (1 + float(scheduler.sigmas[index]) ** 2)
    return float(scheduler.alphas_cumprod[int(number)])


def _checked_sampler(sampler: Any) -> Any:
    if isinstance(sampler, type) or not hasattr(sampler, "set_timesteps"):
        name = sampler.__name__ if isinstance(sampler, type) else repr(sampler)
        raise ValueError(
            f"sampler is {name}: give a diffusers scheduler, such as DDIMScheduler.from_config(pipe.scheduler.config)"
        )
    kind = sampler.config.get("prediction_type")
    if kind != "epsilon":
        raise ValueError(f"{type(sampler).__name__} has prediction_type {kind!r}: choose a sampler with 'epsilon'")
    return sampler


def _latent_shape(
    pipe: "StableDiffusionPipeline", batch: int, height: int | None, width: int | None
) -> tuple[int, int, int, int]:
    size = pipe.unet.config.sample_size  # of the latents; one number if they are square
    rows, columns = (size, size) if isinstance(size, int) else size
    if height is not None:
        rows = int(height) // pipe.vae_scale_factor
    if width is not None:
        columns = int(width) // pipe.vae_scale_factor
    return batch, pipe.unet.config.in_channels, rows, columns
