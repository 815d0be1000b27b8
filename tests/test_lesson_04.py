"""Lesson 04 by hand, held to the library, the training and the shipped model."""

import io
import json
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from helpers import schedules
from helpers.exercises.lesson_04 import best_guess, bits_per_number, seems_like, to_bytes
from helpers.model_folder import POCKET
from helpers.scenes import Scene, Thing, draw
from tests.lessons import NOTEBOOKS, constants, definitions
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
    names = definitions(LESSON, **names) | constants(LESSON, "HEADERS")
    names["redraw"].__globals__.update(names, empty=names["vectors"]([""]))
    return names["redraw"].__globals__


@torch.no_grad()
def test_the_lesson_s_terms_add_up_to_the_loss_of_the_training(pipe, pixels, lesson):
    noise = torch.zeros((2, 4, SIDE // 2, SIDE // 2))  # the mean is decoded, as in the lesson
    posterior = pipe.vae.encode(pixels).latent_dist
    back = pipe.vae.decode(posterior.mean).sample
    terms = lesson["terms"](pixels, back, posterior.mean, posterior.logvar)
    assert list(terms) == ["L1", "8 squared", "edges", "KL"]
    theirs = VaeLoss(pipe.vae, VaeConfig(mse_weight=8.0))(pixels, noise)
    torch.testing.assert_close(sum(terms.values()), theirs, rtol=1e-5, atol=1e-6)


def test_the_lesson_s_weights_are_those_of_the_shipped_vae():
    record = json.loads((POCKET / "vae" / "training.json").read_text(encoding="utf-8"))
    settings = record.get("runs", [record])[0]["settings"]
    assert (settings["mse_weight"], settings["edge_weight"], settings["kl_weight"]) == (8.0, 1.0, 1e-6)


@torch.no_grad()
def test_redrawing_by_hand_is_diffusers_ddim(pipe, lesson):
    x0 = torch.randn((1, 4, SIDE // 2, SIDE // 2), generator=torch.Generator().manual_seed(0))
    words, alpha_bar = lesson["vectors"](["a fox"]), pipe.scheduler.alphas_cumprod
    looks = lesson["redraw"](x0, 101, words, guidance=3.0, seed=5)
    assert len(looks) == 3  # from 101, 51 and 1
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True, clip_sample=False)
    scheduler.set_timesteps(20)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
    x = schedules.add_noise(x0, eps, 101, alpha_bar)
    for t in (101, 51, 1):
        without, told = (pipe.unet(x, t, text).sample for text in (lesson["empty"], words))
        x = scheduler.step(without + 3.0 * (told - without), t, x).prev_sample
    torch.testing.assert_close(looks[-1], x, rtol=1e-3, atol=1e-3)


def test_halves_are_joined_left_beside_right(lesson):
    joined = lesson["join"](torch.zeros(2, 4, 3, 6), torch.ones(2, 4, 3, 6))
    assert joined.sum(dim=(0, 1, 2)).tolist() == [0, 0, 0, 24, 24, 24]


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_headers_leave_little_of_a_picture_of_one_colour(lesson, form):
    file = lesson["best_file"](Image.new("RGB", (128, 128), "orange"), form, 768)
    assert 0 < len(file) - lesson["HEADERS"][form](file) < 150
    assert Image.open(io.BytesIO(file)).size == (128, 128)


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_the_best_file_is_the_largest_that_fits(lesson, form):
    picture = draw(Scene((Thing("burger"),), ground="sunset"))
    small, large = (lesson["best_file"](picture, form, budget) for budget in (768, 1024))
    sizes = [len(file) - lesson["HEADERS"][form](file) for file in (small, large)]
    assert sizes[0] <= 768 < sizes[1] <= 1024


def test_the_best_guess_has_a_smaller_loss_than_its_neighbours():
    pictures = torch.randn((7, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    losses = {"squared": lambda g: (pictures - g).square().mean(), "absolute": lambda g: (pictures - g).abs().mean()}
    for name, loss in losses.items():
        guess = best_guess(pictures, name)
        other = best_guess(pictures, "absolute" if name == "squared" else "squared")
        assert loss(guess) < min(loss(other), loss(guess + 0.1), loss(guess - 0.1))


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
