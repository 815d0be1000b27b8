"""Noise schedules and the forward process: the same numbers as diffusers, and what cannot work is refused."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr
from torch.testing import assert_close

from helpers.schedules import add_noise, alpha_bar, betas, check_timesteps, snr

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# diffusers multiplies a thousand float32 numbers where we multiply float64 ones: some 1e-6 of the last product.
PRODUCT = {"rtol": 1e-5, "atol": 1e-7}


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Betas and what follows from them


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (betas(), STABLE_DIFFUSION),
        (betas("linear", start=1e-4, end=0.02), {"beta_schedule": "linear"}),
        (betas("cosine"), {"beta_schedule": "squaredcos_cap_v2"}),
        (betas("cosine", 50), {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50}),
        (betas("scaled_linear", 50), {**STABLE_DIFFUSION, "num_train_timesteps": 50}),
    ],
    ids=["stable-diffusion", "linear", "cosine", "cosine-50", "scaled-linear-50"],
)
def test_betas_and_alpha_bar_are_those_of_diffusers_at_every_timestep(ours, theirs):
    scheduler = DDPMScheduler(**theirs)
    assert ours.dtype == alpha_bar(ours).dtype == torch.float32
    # One rounding of a float32 square root, then a square.
    assert_close(ours, scheduler.betas, rtol=1e-6, atol=1e-8)
    assert_close(alpha_bar(ours), scheduler.alphas_cumprod, **PRODUCT)


def test_stable_diffusion_ends_with_hardly_any_picture_left():
    a = alpha_bar(betas())
    assert a.shape == (1000,)
    assert (a.diff() < 0).all()
    assert 0.999 < a[0] < 1 and 0.0046 < a[-1] < 0.0047


def test_cosine_betas_are_clipped_at_the_end():
    assert betas("cosine")[-1] == torch.tensor(0.999)


def test_snr_is_that_of_diffusers():
    scheduler = DDPMScheduler(**STABLE_DIFFUSION)
    # Near t = 0 both take 1 - 0.999, which leaves four of float32's seven digits.
    assert_close(snr(alpha_bar(betas())), compute_snr(scheduler, torch.arange(1000)), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"kind": "Cosine"}, ["'Cosine'", "'linear', 'scaled_linear', 'cosine'"]),
        ({"kind": None}, ["None", "'cosine'"]),
        ({"steps": 0}, ["steps is 0", "from 1"]),
        ({"steps": 10.0}, ["steps is 10.0"]),
        ({"steps": True}, ["steps is True"]),
        ({"start": 0.02}, ["start is 0.02", "end is 0.012"]),
        ({"start": 0.0}, ["start is 0.0"]),
        ({"end": 1.0}, ["end is 1.0"]),
        ({"end": math.nan}, ["end is nan"]),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(options, parts):
    with pytest.raises(ValueError) as error:
        betas(**options)
    for part in parts:
        assert part in str(error.value)


# The forward process


def test_add_noise_is_that_of_diffusers_at_every_timestep():
    x0, eps, t = normal(1000, 4, 4, 4), normal(1000, 4, 4, 4, seed=1), torch.arange(1000)
    expected = DDIMScheduler(**STABLE_DIFFUSION).add_noise(x0, eps, t)
    # Values up to 5, and factors that differ by less than 1e-6 (see PRODUCT).
    assert_close(add_noise(x0, eps, t, alpha_bar(betas())), expected, rtol=0, atol=1e-5)


def test_one_timestep_serves_a_batch_and_one_picture_serves_many_timesteps():
    a = alpha_bar(betas())
    x0, eps, t = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1), torch.tensor([0, 500, 999])
    each = torch.stack([add_noise(one, noise, int(at), a) for one, noise, at in zip(x0, eps, t, strict=True)])
    assert torch.equal(add_noise(x0, eps, t, a), each)
    assert torch.equal(add_noise(x0, eps, 500, a), add_noise(x0, eps, torch.tensor([500] * 3), a))
    assert torch.equal(add_noise(x0, eps, torch.tensor(500), a), add_noise(x0, eps, torch.tensor([500]), a))
    assert torch.equal(add_noise(x0[:1], eps[:1], t, a)[1], add_noise(x0[0], eps[0], 500, a))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_kept_and_close_to_float32(dtype):
    a = alpha_bar(betas())
    x0, eps, t = normal(4, 4, 8, 8), normal(4, 4, 8, 8, seed=1), torch.tensor([0, 1, 500, 999])
    # Values up to 5, each of the two products rounded once and the sum again.
    atol = 10 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-6
    for at in (t, 500):
        result = add_noise(x0.to(dtype), eps.to(dtype), at, a)
        assert result.dtype == dtype
        assert_close(result.float(), add_noise(x0, eps, at, a), rtol=0, atol=atol)
    assert add_noise(x0.to(dtype), eps, t, a).dtype == dtype  # noise drawn in float32 does no harm


def test_shapes_can_be_followed_on_the_meta_device():
    a = alpha_bar(betas())
    x0 = torch.empty(2, 4, 64, 64, device="meta", dtype=torch.float16)
    t = torch.tensor([0, 999])
    for result in (
        add_noise(x0, x0, 10, a),
        add_noise(x0, x0, t, a),
        add_noise(x0, x0, t.to("meta"), a),
    ):
        assert (result.device.type, result.shape, result.dtype) == ("meta", x0.shape, torch.float16)


@pytest.mark.parametrize(
    "t",
    [
        -1,
        1000,
        1.0,
        True,
        "5",
        None,
        torch.tensor(-1),
        torch.tensor([0, 1000]),
        torch.tensor([0.0, 1.0]),
        torch.tensor([True, False]),
        torch.tensor([[0, 1]]),
    ],
    ids=str,
)
def test_timesteps_out_of_range_are_refused(t):
    value = t.tolist() if isinstance(t, torch.Tensor) else t
    with pytest.raises(ValueError) as error:
        add_noise(normal(2, 4), normal(2, 4), t, alpha_bar(betas()))
    assert f"t is {value!r}" in str(error.value) and "0 to 999" in str(error.value)


def test_timesteps_of_a_short_schedule_end_earlier():
    check_timesteps(49, alpha_bar(betas(steps=50)))
    with pytest.raises(ValueError, match="0 to 49"):
        check_timesteps(50, alpha_bar(betas(steps=50)))


def test_as_many_timesteps_as_pictures():
    with pytest.raises(ValueError, match="2 timesteps for 3 pictures"):
        add_noise(normal(3, 4), normal(3, 4), torch.tensor([1, 2]), alpha_bar(betas()))
