"""What lesson 02b computes by hand: the solutions of its exercises, and its own functions."""

import math

import pytest
import torch
from torch.testing import assert_close

from helpers import sampling
from helpers.exercises.lesson_02 import loop
from helpers.exercises.lesson_02b import perfect, two_bells
from helpers.schedules import add_noise, alpha_bar, betas
from tests.lessons import NOTEBOOKS, constants, definitions
from tests.pipelines.tiny import randn, tiny_pipeline
from tests.test_lesson_02 import pairs_of_timesteps

LESSON = NOTEBOOKS / "02b_inside_a_run.ipynb"
ALPHA_BAR = alpha_bar(betas())
SHAPE = (2, 4, 4, 4)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    return definitions(LESSON, pipe=pipe, alpha_bar=pipe.scheduler.alphas_cumprod)


# The exercises


def test_two_bells_give_equation_11_and_the_variance_of_equation_7():
    x, eps, z = (randn(*SHAPE, seed=seed) for seed in range(3))
    for t, t_next, a, a_next in pairs_of_timesteps():
        mean, variance = two_bells(x, sampling.predict_x0(x, eps, t, ALPHA_BAR), a, a_next)
        theirs = sampling.ddpm_step(x, eps, t, t_next, ALPHA_BAR, z)
        assert_close(mean + math.sqrt(variance) * z, theirs, rtol=1e-3, atol=1e-4)


def fits(x_t, truths, a):
    """How likely each of the truths is under x_t, by torch's normal densities, if all are equally likely before."""
    densities = torch.distributions.Normal(a**0.5 * truths, (1 - a) ** 0.5).log_prob(x_t)
    return densities.flatten(1).sum(dim=1).softmax(dim=0)


def test_the_perfect_network_follows_from_the_slope_of_the_density():
    """Tweedie: the best predicted noise is - sqrt(1 - a) times the gradient of the log density of x_t."""
    truths, counts = randn(6, 4, 3, 3).double(), torch.tensor([1.0, 1.0, 3.0, 50.0, 2.0, 1.0]).double()
    for a in (0.02, 0.4, 0.9):
        x_t = (a**0.5 * truths[:1] + (1 - a) ** 0.5 * randn(1, 4, 3, 3, seed=1)).requires_grad_()
        squares = (x_t - a**0.5 * truths).flatten(1).square().sum(dim=1)
        (slope,) = torch.autograd.grad((counts.log() - squares / (2 * (1 - a))).logsumexp(dim=0), x_t)
        x_t = x_t.detach()
        assert_close(perfect(x_t, truths, fits(x_t, truths, a), counts, a), -((1 - a) ** 0.5) * slope)


def test_a_picture_that_stands_twice_is_two_pictures():
    truths, x_t, counts = randn(3, 4, 3, 3), randn(1, 4, 3, 3, seed=1), torch.tensor([1.0, 2.0, 1.0])
    twice = truths[[0, 1, 1, 2]]
    once = perfect(x_t, twice, fits(x_t, twice, 0.3), torch.ones(4), 0.3)
    assert_close(perfect(x_t, truths, fits(x_t, truths, 0.3), counts, 0.3), once)


@torch.no_grad()
def test_the_perfect_network_is_as_sure_in_half_precision(lesson):
    """With the lesson's `likely`: a sum of so many squares would be rounded to 8 or 16."""
    truths, counts = randn(4, 4, 64, 64).half(), torch.ones(4).half()
    truths[1] = truths[0]
    truths[1, 0, 0, 0] += 2  # two that differ in one number
    x_t = add_noise(truths[:1].float(), randn(1, 4, 64, 64, seed=1), 300, ALPHA_BAR).half()
    a = float(ALPHA_BAR[300])
    exact = perfect(x_t.float(), truths.float(), fits(x_t.float(), truths.float(), a), counts.float(), a)
    lesson |= {"alpha_bar": ALPHA_BAR, "truths": truths}
    assert_close(perfect(x_t, truths, lesson["likely"](x_t, 300), counts, a).float(), exact, rtol=0, atol=0.05)


@torch.no_grad()
def test_the_chances_of_scenes_are_those_of_normal_densities(lesson):
    lesson["truths"] = truths = randn(5, 4, 3, 3)
    for t in (999, 700, 400):
        x_t = add_noise(truths[:1], randn(1, 4, 3, 3, seed=1), t, ALPHA_BAR)
        assert_close(lesson["likely"](x_t, t), fits(x_t, truths, float(ALPHA_BAR[t])), rtol=1e-4, atol=1e-5)


# The functions that the lesson itself writes


def test_the_timesteps_are_those_of_lesson_02():
    assert constants(LESSON, "falling")["falling"] == definitions(NOTEBOOKS / "02_denoising_loop.ipynb")["evenly"](25)


@torch.no_grad()
def test_the_loop_takes_the_steps_of_the_helpers(lesson):
    lesson["alpha_bar"] = ALPHA_BAR
    start, times = randn(*SHAPE), [700, 300, 20]

    def network(x, t):
        return x.tanh() + t / 1000

    x, seen = start, []
    for t, t_next in zip(times, [300, 20, 0], strict=True):
        seen.append(sampling.predict_x0(x, network(x, t), t, ALPHA_BAR))
        x = sampling.ddim_step(x, network(x, t), t, t_next, ALPHA_BAR)
    looks, end = lesson["denoise"](start, times, network)
    assert_close(end, x)
    assert_close(looks, torch.stack(seen))
    thrown = [lesson["denoise"](start, times, network, dice=dice)[1] for dice in (1, 1, 2)]
    assert torch.equal(thrown[0], thrown[1])
    assert not torch.allclose(thrown[0], thrown[2], atol=1e-2)


@torch.no_grad()
def test_the_loop_throws_the_dice_of_lesson_02(lesson, pipe):
    words, _ = pipe.encode_prompt("a fox", "cpu", 1, do_classifier_free_guidance=False)
    lesson["words"] = words
    first = definitions(NOTEBOOKS / "02_denoising_loop.ipynb", pipe=pipe, alpha_bar=lesson["alpha_bar"])
    side = pipe.unet.config.sample_size
    start, times = randn(1, 4, side, side), [961, 481, 1]
    dice = first["with_dice"](first["ddpm"], 2)
    theirs = loop(start, times, lesson["plain"], lesson["alpha_bar"], dice)
    assert_close(lesson["denoise"](start, times, lesson["plain"], dice=2)[1], theirs, rtol=1e-3, atol=1e-3)


def test_the_two_means_lean_by_one_to_either_side(lesson):
    lesson["to_right"], lesson["to_left"] = to_right, to_left = randn(2, 4, 3, 3)
    leans = lesson["lean"](torch.stack([to_right, to_left, (to_right + to_left) / 2]))
    assert_close(leans, torch.tensor([1.0, -1.0, 0.0]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_step_to_the_same_timestep_gives_the_latent_back(lesson):
    """So with one t for the network and the formula all looks are the same, and the end is that look."""
    lesson["alpha_bar"] = ALPHA_BAR
    start = randn(*SHAPE)
    looks, end = lesson["denoise"](start, [500] * 5, lambda x, t: x.tanh() + t / 1000)
    for look in looks[1:]:
        assert_close(look, looks[0], rtol=1e-4, atol=1e-4)
    eps = start.tanh() + 0.5
    assert_close(end, add_noise(looks[0], eps, 0, ALPHA_BAR), rtol=1e-4, atol=1e-4)


def test_scenes_are_counted_until_they_hold_90_per_cent(lesson):
    assert lesson["possible"](torch.tensor([0.15, 0.5, 0.05, 0.3])) == 3
    assert lesson["possible"](torch.tensor([0.01, 0.95, 0.04])) == 1


@torch.no_grad()
def test_the_perfect_network_draws_what_is_in_its_data(lesson):
    """From noise the lesson's loop ends at one of the pictures with it, and at none that does not stand in the data."""
    lesson |= {"alpha_bar": ALPHA_BAR, "best": perfect, "truths": 2 * randn(3, *SHAPE[1:], seed=3)}
    falling = constants(LESSON, "falling")["falling"]
    starts = randn(20, *SHAPE[1:])
    for counts, allowed in (([1.0, 1.0, 1.0], {0, 1, 2}), ([1.0, 0.0, 1.0], {0, 2})):
        _, ends = lesson["denoise"](starts, falling, lesson["perfect_network"](torch.tensor(counts)))
        nearest, apart = lesson["nearest_to"](ends)
        assert set(nearest.tolist()) == allowed
        assert apart.max() < 0.01
