"""What lesson 02 computes by hand is what diffusers computes: the solutions of its exercises, and its own functions."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.testing import assert_close

from helpers import sampling
from helpers.exercises.lesson_02 import dice_at, loop, perfect, two_bells
from helpers.schedules import add_noise, alpha_bar, betas
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import tiny_pipeline

LESSON = NOTEBOOKS / "02_denoising_loop.ipynb"
ALPHA_BAR = alpha_bar(betas())
SHAPE = (2, 4, 4, 4)
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    return definitions(LESSON, pipe=pipe, alpha_bar=pipe.scheduler.alphas_cumprod, own_loop=loop)


# The exercises


def pairs_of_timesteps(steps=25):
    """(t, t_next, alpha_bar at both) of a run."""
    times = [1 + 1000 // steps * i for i in reversed(range(steps))]
    for t, t_next in itertools.pairwise(times):
        yield t, t_next, float(ALPHA_BAR[t]), float(ALPHA_BAR[t_next])


def test_the_loop_is_the_librarys():
    """With a network that is a formula, so that nothing but the loop is compared."""
    x = normal(*SHAPE)
    for steps in (1, 4, 25):
        ddim = DDIMScheduler(**SCHEDULE, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=1)
        ddim.set_timesteps(steps)
        theirs = x
        for t in ddim.timesteps:
            theirs = ddim.step(theirs.tanh() + t / 1000, t, theirs).prev_sample
        ours = loop(x, ddim.timesteps.tolist(), lambda x, t: x.tanh() + t / 1000, ALPHA_BAR)
        assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_two_bells_give_equation_11_and_the_variance_of_equation_7():
    x, eps, z = (normal(*SHAPE, seed=seed) for seed in range(3))
    for t, t_next, a, a_next in pairs_of_timesteps():
        mean, variance = two_bells(x, sampling.predict_x0(x, eps, t, ALPHA_BAR), a, a_next)
        theirs = sampling.ddpm_step(x, eps, t, t_next, ALPHA_BAR, z)
        assert_close(mean + math.sqrt(variance) * z, theirs, rtol=1e-3, atol=1e-4)


def test_dice_fall_in_their_places_only(lesson):
    x0, eps, z = (normal(*SHAPE, seed=seed) for seed in range(3))
    places = torch.zeros(4, 4)
    places[:, 2:] = 1
    for _, _, a, a_next in pairs_of_timesteps():
        step = dice_at(x0, eps, a, a_next, places, z)
        assert_close(step[..., :2], lesson["ddim"](x0, eps, a, a_next, z)[..., :2])
        assert_close(step[..., 2:], lesson["ddpm"](x0, eps, a, a_next, z)[..., 2:])


def test_the_perfect_network_follows_from_the_slope_of_the_density():
    """Tweedie: the mean of sqrt(a) x0 given x_t is x_t + (1 - a) times the gradient of the log density of x_t."""
    truths, counts = normal(6, 4, 3, 3).double(), torch.tensor([1.0, 1.0, 3.0, 50.0, 2.0, 1.0]).double()
    for a in (0.02, 0.4, 0.9):
        x_t = (a**0.5 * truths[:1] + (1 - a) ** 0.5 * normal(1, 4, 3, 3, seed=1)).requires_grad_()
        squares = (x_t - a**0.5 * truths).flatten(1).square().sum(dim=1)
        (slope,) = torch.autograd.grad((counts.log() - squares / (2 * (1 - a))).logsumexp(dim=0), x_t)
        x_t = x_t.detach()
        assert_close(perfect(x_t, truths, counts, a), (x_t + (1 - a) * slope) / a**0.5)


def test_a_picture_that_stands_twice_is_two_pictures():
    truths, x_t, counts = normal(3, 4, 3, 3), normal(1, 4, 3, 3, seed=1), torch.tensor([1.0, 2.0, 1.0])
    twice = truths[[0, 1, 1, 2]]
    assert_close(perfect(x_t, truths, counts, 0.3), perfect(x_t, twice, torch.ones(4), 0.3))


def test_the_perfect_network_is_as_sure_in_half_precision():
    truths, counts = normal(4, 4, 64, 64).half(), torch.ones(4).half()
    truths[1] = truths[0]
    truths[1, 0, 0, 0] += 2  # two that differ in one number
    x_t = add_noise(truths[:1].float(), normal(1, 4, 64, 64, seed=1), 300, ALPHA_BAR).half()
    a = float(ALPHA_BAR[300])
    exact = perfect(x_t.float(), truths.float(), counts.float(), a)
    assert_close(perfect(x_t, truths, counts, a).float(), exact, rtol=0, atol=0.05)


@torch.no_grad()
def test_the_chances_of_scenes_are_the_weights_of_the_perfect_network(lesson):
    """What the lesson computes for equally likely scenes is what its third exercise weighs the mean with."""
    lesson["truths"] = truths = normal(5, 4, 3, 3)
    x_t = add_noise(truths[:1], normal(1, 4, 3, 3, seed=1), 700, ALPHA_BAR)
    chances = lesson["likely"](x_t, 700)
    assert_close(chances.sum(), torch.tensor(1.0))
    mean = (chances[:, None, None, None] * truths).sum(dim=0, keepdim=True)
    assert_close(mean, perfect(x_t, truths, torch.ones(5), float(ALPHA_BAR[700])), rtol=1e-4, atol=1e-5)


def test_the_two_means_lean_by_one_to_either_side(lesson):
    lesson["to_right"], lesson["to_left"] = to_right, to_left = normal(2, 4, 3, 3)
    leans = lesson["lean"](torch.stack([to_right, to_left, (to_right + to_left) / 2]))
    assert_close(leans, torch.tensor([1.0, -1.0, 0.0]), rtol=0, atol=1e-5)


# The functions that the lesson itself writes


def test_the_estimate_is_the_schedulers_at_every_timestep(lesson):
    x_t, eps = normal(*SHAPE), normal(*SHAPE, seed=1)
    scheduler = DDIMScheduler.from_config(lesson["pipe"].scheduler.config, clip_sample=False)
    scheduler.set_timesteps(1000 // 4)
    for t in scheduler.timesteps.tolist():
        theirs = scheduler.step(eps, t, x_t).pred_original_sample
        assert_close(lesson["estimate"](x_t, eps, t, ALPHA_BAR), theirs, rtol=1e-5, atol=1e-4)


def test_the_timesteps_are_the_librarys(lesson):
    scheduler = DDIMScheduler(**SCHEDULE, timestep_spacing="leading", steps_offset=1)
    for steps in (4, 10, 25, 50):
        scheduler.set_timesteps(steps)
        assert lesson["evenly"](steps) == scheduler.timesteps.tolist()


@torch.no_grad()
def test_the_loop_draws_what_the_library_draws(lesson, pipe):
    words, empty = pipe.encode_prompt("a fox", "cpu", 1, do_classifier_free_guidance=True)
    side = pipe.unet.config.sample_size
    start = normal(2, 4, side, side)
    ddim = DDIMScheduler(**SCHEDULE, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=1)
    run = sampling.run(pipe, ["a fox"] * 2, steps=5, guidance=3.0, latents=start, sampler=ddim)
    ours = lesson["denoise"](pipe, start, lesson["evenly"](5), words, empty, guidance=3.0)
    assert_close(ours, run.latents, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_network_that_is_told_one_timestep_is_called_with_it(lesson, pipe):
    words, _ = pipe.encode_prompt("a fox", "cpu", 1, do_classifier_free_guidance=True)
    side = pipe.unet.config.sample_size
    x = normal(1, 4, side, side)
    told = lesson["always"](500)(pipe, x, 20, words)
    assert torch.equal(told, sampling.predict(pipe, x, 500, words))
    assert not torch.allclose(told, sampling.predict(pipe, x, 20, words), atol=1e-6)


def test_the_three_steps_are_the_librarys(lesson):
    x, eps = normal(*SHAPE), normal(*SHAPE, seed=1)
    for kind, name in (("fixed_small", "ddpm"), ("fixed_large", "ddpm_wide")):
        ddpm = DDPMScheduler(**SCHEDULE, variance_type=kind, timestep_spacing="leading", steps_offset=1)
        ddpm.set_timesteps(25)
        for t, t_next, a, a_next in pairs_of_timesteps():
            x0 = lesson["estimate"](x, eps, t, ALPHA_BAR)
            z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
            theirs = ddpm.step(eps, t, x, generator=torch.Generator().manual_seed(7)).prev_sample
            assert_close(lesson[name](x0, eps, a, a_next, z), theirs, rtol=1e-3, atol=1e-4)
            without = lesson["ddim"](x0, eps, a, a_next, z)
            assert_close(without, sampling.ddim_step(x, eps, t, t_next, ALPHA_BAR))


@pytest.mark.parametrize(("world", "pictures"), [("normal_numbers", 1.0), ("one_picture", 0.0)])
@pytest.mark.parametrize("name", ["ddim", "ddpm", "ddpm_wide"])
def test_the_spread_of_what_is_drawn_is_that_of_numbers_that_are_drawn(lesson, name, world, pictures):
    lesson["alpha_bar"] = ALPHA_BAR
    step, best = lesson[name], lesson[world]
    spread, of_start = lesson["spread"](10, step, best, pictures)
    times = lesson["evenly"](10)
    first, right = (math.sqrt(float(ALPHA_BAR[t]) * pictures + 1 - float(ALPHA_BAR[t])) for t in (times[0], 0))
    start = x = first * normal(200_000)
    for seed, (t, t_next) in enumerate(zip(times, [*times[1:], 0], strict=True), start=1):
        a, a_next = float(ALPHA_BAR[t]), float(ALPHA_BAR[t_next])
        x = step(*best(x, a), a, a_next, normal(200_000, seed=seed))
    assert float(x.std()) / right == pytest.approx(spread, rel=0.02)
    assert float((x * start).mean() / start.square().mean()) == pytest.approx(of_start, abs=0.01)


def test_each_sigma_is_exact_in_its_own_world(lesson):
    lesson["alpha_bar"] = ALPHA_BAR
    for steps in (5, 25, 500):
        assert lesson["spread"](steps, lesson["ddpm_wide"], lesson["normal_numbers"], 1.0)[0] == pytest.approx(1)
        for name in ("ddim", "ddpm"):
            assert lesson["spread"](steps, lesson[name], lesson["one_picture"], 0.0)[0] == pytest.approx(1)


@torch.no_grad()
def test_the_loop_with_other_steps_is_the_loop_if_no_dice_are_thrown(lesson, pipe):
    words, empty = pipe.encode_prompt("a fox", "cpu", 1, do_classifier_free_guidance=True)
    lesson["words"] = words
    start = normal(2, 4, pipe.unet.config.sample_size, pipe.unet.config.sample_size)
    times = lesson["evenly"](5)
    ours = lesson["denoise_with"](lesson["ddim"], start, times, dice=3)
    assert_close(ours, lesson["denoise"](pipe, start, times, words, empty, guidance=1), rtol=1e-4, atol=1e-4)
    thrown = [lesson["denoise_with"](lesson["ddpm"], start, times, dice=dice) for dice in (1, 1, 2)]
    assert torch.equal(thrown[0], thrown[1])
    assert not torch.allclose(thrown[0], thrown[2], atol=1e-2)
