"""What lesson 01 does by hand, held to the helpers, to the library and to what statistics say of it."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from helpers import sampling, schedules
from helpers.palette import ROLES
from tests.lessons import NOTEBOOKS, definitions

LESSON = NOTEBOOKS / "01_forward_noising.ipynb"
ALPHA_BAR = schedules.alpha_bar(schedules.betas())


@pytest.fixture(scope="module")
def lesson():
    x0 = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(5)) * 2 - 1
    return definitions(LESSON, alpha_bar=ALPHA_BAR, x0=x0, VALUE=0.8, NOISES=400)


def test_noise_steps_and_jumps_are_those_of_the_helpers_and_the_library(lesson):
    x0 = lesson["x0"]
    eps = lesson["normal"](2, 7, x0)
    assert torch.equal(eps, sampling.normal(2, 7, x0))
    assert_close(lesson["one_step"](x0, 0.3, eps), math.sqrt(0.7) * x0 + math.sqrt(0.3) * eps)  # DDPM, equation 2
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    for t in (0, 354, 999):
        by_hand = lesson["add_noise"](x0, eps, t)
        assert_close(by_hand, schedules.add_noise(x0, eps, t, ALPHA_BAR))
        assert_close(by_hand, scheduler.add_noise(x0, eps, torch.tensor([t])), rtol=1e-5, atol=1e-5)


def test_a_picture_as_numbers_runs_from_black_to_white(lesson):
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[0, 1] = 255, 0, 127
    x = lesson["numbers"](picture)
    assert x.shape == (1, 3, 4, 6)
    assert x[0, :, 0, 1].tolist() == pytest.approx([1, -1, 127 / 127.5 - 1])


def test_a_blur_keeps_a_plain_picture_and_the_mean_and_averages_noise_as_a_gaussian_does(lesson):
    blurred = lesson["blurred"]
    plain = torch.full((1, 3, 40, 40), 1.7)  # beyond white: nothing is cut off
    assert_close(blurred(plain, 3), plain)
    noise = lesson["normal"](1, 1, torch.empty(1, 3, 400, 400))
    expected = 1 / (2 * math.sqrt(math.pi) * 2)  # of a Gaussian of radius 2 in two dimensions
    assert blurred(noise, 2).std().item() == pytest.approx(expected, rel=0.02)
    noisy = lesson["x0"] + lesson["normal"](1, 2, lesson["x0"])
    errors = [lesson["error"](blurred(noisy, radius)) for radius in range(1, 21)]
    assert lesson["error"](lesson["best_blur"](noisy)) == min(errors)
    assert lesson["error"](lesson["x0"] + 0.2) == pytest.approx(0.2, abs=1e-6)


def test_on_the_way_back_the_error_of_the_picture_is_a_multiple_of_that_of_the_answer(lesson):
    x0, t = lesson["x0"], 499
    eps = lesson["normal"](1, 7, x0)
    x_t = lesson["add_noise"](x0, eps, t)
    assert_close(lesson["way_back"](x_t, eps, t), x0, rtol=0, atol=1e-5)
    wrong = lesson["normal"](1, 8, x0)
    times = math.sqrt((1 - ALPHA_BAR[t]) / ALPHA_BAR[t])
    assert_close((lesson["way_back"](x_t, wrong, t) - x0).std(), times * (eps - wrong).std(), rtol=1e-4, atol=0)


def test_the_bell_stands_where_the_values_are(lesson):
    ink = [int(ROLES["x_t"].ink[at : at + 2], 16) for at in (1, 3, 5)]

    def columns(values):
        picture = np.asarray(lesson["bell"](values)).astype(int)
        assert picture.shape == (256, 256, 3)
        return (abs(picture - ink).max(axis=2) < 40).any(axis=0).nonzero()[0]

    left, middle, right = (columns(torch.full((100,), value)).mean() for value in (-2.05, -0.05, 1.95))
    assert left < middle < right
    assert middle == pytest.approx((left + right) / 2, abs=1)
    spread = columns(torch.linspace(-2, 2, 4000))
    assert np.ptp(spread) == pytest.approx(right - left, abs=4)


def test_white_and_black_are_told_apart_by_what_is_left_of_them_and_not_without(lesson):
    pair = {"white": torch.full((1, 4, 16, 16), 0.6), "black": torch.full((1, 4, 16, 16), -0.5)}
    gap = ALPHA_BAR[999].sqrt() * 1.1 / 2 * 32  # half of what is between the means, in standard deviations of a mean
    expected = torch.special.ndtr(gap).item()
    means, right = lesson["ends"](pair, ALPHA_BAR)
    assert len(means["white"]) == len(means["black"]) == 400
    assert right == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 800))
    nothing = ALPHA_BAR.clone()
    nothing[999] = 0
    assert lesson["ends"](pair, nothing)[1] == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 800))
