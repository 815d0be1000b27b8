"""What lesson 06 does by hand, held to diffusers and to the formulas. The functions are taken from the notebook."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from helpers.exercises.lesson_06 import at_once, compose, scale_of
from helpers.sampling import guide, normal, predict
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import tiny_pipeline

LESSON = NOTEBOOKS / "06_guidance.ipynb"


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pipe():
    """The tiny pipeline, with the sampler that the lesson's loop takes its steps with."""
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, timestep_spacing="leading")
    return pipe


@pytest.fixture(scope="module")
def lesson(pipe):
    """The lesson's functions, on the tiny pipeline, with four steps."""
    empty = pipe.encode_prompt("", "cpu", 1, False)[0]
    times = [1 + 250 * i for i in reversed(range(4))]
    return definitions(LESSON, pipe=pipe, empty=empty, alpha_bar=pipe.scheduler.alphas_cumprod, TIMES=times)


@pytest.fixture(scope="module")
def fox(pipe):
    return pipe.encode_prompt("a fox", "cpu", 1, False)[0]


@torch.no_grad()
@pytest.mark.parametrize("negative", ["", "an owl"])
@pytest.mark.parametrize("scale", [3.0, 1.5])
def test_the_guided_loop_by_hand_is_the_pipeline_s(pipe, lesson, fox, negative, scale):
    away_from = pipe.encode_prompt(negative, "cpu", 1, False)[0]
    x = normal(2, 5, torch.zeros(1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2))
    ours = lesson["draw"](x, lesson["guided"](fox, scale, away_from))
    options = {"num_inference_steps": 4, "guidance_scale": scale, "output_type": "latent", "latents": x}
    theirs = pipe(["a fox"] * 2, negative_prompt=[negative] * 2, **options).images
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_scale_of_one_outside_an_interval_leaves_the_words_alone(lesson, fox):
    x = noise(1, 4, 8, 8)

    def drawn(s):
        return lesson["draw"](x, lesson["guided"](fox, s))

    torch.testing.assert_close(drawn(lambda t: 3.0 if t > 5000 else 1.0), drawn(1.0))
    assert not torch.allclose(drawn(1.0), drawn(lambda t: 3.0 if 200 <= t <= 800 else 1.0))


@torch.no_grad()
def test_the_prompt_as_its_own_negative_is_the_plain_answer(lesson, fox):
    x = noise(1, 4, 8, 8)
    plain = lesson["draw"](x, lesson["guided"](fox, 1.0))
    torch.testing.assert_close(
        lesson["draw"](x, lesson["guided"](fox, 7.5, away_from=fox)), plain, rtol=1e-3, atol=1e-3
    )


@torch.no_grad()
def test_rescaling_gives_v_the_deviation_that_it_has_without_guidance(pipe, lesson, fox):
    x, t = noise(2, 4, 8, 8), 400
    a = lesson["alpha_bar"][t]

    def deviation(eps):
        return ((eps - (1 - a).sqrt() * x) / a.sqrt()).std(dim=(1, 2, 3))

    words, guided = predict(pipe, x, t, fox), lesson["guided"](fox, 8.0)(x, t)
    whole = lesson["rescaled"](fox, 8.0, share=1.0)(x, t)
    torch.testing.assert_close(deviation(whole), deviation(words), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lesson["rescaled"](fox, 8.0, share=0.0)(x, t), guided, rtol=1e-4, atol=1e-4)
    some = deviation(lesson["rescaled"](fox, 8.0)(x, t))
    torch.testing.assert_close(some, 0.7 * deviation(words) + 0.3 * deviation(guided), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_careless_function_walks_the_other_way_and_the_repaired_one_does_not(pipe, lesson, fox):
    x, empty = noise(1, 4, 8, 8), lesson["empty"]
    for s in (0.0, 1.0, 4.0):
        for function, scale in ((lesson["careless"], -s), (at_once, s)):
            found = function(lesson["ask"], x, 500, fox, empty, s)
            torch.testing.assert_close(found, lesson["guided"](fox, scale)(x, 500), rtol=1e-4, atol=1e-4)


def test_a_lost_scale_is_found():
    empty, words = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1)
    assert scale_of(empty, words, guide(empty, words, 7.5)) == pytest.approx(7.5, abs=1e-4)


def test_composing_one_prompt_is_guidance_and_two_can_be_a_negative_prompt():
    uncond, text, negative = noise(3, 2, 4, 6, 6)
    torch.testing.assert_close(compose(uncond, [text], [4.0]), guide(uncond, text, 4.0))
    torch.testing.assert_close(
        compose(uncond, [text, negative], [4.0, 1 - 4.0]), guide(negative, text, 4.0), rtol=1e-5, atol=1e-5
    )


def test_the_angle_of_two_answers(lesson):
    one = torch.tensor([1.0, 0.0])
    assert lesson["angle"](one, torch.tensor([1.0, 1.0])) == pytest.approx(45, abs=1e-3)
    assert lesson["angle"](0.1 * one, 3 * one) == 0


def test_the_interval_of_a_share_is_wilson_s(lesson):
    for p in lesson["wilson"](10, 12):  # both ends solve |p - share| = z sqrt(p (1 - p) / n), which defines them
        assert abs(p - 10 / 12) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / 12))


def test_only_what_stands_at_its_place_matches(lesson):
    assert lesson["matches"](("fox", "owl"), ("fox", "car")) == 1
    assert lesson["matches"](("owl",), ("fox", "owl")) == lesson["matches"]((), ("fox", "owl")) == 0


def test_variety_is_nothing_for_equal_rows_and_does_not_grow_with_their_length(lesson):
    x = noise(4, 3, 5)
    assert lesson["variety"](x[:1].expand(4, -1, -1)).max() < 1e-3
    np.testing.assert_allclose(lesson["variety"](10 * x), lesson["variety"](x), rtol=1e-5)
    np.testing.assert_allclose(lesson["variety"](torch.eye(5)), np.full(5, math.sqrt(2)), rtol=1e-5)


def test_sharpness_is_the_mean_step_between_neighbours(lesson):
    flat, stripes = np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 100  # every step to the side is 100, every one down is 0
    assert lesson["sharpness"]([flat, stripes]).tolist() == [0, 50]


def test_the_nearest_steady_scale_is_found_noise_by_noise(lesson):
    ends = {"s = 1": noise(3, 4, 2, 2), "s = 4": noise(3, 4, 2, 2, seed=1)}
    lesson |= {"latents": ends, "steady": list(ends)}
    mixed = torch.cat([ends["s = 4"][:2], ends["s = 1"][2:]]) + 0.01
    assert definitions(LESSON, **lesson)["nearest"](mixed) == "s = 4 (2 of 3)"
