"""Between pictures and latents: encode, decode, and look at the four channels."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

from helpers.library_calls import memory_advice
from helpers.plots import as_picture

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# From blue (negative) over white (zero) to red (positive): told apart with any common kind of colour blindness.
DIVERGING = "RdBu_r"
# The VAE sees at most this many pixels at a time: 16 of Pocket's pictures, or one of 512 x 512.
SLICE_PIXELS = 512 * 512


@torch.no_grad()
@memory_advice()
def encode(
    pipe: "StableDiffusionPipeline",
    pictures: Image.Image | Sequence[Image.Image] | Tensor,
    *,
    sample: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Pictures as the latents x0 that the U-Net works on (Rombach et al., 2022, arXiv:2112.10752, section 3.1).

    The VAE answers with a normal distribution N(mu, sigma^2) for each latent number (Kingma and Welling, 2013,
    arXiv:1312.6114, eq. 9), and x0 = scaling_factor * mu; or, with `sample`,
    x0 = scaling_factor * (mu + sigma * eps), eps from N(0, 1) drawn with `generator`. The factor, read from the VAE's
    config, gives x0 a standard deviation of about 1.

    pictures: PIL pictures of one size (what is transparent becomes white), or floats of shape (B, 3, H, W) from -1
        (black) to 1 (white); H and W multiples of the VAE's downscale factor f.
    Returns (B, 4, H / f, W / f) on the VAE's device and in its dtype.

    Raises ValueError for no pictures, several sizes, another shape, dtype or range, or a size that f does not divide.
    A full GPU raises MemoryError with advice.
    """
    vae, factor = pipe.vae, pipe.vae_scale_factor
    x = _to_tensor(pictures)
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        fitting = " x ".join(str(max(factor, side // factor * factor)) for side in (width, height))
        raise ValueError(
            f"The pictures are {width} x {height} pixels, but this VAE needs multiples of {factor}: "
            f"resize or crop them, to {fitting} for instance"
        )
    parameters = [
        vae.encode(part.to(_device(pipe), vae.dtype)).latent_dist.parameters
        for part in x.split(_at_once(height, width))
    ]
    # One distribution for all, so that what is drawn from it does not depend on the slices.
    posterior = DiagonalGaussianDistribution(torch.cat(parameters))
    latents = posterior.sample(generator) if sample else posterior.mean
    return latents * vae.config.scaling_factor


@torch.no_grad()
@memory_advice()
def decode_tensor(pipe: "StableDiffusionPipeline", latents: Tensor) -> Tensor:
    """Latents as the VAE paints them: D(x0 / scaling_factor) (Rombach et al., 2022, section 3.1).

    latents: (B, 4, h, w), from any device and in any float dtype; x0, or the noisy x_t of any step.
    Returns (B, 3, h * f, w * f), about -1 (black) to 1 (white) and a little beyond, on the VAE's device and in its
    dtype.

    Raises ValueError for another shape or dtype. A full GPU raises MemoryError with advice.
    """
    vae, factor = pipe.vae, pipe.vae_scale_factor
    channels = vae.config.latent_channels
    if latents.ndim != 4 or latents.shape[1] != channels or not len(latents):
        hint = "; add the batch with latents[None]" if latents.ndim == 3 else ""
        raise ValueError(f"Latents have the shape (B, {channels}, height, width), not {tuple(latents.shape)}{hint}")
    if not latents.is_floating_point():
        raise ValueError(f"Latents are floats, not {latents.dtype}")
    at_once = _at_once(*(side * factor for side in latents.shape[-2:]))
    unscaled = latents.to(_device(pipe), vae.dtype) / vae.config.scaling_factor
    return torch.cat([vae.decode(part).sample for part in unscaled.split(at_once)])


def decode(pipe: "StableDiffusionPipeline", latents: Tensor) -> list[Image.Image]:
    """Latents (B, 4, h, w) as B RGB pictures; values beyond -1 to 1 are clipped. Raises as `decode_tensor` does."""
    return pipe.image_processor.postprocess(decode_tensor(pipe, latents), output_type="pil")


def channel_pictures(latents: Tensor, *, limit: float | None = None) -> tuple[list[np.ndarray], float]:
    """Each channel of one picture's latents in the colours of `DIVERGING`, all on the scale from -limit to limit.

    latents: (C, h, w) or (1, C, h, w).
    limit: what the strongest blue and red stand for; by default the largest magnitude there is. Give the same limit
        to compare several latents; values beyond it are clipped.
    Returns C uint8 arrays of shape (h, w, 3), and the limit for a colour bar.

    Raises ValueError for another shape, values that are not finite, or a limit that is not above 0.
    """
    if latents.ndim == 4 and len(latents) == 1:
        latents = latents[0]
    if latents.ndim != 3:
        raise ValueError(f"The latents of one picture have the shape (channels, h, w), not {tuple(latents.shape)}")
    values = latents.detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError("The latents hold values that are not finite (nan or inf)")
    if limit is None:
        limit = float(np.abs(values).max()) or 1.0  # all zero: any scale will do
    if not (math.isfinite(limit) and limit > 0):
        raise ValueError(f"limit is {limit!r}: choose a number above 0")
    colours = matplotlib.colormaps[DIVERGING]((values / limit + 1) / 2, bytes=True)  # (C, h, w, RGBA)
    return [np.ascontiguousarray(channel[..., :3]) for channel in colours], float(limit)


def _device(pipe: "StableDiffusionPipeline") -> torch.device:
    """Where the VAE computes: another device than that of its weights while they wait in main memory to be used."""
    return getattr(pipe, "_execution_device", pipe.vae.device)


def _at_once(height: int, width: int) -> int:
    return max(1, SLICE_PIXELS // (height * width))


def _to_tensor(pictures: Image.Image | Sequence[Image.Image] | Tensor) -> Tensor:
    """Pictures as floats (B, 3, H, W) in [-1, 1], checked."""
    if isinstance(pictures, Tensor):
        if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.numel():
            hint = "; add the batch with pictures[None]" if pictures.ndim == 3 else ""
            raise ValueError(f"Pictures have the shape (B, 3, height, width), not {tuple(pictures.shape)}{hint}")
        if not pictures.is_floating_point():
            raise ValueError(f"Pictures as a tensor are floats from -1 to 1, not {pictures.dtype}")
        low, high = float(pictures.min()), float(pictures.max())
        if not (-1.001 <= low and high <= 1.001):  # rounding in half precision is no mistake
            raise ValueError(f"Pictures as a tensor hold -1 (black) to 1 (white), not {low:.3g} to {high:.3g}")
        return pictures
    pictures = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    if not pictures:
        raise ValueError("There are no pictures to encode: give at least one")
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise ValueError(f"pictures holds a {type(picture).__name__}: give PIL pictures, or one tensor")
    sizes = sorted({f"{picture.width} x {picture.height}" for picture in pictures})
    if len(sizes) > 1:
        raise ValueError(f"The pictures have several sizes ({', '.join(sizes)}): resize them to one")
    pixels = np.stack([as_picture(picture) for picture in pictures])  # (B, H, W, 3)
    return torch.from_numpy(pixels).movedim(-1, 1).float() / 127.5 - 1
