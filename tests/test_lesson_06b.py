"""What lesson 06b does by hand, held to diffusers and to the formulas. The functions are taken from the notebook."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from helpers.exercises import lesson_06
from helpers.exercises.lesson_06b import rising
from helpers.judge import read
from helpers.latents import decode
from helpers.loading import load_pipeline
from helpers.sampling import normal, predict, predict_x0
from helpers.scenes import GROUNDS
from tests.lessons import NOTEBOOKS, constants, definitions
from tests.pipelines.tiny import randn, tiny_pipeline

LESSON = NOTEBOOKS / "06b_when_to_guide.ipynb"


@pytest.fixture(scope="module")
def pipe():
    """The tiny pipeline, with the sampler that the lesson's loop takes its steps with."""
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, timestep_spacing="leading")
    return pipe


@pytest.fixture(scope="module")
def fox(pipe):
    return pipe.encode_prompt("a fox", "cpu", 1, False)[0]


@pytest.fixture(scope="module")
def lesson(pipe, fox):
    """The lesson's functions, on the tiny pipeline, with four steps."""
    empty = pipe.encode_prompt("", "cpu", 1, False)[0]
    times = [1 + 250 * i for i in reversed(range(4))]
    return definitions(LESSON, pipe=pipe, empty=empty, fox=fox, alpha_bar=pipe.scheduler.alphas_cumprod, TIMES=times)


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
    x = randn(1, 4, 8, 8)

    def drawn(s):
        return lesson["draw"](x, lesson["guided"](fox, s))

    torch.testing.assert_close(drawn(lambda t: 3.0 if t > 5000 else 1.0), drawn(1.0))
    assert not torch.allclose(drawn(1.0), drawn(lambda t: 3.0 if 200 <= t <= 800 else 1.0))


@torch.no_grad()
def test_the_prompt_as_its_own_negative_is_the_plain_answer(lesson, fox):
    x = randn(1, 4, 8, 8)
    plain = lesson["draw"](x, lesson["guided"](fox, 1.0))
    torch.testing.assert_close(
        lesson["draw"](x, lesson["guided"](fox, 7.5, away_from=fox)), plain, rtol=1e-3, atol=1e-3
    )


@torch.no_grad()
def test_the_push_off_a_ground_is_a_second_prompt_below_zero(pipe, lesson, fox):
    x, against = randn(1, 4, 8, 8), pipe.encode_prompt("on a purple background", "cpu", 1, False)[0]
    no_words, *answers = (predict(pipe, x, 500, words) for words in (lesson["empty"], fox, against))
    for gaps in (0.25, 3.0):
        expected = lesson_06.compose(no_words, answers, [4.0, -gaps])
        found = lesson["off_ground"](gaps, against)(x, 500)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    negative = lesson["guided"](fox, 4, away_from=against)(x, 500)
    torch.testing.assert_close(found, negative, rtol=1e-4, atol=1e-4)  # three gaps away: the negative prompt at 4


@torch.no_grad()
def test_a_rescaled_x0_estimate_has_for_the_most_part_the_spread_of_the_one_without_guidance(pipe, lesson, fox):
    x, alpha_bar = randn(2, 4, 8, 8), lesson["alpha_bar"]
    answers = (lesson["guided"](fox, 1)(x, 500), lesson["guided"](fox, 10)(x, 500), lesson["rescaled"](x, 500))
    plain, guided, found = (lesson["spread"](predict_x0(x, answer, 500, alpha_bar)) for answer in answers)
    torch.testing.assert_close(found, 0.7 * plain + 0.3 * guided, rtol=1e-3, atol=1e-3)


def test_the_rising_scale_starts_at_one_and_its_mean_is_the_scale_asked_for():
    times = constants(LESSON, "TIMES")["TIMES"]
    for s in (1.5, 2.0, 4.0):
        scales = [rising(t, s) for t in times]
        assert scales[0] == 1
        assert np.mean(scales) == pytest.approx(s)
        np.testing.assert_allclose(np.diff(scales, 2), 0, atol=1e-9)


def test_each_third_adds_as_many_gaps_as_a_scale_of_four():
    found = constants(LESSON, "TIMES", "parts")
    for name, s in found["parts"].items():
        assert sum(s(t) - 1 for t in found["TIMES"]) == 3 * len(found["TIMES"]), name
        assert sum(s(t) > 1 for t in found["TIMES"]) == 3, name


@pytest.mark.nightly
@torch.no_grad()
def test_a_gentle_negative_prompt_and_a_rising_scale_keep_more_grounds():
    """As the lesson says, of eight noises."""
    pocket = load_pipeline("pocket", device="cpu")
    times = constants(LESSON, "TIMES")["TIMES"]
    empty, fox, against = pocket.encode_prompt(["", "a fox", GROUNDS["purple"]], "cpu", 1, False)[0].split(1)
    alpha_bar = pocket.scheduler.alphas_cumprod
    lesson = definitions(LESSON, pipe=pocket, empty=empty, fox=fox, alpha_bar=alpha_bar, TIMES=times)
    x_T = normal(8, 30, torch.zeros(1, pocket.unet.config.in_channels, *[pocket.unet.config.sample_size] * 2))

    def grounds(noise_of):
        return [reading.ground for reading in read(decode(pocket, lesson["draw"](x_T, noise_of)))]

    def kept(found, of):
        return sum(one == other for one, other in zip(found, of, strict=True))

    plain, usual = grounds(lesson["guided"](fox, 1)), grounds(lesson["guided"](fox, 4))
    away = [grounds(lesson["off_ground"](gaps, against)) for gaps in (3, 0.25)]
    assert not any("purple" in found for found in away)
    three, quarter = (kept(found, usual) for found in away)
    assert three < quarter
    risen = grounds(lesson["guided"](fox, lambda t: rising(t, 4)))
    assert kept(usual, plain) < kept(risen, plain)
