"""What lesson 01 does by hand, held to the helpers, to the library and to what statistics say of it."""

import math

import nbformat
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from helpers import sampling, schedules
from helpers.exercises import lesson_01
from tests.lessons import NOTEBOOKS, definitions

LESSON = NOTEBOOKS / "01_forward_noising.ipynb"
ALPHA_BAR = schedules.alpha_bar(schedules.betas())


@pytest.fixture(scope="module")
def lesson():
    x0 = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(5)) * 2 - 1
    colours = {"INK": [1, 2, 3], "CARD": [4, 5, 6], "GREY": [7, 8, 9], "LIGHT": [10, 11, 12]}
    space = {
        "alpha_bar": ALPHA_BAR,
        "x0": x0,
        "VALUE": 0.8,
        "SEEN": 0.3,
        **{name: torch.tensor(colour) for name, colour in colours.items()},
    }
    return definitions(LESSON, **space)


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


def test_six_decibels_more_are_half_the_error(lesson):
    x0 = lesson["x0"]
    assert lesson["decibels"](x0 + 0.1) - lesson["decibels"](x0 + 0.2) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert lesson["decibels"](x0 + 2) == pytest.approx(0, abs=1e-4)  # as wrong as black for white


def test_averaging_raises_the_ratio_by_the_count_where_numbers_are_equal(lesson):
    snr, shrink = lesson["snr"], lesson["shrink"]
    noise = lesson["normal"](1, 3, torch.empty(1, 3, 256, 256))
    assert snr(noise, 354) == pytest.approx(1, abs=0.02)  # of variance 1, where the factors cross
    blocks = torch.nn.functional.interpolate(noise[..., :32, :32], scale_factor=8, mode="nearest")
    assert_close(shrink(blocks), noise[..., :32, :32])
    assert snr(blocks, 600, size=8) == pytest.approx(64 * snr(blocks, 600), rel=0.01)
    # Noise has no equal neighbours: averaging takes as much of it as of other noise.
    assert snr(noise, 600, size=8) == pytest.approx(snr(noise, 600), rel=0.15)
    # And the law that it counts with: the mean of 64 noises has a 64th of their variance.
    assert shrink(noise).var().item() == pytest.approx(1 / 64, rel=0.1)


def test_a_picture_twice_as_wide_is_as_noisy_where_its_schedule_has_a_quarter_of_the_ratio():
    ratio = ALPHA_BAR / (1 - ALPHA_BAR)
    for t in (100, 300, 600):
        later = lesson_01.same_noise(t, ALPHA_BAR, ALPHA_BAR, 2)
        assert later > t
        assert (ratio[later] / ratio[t]).item() == pytest.approx(1 / 4, rel=0.01)
    assert lesson_01.same_noise(600, ALPHA_BAR, ALPHA_BAR, 1) == 600


def test_the_mean_before_a_step_follows_from_the_mean_noise(lesson):
    """Held to Bayes' rule, summed over a fine grid: for every step, small or large."""
    grid = torch.linspace(-6, 6, 24_001, dtype=torch.float64)
    bell_at = lesson["bell_at"]
    for before, beta, seen in ((0.9, 0.01, 0.3), (0.9, 0.9, 0.3), (0.3, 0.2, -1.1), (0.01, 0.05, 2.0)):
        often = sum(bell_at(grid, sign * math.sqrt(before), 1 - before) for sign in (-1, 1))
        likely = often * bell_at(seen, math.sqrt(1 - beta) * grid, beta)
        bar = torch.tensor(before * (1 - beta), dtype=torch.float64)
        mean = lesson["mean_before"](torch.tensor(seen, dtype=torch.float64), bar, beta)
        assert mean.item() == pytest.approx(((likely * grid).sum() / likely.sum()).item(), abs=1e-6)


def test_the_heaps_before_a_step_have_the_mean_that_follows_from_the_mean_noise(lesson):
    grid = torch.linspace(-6, 6, 24_001)
    for before, beta in ((0.9, 0.01), (0.9, 0.9), (0.05, 0.9)):
        shares = lesson["before_step"](grid, before, beta)
        assert shares.sum().item() == pytest.approx(1, abs=1e-4)
        mean = lesson["mean_before"](torch.tensor(0.3), torch.tensor(before * (1 - beta)), beta)
        assert (shares * grid).sum().item() == pytest.approx(mean.item(), abs=1e-3)


def test_small_bells_find_black_and_white_and_one_big_bell_draws_grey_or_noise(lesson):
    ends = lesson["way_back"](schedules.betas(), 1000)
    assert ends.shape == (1001, 1000)
    assert torch.equal(ends[0], lesson["normal"](1000, 0, torch.zeros(1)))
    assert ((ends[-1].abs() - 1).abs() < 0.01).all()  # no noise in the last step
    assert (ends[-1] > 0).float().mean().item() == pytest.approx(0.5, abs=0.06)
    one_big = 1 - ALPHA_BAR[999:]
    assert (lesson["way_back"](one_big)[-1].abs() < 0.3).all()
    noisy = lesson["way_back"](one_big, noise_at_end=True)[-1]
    assert noisy.mean().item() == pytest.approx(0, abs=0.06)
    assert noisy.std().item() == pytest.approx(1, abs=0.05)
    assert ((noisy.abs() - 1).abs() < 0.1).float().mean() < 0.15


def test_fewer_steps_leave_what_all_steps_leave():
    for every in (1, 10, 50, 1000):
        betas = lesson_01.fewer_steps(ALPHA_BAR, every)
        assert len(betas) == 1000 // every
        assert_close(torch.cumprod(1 - betas, dim=0), ALPHA_BAR[every - 1 :: every], rtol=1e-3, atol=0)
    assert_close(lesson_01.fewer_steps(ALPHA_BAR, 1), schedules.betas().float(), rtol=1e-3, atol=0)


def test_the_bell_is_a_histogram_of_densities(lesson):
    picture = lesson["bell"](torch.linspace(-4, 4, 9600))
    assert picture.shape == (120, 120, 3)
    filled = (picture[:113] == [1, 2, 3]).all(axis=2)  # below lies the axis
    away = (filled | (picture[:113] == [4, 5, 6]).all(axis=2)).all(axis=0)  # columns without the grey curve
    assert away.any()
    assert (filled[:, away].sum(axis=0) == 9).all()  # 1/8 everywhere, in rows of 1.5/113: 9.4
    spike = (lesson["bell"](torch.full((100,), 0.8)) == [1, 2, 3]).all(axis=2)
    assert (spike.sum(axis=0) > 0).sum() == 1
    assert spike[0, 72]
    axis = (picture[113:] == [7, 8, 9]).all(axis=2)
    assert axis[1].all()
    assert axis[2:].all(axis=0).nonzero()[0].tolist() == [60, 72]


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


def test_a_thousand_bells_with_a_straight_line_draw_one_bell(lesson):
    ends = lesson["way_back"](schedules.betas(), 2000, guess=lesson["straight"])[-1]
    assert ends.std().item() == pytest.approx(1, abs=0.06)
    assert (ends.abs() < 0.3).float().mean().item() == pytest.approx(0.236, abs=0.03)  # of a standard normal


def test_every_exercise_has_its_numbered_task_before_its_cells():
    task = ""
    number = 0
    for cell in nbformat.read(LESSON, 4).cells:
        if cell.cell_type == "markdown":
            task += cell.source
        elif "exercises.check(" in cell.source:
            number += 1
            name = cell.source.split('"')[1]
            assert f"\n**{number}. " in task, name
            assert f'`exercises.hint("{name}")`' in task, name
            task = ""
    assert number == len(lesson_01.EXERCISES)
