"""What lesson 01b does by hand, held to the helpers and to what statistics say of it."""

import math

import pytest
import torch
from torch.testing import assert_close

from helpers import sampling, schedules
from helpers.exercises import lesson_01b
from tests.lessons import NOTEBOOKS, definitions

LESSON = NOTEBOOKS / "01b_small_steps.ipynb"
ALPHA_BAR = schedules.alpha_bar(schedules.betas())


@pytest.fixture(scope="module")
def lesson():
    return definitions(LESSON, alpha_bar=ALPHA_BAR, SEEN=0.3)


def test_averaging_noise_raises_the_ratio_by_the_count_of_the_averaged(lesson):
    snr, shrink = lesson["snr"], lesson["shrink"]
    noises = sampling.normal(100, 3, torch.empty(1, 3, 128, 128))
    picture = sampling.normal(1, 4, torch.empty(1, 3, 16, 16))
    small = schedules.add_noise(picture, noises[..., :16, :16], 600, ALPHA_BAR)
    assert snr(small, picture, 600) == pytest.approx(
        (picture.var() * ALPHA_BAR[600] / (1 - ALPHA_BAR[600])).item(), rel=0.02
    )
    blocks = torch.nn.functional.interpolate(picture, scale_factor=8, mode="nearest")
    assert_close(shrink(blocks), picture)
    large = shrink(schedules.add_noise(blocks, noises, 600, ALPHA_BAR))
    assert snr(large, picture, 600) == pytest.approx(64 * snr(small, picture, 600), rel=0.03)
    # The law behind it: the mean of 64 noises has a 64th of their variance.
    assert shrink(noises).var().item() == pytest.approx(1 / 64, rel=0.02)


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


def test_small_steps_find_black_and_white_and_one_big_step_gives_its_mean_grey(lesson):
    ends = lesson["walk_back"](schedules.betas(), 1000)
    assert ends.shape == (1001, 1000)
    assert torch.equal(ends[0], sampling.normal(1000, 0, torch.zeros(1)))
    assert ((ends[-1].abs() - 1).abs() < 0.01).all()  # no noise in the last step
    assert (ends[-1] > 0).float().mean().item() == pytest.approx(0.5, abs=0.06)
    one_big = 1 - ALPHA_BAR[999:]
    noise, grey = lesson["walk_back"](one_big)
    assert torch.equal(grey, lesson["mean_before"](noise, 1 - one_big[0], one_big.item()))  # nothing is drawn
    assert (grey.abs() < 0.3).all()
    assert (lesson["sharp"](ends[-1]), lesson["sharp"](grey)) == (1, 0)


def test_the_big_step_that_draws_from_its_bell_ends_in_one_broad_heap(lesson):
    end = lesson["walk_back"](1 - ALPHA_BAR[999:], 4000, draw_last=True)[-1]
    assert end.std().item() == pytest.approx(1, abs=0.05)
    assert lesson["sharp"](end) == pytest.approx(0.097, abs=0.02)  # of a standard normal


@pytest.mark.parametrize(("steps", "share"), [(2, 0.041), (4, 0.670), (10, 0.993), (20, 1)])
def test_exact_draws_before_the_last_step_leave_what_the_way_there_leaves(lesson, steps, share):
    """Held to pixels that are noised to the last step's place and then taken back by it."""
    beta = lesson_01b.fewer_steps(ALPHA_BAR, 1000 // steps)[0]
    pixels = torch.tensor([-1.0, 1.0]).repeat(20_000)
    noisy = (1 - beta).sqrt() * pixels + beta.sqrt() * sampling.normal(40_000, 3, torch.zeros(1)).flatten()
    ends = lesson["mean_before"](noisy, 1 - beta, beta.item())
    assert lesson["if_exact"](beta) == pytest.approx(lesson["sharp"](ends), abs=0.01)
    assert lesson["if_exact"](beta) == pytest.approx(share, abs=1e-3)


def test_the_mean_noise_just_above_grey_changes_its_sign_where_the_density_forks(lesson):
    fork = int((ALPHA_BAR - 0.5).abs().argmin())
    assert fork == 354
    x, grid = torch.tensor(0.1), torch.linspace(-0.5, 0.5, 1001)
    for t in (450, 250):
        bar = ALPHA_BAR[t]
        often = sum(lesson["bell_at"](grid, sign * bar.sqrt(), 1 - bar) for sign in (-1, 1))
        assert (often.argmax() == 500) == (t > fork)  # one top, at grey
        assert (lesson["mean_noise"](x, bar) > 0) == (t > fork)
        assert lesson["straight"](x, bar) > 0
    assert lesson["mean_noise"](x, ALPHA_BAR[fork]).item() == pytest.approx(0, abs=2e-3)


def test_fewer_steps_leave_what_all_steps_leave():
    for every in (1, 10, 50, 1000):
        betas = lesson_01b.fewer_steps(ALPHA_BAR, every)
        assert len(betas) == 1000 // every
        assert_close(torch.cumprod(1 - betas, dim=0), ALPHA_BAR[every - 1 :: every], rtol=1e-3, atol=0)
    assert_close(lesson_01b.fewer_steps(ALPHA_BAR, 1), schedules.betas().float(), rtol=1e-3, atol=0)


def test_a_thousand_bells_with_a_straight_line_draw_one_bell(lesson):
    ends = lesson["walk_back"](schedules.betas(), 2000, guess=lesson["straight"])[-1]
    assert ends.std().item() == pytest.approx(1, abs=0.06)
    assert (ends.abs() < 0.3).float().mean().item() == pytest.approx(0.236, abs=0.03)  # of a standard normal
