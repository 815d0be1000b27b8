"""The exercises of lesson 04, held to what diffusers does: drawing from the encoder's answer, its cost, the bytes."""

import math

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from helpers import schedules
from helpers.exercises.lesson_04 import bits_per_number, draw_latents, seems_like, to_bytes
from tests.pipelines.tiny import SIDE, tiny_pipeline


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def pixels():
    return torch.rand((2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_drawing_by_hand_is_latent_dist_sample(pipe, pixels):
    s = pipe.vae.config.scaling_factor
    posterior = pipe.vae.encode(pixels).latent_dist
    eps = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(1))
    ours = draw_latents(posterior.parameters, eps, s)
    theirs = s * posterior.sample(torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_bits_by_hand_are_the_library_s_kl():
    moments = 2 * torch.randn((3, 8, 4, 6), generator=torch.Generator().manual_seed(0))
    kl = DiagonalGaussianDistribution(moments).kl()  # nats of each picture
    ours = bits_per_number(*moments.chunk(2, dim=1))
    torch.testing.assert_close(ours, kl / (4 * 4 * 6) / math.log(2), rtol=1e-5, atol=1e-5)


def test_a_distribution_that_says_nothing_costs_nothing():
    torch.testing.assert_close(bits_per_number(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3)), torch.zeros(2))


@torch.no_grad()
def test_bytes_by_hand_are_the_pipeline_s(pipe):
    latents = torch.randn((2, 4, 8, 12), generator=torch.Generator().manual_seed(0))
    pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    theirs = np.stack([np.asarray(picture) for picture in pipe.image_processor.postprocess(pixels)])
    assert np.abs(to_bytes(pixels).numpy().astype(int) - theirs).max() <= 1  # one rounds x / 2 + 0.5, one x + 1
    beyond = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5]).expand(1, 3, 1, 5)
    assert to_bytes(beyond)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_forgetting_the_factor_shifts_the_signal_to_noise_ratio():
    alpha_bar = schedules.alpha_bar(schedules.betas())
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn((2, 200_000), generator=generator)
    s, t = 0.5, 500
    unscaled = x0 / s
    x_t = schedules.add_noise(unscaled[None], eps[None], t, alpha_bar)[0]
    noise = (1 - alpha_bar[t]).sqrt() * eps
    measured = float((x_t - noise).var() / noise.var())
    there = seems_like(t, alpha_bar, s)
    assert measured == pytest.approx(float(schedules.snr(alpha_bar)[there]), rel=0.02)
    assert there < t and seems_like(t, alpha_bar, 1.0) == t
