"""Noise schedules as data, and the forward process that turns a picture into noise. No model takes part.

A schedule is a tensor of betas, one for each timestep t from 0 (almost clean) to steps - 1 (pure noise); everything
else follows from it. The defaults are Stable Diffusion's numbers.

Products are taken in float64, because a thousand roundings in float32 would add up, and returned in float32, which is
as exact as any model needs and which every device has (Apple's GPUs have no float64).
"""

import math
from numbers import Integral

import torch
from torch import Tensor

KINDS = ("linear", "scaled_linear", "cosine")
COSINE_OFFSET = 0.008  # s of Nichol & Dhariwal, which keeps the first betas from being too small to notice
MAX_BETA = 0.999  # where they clip beta: at the very end it would be 1


def betas(kind: str = "scaled_linear", steps: int = 1000, *, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """How much of each step is noise: beta of every timestep, (steps,) float32, each between 0 and 1.

    kind: "linear" in beta, as in Ho et al. (2020), arXiv:2006.11239, section 4; "scaled_linear", linear in the square
    root of beta, as in Stable Diffusion; "cosine", from Nichol & Dhariwal (2021), arXiv:2102.09672, equation 17.
    start, end: the first and last beta of the two linear kinds; "cosine" has no use for them.

    Raises ValueError for an unknown kind, steps below 1, and betas that do not rise from above 0 to below 1.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown kind {kind!r}: choose one of {', '.join(map(repr, KINDS))}")
    if not _is_integer(steps) or steps < 1:
        raise ValueError(f"steps is {steps!r}: choose a whole number from 1")
    if not 0 < start <= end < 1:
        raise ValueError(f"start is {start!r} and end is {end!r}: choose 0 < start <= end < 1")
    if kind == "linear":
        values = torch.linspace(start, end, steps, dtype=torch.float64)
    elif kind == "scaled_linear":
        values = torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64).square()
    else:
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        # f(t) of the paper. Its alpha_bar is f(t) / f(0), but f(0) cancels in the ratio of two neighbours.
        f = torch.cos((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).square()
        values = (1 - f[1:] / f[:-1]).clamp(max=MAX_BETA)
    return values.float()


def alpha_bar(beta: Tensor) -> Tensor:
    """The share of the picture's variance left at each timestep: the product of all (1 - beta) up to t.

    Ho et al. (2020), arXiv:2006.11239, section 2. beta: (steps,), as from `betas`; returns (steps,) float32, falling
    from near 1 to near 0, on the device of `beta`, which must have float64.
    """
    return (1 - beta.double()).cumprod(dim=0).float()


def snr(a: Tensor) -> Tensor:
    """The signal-to-noise ratio alpha_bar / (1 - alpha_bar): Kingma et al. (2021), arXiv:2107.00630, equation 2.

    a: alpha_bar, of any shape, which the result keeps. A ratio of variances; above 1 there is more picture than noise.
    """
    return a / (1 - a)


def add_noise(x0: Tensor, eps: Tensor, t: int | Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t in one go: sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps, Ho et al. (2020), arXiv:2006.11239, equation 4.

    x0: pictures or latents, (B, ...), of any float dtype, which x_t keeps. eps: standard normal noise of that shape.
    t: one timestep for all, or a tensor (B,) with one for each; a single x0 can be shown at many timesteps.
    alpha_bar: (steps,), as from `alpha_bar`.

    Raises ValueError for timesteps that are not whole numbers from 0 to steps - 1, or too few or too many of them.
    """
    check_timesteps(t, alpha_bar)
    a = alpha_bar.to(t.device)[t] if isinstance(t, Tensor) else alpha_bar[t]  # () or (B,)
    if a.ndim and len(x0) != 1 and len(a) not in (1, len(x0)):
        raise ValueError(f"t holds {len(a)} timesteps for {len(x0)} pictures: give one timestep, or one for each")
    a = a.reshape(a.shape + (1,) * (x0.ndim - a.ndim))  # (B, 1, ..., 1)
    # Rounded to x0's dtype only after the roots: near t = 0 a float16 has no digits left of 1 - alpha_bar.
    signal, noise = a.sqrt().to(x0), (1 - a).sqrt().to(x0)
    return signal * x0 + noise * eps.to(x0.dtype)


def check_timesteps(t: int | Tensor, alpha_bar: Tensor) -> None:
    """Timesteps of a schedule: a whole number, or a tensor () or (B,) of them, from 0 to the last; else ValueError."""
    last = len(alpha_bar) - 1
    if isinstance(t, Tensor):
        whole = t.ndim <= 1 and not t.is_floating_point() and not t.is_complex() and t.dtype != torch.bool
        # Tensors on the meta device have no values to check.
        fits = whole and (t.is_meta or not t.numel() or bool(((0 <= t) & (t <= last)).all()))
    else:
        fits = _is_integer(t) and 0 <= t <= last
    if not fits:
        value = t.tolist() if isinstance(t, Tensor) and not t.is_meta else t
        raise ValueError(f"t is {value!r}: choose whole numbers from 0 to {last}")


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
