"""Lesson 04 by hand, held to the library, the training and the shipped model."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from helpers import schedules
from helpers.exercises.lesson_04 import best_sigma, downhill, seems_like
from helpers.model_folder import POCKET
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import SIDE, tiny_pipeline
from training.train_vae import VaeConfig, VaeLoss

LESSON = NOTEBOOKS / "04_vae_latent_decoding.ipynb"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def pixels():
    return torch.rand((2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    alpha_bar = pipe.scheduler.alphas_cumprod
    names = {"pipe": pipe, "vae": pipe.vae, "side": SIDE, "f": pipe.vae_scale_factor, "alpha_bar": alpha_bar}
    names = definitions(LESSON, **names) | {"candidates": torch.linspace(-1, 1, 256)}
    names["redraw"].__globals__.update(names, empty=names["vectors"]([""]))
    return names["redraw"].__globals__


@torch.no_grad()
def test_the_lesson_s_terms_add_up_to_the_loss_of_the_training(pipe, pixels, lesson):
    noise = torch.zeros((2, 4, SIDE // 2, SIDE // 2))  # the mean is decoded
    posterior = pipe.vae.encode(pixels).latent_dist
    terms = lesson["pixel_terms"](pixels, pipe.vae.decode(posterior.mean).sample)
    theirs = VaeLoss(pipe.vae, VaeConfig(mse_weight=8.0))(pixels, noise)
    ours = terms + 1e-6 * lesson["kl"](posterior.mean, posterior.std)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_lesson_s_weights_are_those_of_the_shipped_vae():
    record = json.loads((POCKET / "vae" / "training.json").read_text(encoding="utf-8"))
    settings = record.get("runs", [record])[0]["settings"]
    assert (settings["mse_weight"], settings["edge_weight"], settings["kl_weight"]) == (8.0, 1.0, 1e-6)


@torch.no_grad()
def test_redrawing_by_hand_is_diffusers_ddim(pipe, lesson):
    x0 = torch.randn((1, 4, SIDE // 2, SIDE // 2), generator=torch.Generator().manual_seed(0))
    words, alpha_bar = lesson["vectors"](["a fox"]), pipe.scheduler.alphas_cumprod
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
    redrawn = lesson["redraw"](x0, 101, words, eps, guidance=3.0)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True, clip_sample=False)
    scheduler.set_timesteps(20)
    x = schedules.add_noise(x0, eps, 101, alpha_bar)
    for t in (101, 51, 1):  # as many steps as the lesson takes
        without, told = (pipe.unet(x, t, text).sample for text in (lesson["empty"], words))
        x = scheduler.step(without + 3.0 * (told - without), t, x).prev_sample
    torch.testing.assert_close(redrawn, x, rtol=1e-3, atol=1e-3)


def test_halves_are_joined_left_beside_right(lesson):
    joined = lesson["join"](torch.zeros(2, 4, 3, 6), torch.ones(2, 4, 3, 6))
    assert joined.sum(dim=(0, 1, 2)).tolist() == [0, 0, 0, 24, 24, 24]


def test_the_best_guess_is_the_mean_for_squares_and_the_median_for_l1(lesson):
    pictures = torch.rand((7, 3, 4, 4), generator=torch.Generator().manual_seed(0)) * 2 - 1
    squared = lesson["best_guess"](pictures, lambda error: error**2)
    absolute = lesson["best_guess"](pictures, lambda error: error.abs())
    step = 2 / 255
    torch.testing.assert_close(squared, pictures.mean(dim=0), rtol=0, atol=step)
    torch.testing.assert_close(absolute, pictures.median(dim=0).values, rtol=0, atol=step)


@pytest.mark.parametrize(("c", "w"), [(1e-3, 1e-6), (0.3, 0.7)])
def test_no_other_sigma_makes_the_sum_smaller(c, w):
    def total(sigma):
        return c * sigma**2 + w / 2 * (sigma**2 - 1 - np.log(sigma**2))

    best = best_sigma(c, w)
    assert total(best) < min(total(0.99 * best), total(1.01 * best))


def test_without_pixel_terms_sigma_is_1():
    assert best_sigma(0.0, 1e-6) == 1.0


@pytest.fixture
def linear():
    """A decoder without a bend: 2 channels to 3, each place to 4 pixels."""
    weight = torch.randn((2, 3, 2, 2), generator=torch.Generator().manual_seed(0))
    return lambda z: torch.conv_transpose2d(z, weight, stride=2)


def test_a_step_downhill_is_the_gradient_by_hand(linear):
    z, wanted = (
        torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in [(1, 2, 3, 3), (1, 3, 6, 6)]
    )
    matrix = torch.stack([linear(unit.view_as(z)).flatten() for unit in torch.eye(z.numel())], dim=1)
    gradient = 2 / wanted.numel() * matrix.T @ (matrix @ z.flatten() - wanted.flatten())
    torch.testing.assert_close(downhill(linear, wanted, z, 0.5), z - 0.5 * gradient.view_as(z), rtol=1e-4, atol=1e-5)


def test_downhill_finds_a_latent_that_there_is_while_gradients_are_off(linear):
    hidden = torch.randn((1, 2, 3, 3), generator=torch.Generator().manual_seed(2))
    wanted, z = linear(hidden), torch.zeros_like(hidden)
    with torch.no_grad():
        for _ in range(300):
            z = downhill(linear, wanted, z, 4.0)
    assert not z.requires_grad
    torch.testing.assert_close(linear(z), wanted, rtol=0, atol=1e-2)


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
