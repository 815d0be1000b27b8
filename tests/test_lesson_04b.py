"""Lesson 04b by hand, held to the library."""

import pytest
import torch
from diffusers import DDIMScheduler

from helpers import schedules
from helpers.exercises.lesson_04b import of_many, seems_like
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import SIDE, tiny_pipeline

LESSON = NOTEBOOKS / "04b_between_two_pictures.ipynb"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    names = definitions(LESSON, pipe=pipe, side=SIDE, alpha_bar=pipe.scheduler.alphas_cumprod)
    names["redraw"].__globals__.update(names, empty=names["vectors"]([""]))
    return names["redraw"].__globals__


@pytest.mark.parametrize("scale", [1.0, 3.0])  # guidance off, and on
@torch.no_grad()
def test_redrawing_by_hand_is_diffusers_ddim(pipe, lesson, scale):
    x0 = torch.randn((1, 4, SIDE // 2, SIDE // 2), generator=torch.Generator().manual_seed(0))
    words, alpha_bar = lesson["vectors"](["a fox"]), pipe.scheduler.alphas_cumprod
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
    redrawn = lesson["redraw"](x0, 101, words, eps, guidance=scale)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True, clip_sample=False)
    scheduler.set_timesteps(20)
    x = schedules.add_noise(x0, eps, 101, alpha_bar)
    for t in (101, 51, 1):  # as many steps as the lesson takes
        without, told = (pipe.unet(x, t, text).sample for text in (lesson["empty"], words))
        x = scheduler.step(without + scale * (told - without), t, x).prev_sample
    torch.testing.assert_close(redrawn, x, rtol=1e-3, atol=1e-3)


def test_halves_are_joined_left_beside_right(lesson):
    joined = lesson["join"](torch.zeros(2, 4, 3, 6), torch.ones(2, 4, 3, 6))
    assert joined.sum(dim=(0, 1, 2)).tolist() == [0, 0, 0, 24, 24, 24]


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


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_between_two_noises_the_variance_stays_and_the_share_is_the_other_s(lesson, share):
    one, other = torch.randn((2, 200_000), generator=torch.Generator().manual_seed(0))
    mixed = lesson["between"](one, other, share)
    assert float(mixed.var()) == pytest.approx(1, abs=0.02)
    assert float((mixed * other).mean()) == pytest.approx(share**0.5, abs=0.02)


def test_one_noise_of_many_has_variance_1_and_keeps_their_weights():
    noises = torch.randn((3, 1, 400, 500), generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([1.0, 2.0, 3.0])
    mixed = of_many(noises, weights)
    assert mixed.shape == (1, 1, 400, 500)
    assert float(mixed.var()) == pytest.approx(1, abs=0.02)
    measured = (mixed * noises).mean(dim=(1, 2, 3))
    torch.testing.assert_close(measured, weights / weights.norm(), atol=0.02, rtol=0)
