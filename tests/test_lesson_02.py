"""What lesson 02 computes by hand is what diffusers computes: the solutions of its exercises, and its own functions."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.testing import assert_close

from helpers import sampling
from helpers.exercises.lesson_02 import dice_at, loop
from helpers.schedules import add_noise, alpha_bar, betas
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import randn, tiny_pipeline

LESSON = NOTEBOOKS / "02_denoising_loop.ipynb"
ALPHA_BAR = alpha_bar(betas())
SHAPE = (2, 4, 4, 4)
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    return definitions(LESSON, pipe=pipe, alpha_bar=pipe.scheduler.alphas_cumprod)


# The exercises


def pairs_of_timesteps(steps=25):
    """(t, t_next, alpha_bar at both) of a run."""
    times = [1 + 1000 // steps * i for i in reversed(range(steps))]
    for t, t_next in itertools.pairwise(times):
        yield t, t_next, float(ALPHA_BAR[t]), float(ALPHA_BAR[t_next])


def test_the_loop_is_the_librarys(lesson):
    """With a network that is a formula, so that nothing but the loop is compared."""
    x = randn(*SHAPE)
    for steps in (1, 4, 25):
        ddim = DDIMScheduler(**SCHEDULE, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=1)
        ddim.set_timesteps(steps)
        theirs = x
        for t in ddim.timesteps:
            theirs = ddim.step(theirs.tanh() + t / 1000, t, theirs).prev_sample
        ours = loop(x, ddim.timesteps.tolist(), lambda x, t: x.tanh() + t / 1000, ALPHA_BAR, lesson["ddim"])
        assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_fresh_noise_is_put_in_its_places_only(lesson):
    x0, eps, z = (randn(*SHAPE, seed=seed) for seed in range(3))
    places = torch.zeros(4, 4)
    places[:, 2:] = 1
    for t, t_next, a, a_next in pairs_of_timesteps():
        step = dice_at(x0, eps, a, a_next, places, z)
        assert_close(step[..., :2], add_noise(x0, eps, t_next, ALPHA_BAR)[..., :2])
        assert_close(step[..., 2:], lesson["ddpm"](x0, eps, t, t_next, ALPHA_BAR, z)[..., 2:])


# The functions that the lesson itself writes


def test_the_estimate_is_the_schedulers_at_every_timestep(lesson):
    x_t, eps = randn(*SHAPE), randn(*SHAPE, seed=1)
    scheduler = DDIMScheduler.from_config(lesson["pipe"].scheduler.config, clip_sample=False)
    scheduler.set_timesteps(1000 // 4)
    for t in scheduler.timesteps.tolist():
        theirs = scheduler.step(eps, t, x_t).pred_original_sample
        assert_close(lesson["estimate"](x_t, eps, t, ALPHA_BAR), theirs, rtol=1e-5, atol=1e-4)


def test_the_weighted_mean_is_that_of_the_posterior(lesson):
    """Tweedie: the mean of sqrt(a) x0 given x_t is x_t + (1 - a) times the gradient of the log density of x_t."""
    a = float(ALPHA_BAR[400])
    lesson["five"] = pictures = randn(5, 2)
    x = randn(7, 2, seed=1).requires_grad_()
    squares = (x[:, None] - a**0.5 * pictures).square().sum(dim=2)
    (slope,) = torch.autograd.grad((-squares / (2 * (1 - a))).logsumexp(dim=1).sum(), x)
    x = x.detach()
    assert_close(lesson["fits"](x, 400).sum(dim=1), torch.ones(7))
    assert_close(lesson["best_look"](x, 400), (x + (1 - a) * slope) / a**0.5, rtol=1e-4, atol=1e-4)
    look = lesson["estimate"](x, lesson["exact"](x, 400), 400, ALPHA_BAR)
    assert_close(look, lesson["best_look"](x, 400), rtol=1e-4, atol=1e-4)


def test_how_far_a_place_is_off_the_nearest_picture(lesson):
    lesson["five"] = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert_close(lesson["from_nearest"](torch.tensor([[0.6, 0.8], [3.0, 5.0]])), torch.ones(2) / 2**0.5)


def test_how_far_off_is_a_number_for_each(lesson):
    one, other = torch.zeros(2, 4, 2, 2), torch.stack([torch.full((4, 2, 2), -3.0), torch.zeros(4, 2, 2)])
    assert lesson["off"](one, other).tolist() == [3, 0]


def test_the_timesteps_are_the_librarys(lesson):
    scheduler = DDIMScheduler(**SCHEDULE, timestep_spacing="leading", steps_offset=1)
    for steps in (4, 10, 25, 50):
        scheduler.set_timesteps(steps)
        assert lesson["evenly"](steps) == scheduler.timesteps.tolist()


def test_the_timesteps_of_a_walk_fall_from_999_at_equal_distances(lesson):
    assert lesson["from_999"](1) == [999]
    assert lesson["from_999"](5) == [999, 799, 599, 399, 199]


@torch.no_grad()
def test_the_loop_draws_what_the_library_draws(lesson, pipe):
    lesson["words"], _ = pipe.encode_prompt("a fox", "cpu", 1, do_classifier_free_guidance=False)
    side = pipe.unet.config.sample_size
    start = randn(2, 4, side, side)
    ddim = DDIMScheduler(**SCHEDULE, set_alpha_to_one=False, timestep_spacing="leading", steps_offset=1)
    run = sampling.run(pipe, ["a fox"] * 2, steps=5, guidance=1.0, latents=start, sampler=ddim)
    ours = loop(start, lesson["evenly"](5), lesson["network"], ALPHA_BAR, lesson["ddim"])
    assert_close(ours, run.latents, rtol=1e-3, atol=1e-3)


def test_the_step_with_fresh_noise_is_the_librarys(lesson):
    x, eps = randn(*SHAPE), randn(*SHAPE, seed=1)
    ddpm = DDPMScheduler(**SCHEDULE, variance_type="fixed_small", timestep_spacing="leading", steps_offset=1)
    ddpm.set_timesteps(25)
    for t, t_next, _, _ in pairs_of_timesteps():
        x0 = lesson["estimate"](x, eps, t, ALPHA_BAR)
        z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
        theirs = ddpm.step(eps, t, x, generator=torch.Generator().manual_seed(7)).prev_sample
        ours = lesson["ddpm"](x0, eps, t, t_next, ALPHA_BAR, z)
        assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        assert_close(ours, sampling.ddpm_step(x, eps, t, t_next, ALPHA_BAR, z), rtol=1e-3, atol=1e-4)


def test_the_loop_draws_with_fresh_noise(lesson):
    start, times = randn(*SHAPE), lesson["evenly"](5)

    def network(x, t):
        return x.tanh() + t / 1000

    def drawn(step):
        return loop(start, times, network, ALPHA_BAR, step)

    x = start
    for t, t_next in zip(times, [*times[1:], 0], strict=True):
        z = sampling.normal(len(x), seed=2000 + t, like=x)
        x = sampling.ddpm_step(x, network(x, t), t, t_next, ALPHA_BAR, z)
    assert_close(drawn(lesson["with_dice"](lesson["ddpm"], 2)), x, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(drawn(lesson["with_dice"](lesson["ddpm"], 1)), x, atol=1e-2)

    lesson["partly"], lesson["right_half"] = dice_at, torch.zeros(SHAPE[-2:])  # nowhere
    assert_close(drawn(lesson["with_dice"](lesson["in_half"], 2)), drawn(lesson["ddim"]), rtol=1e-4, atol=1e-4)
