"""What lesson 06 does by hand, held to diffusers and to the formulas. The functions are taken from the notebook."""

from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from helpers.exercises.lesson_06 import at_once, compose
from helpers.judge import read
from helpers.latents import decode
from helpers.loading import load_pipeline
from helpers.sampling import guide, normal, predict, predict_x0
from helpers.scenes import GROUNDS
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
def test_the_careless_function_walks_the_other_way_and_the_repaired_one_does_not(pipe, lesson, fox):
    x, empty = noise(1, 4, 8, 8), lesson["empty"]
    for s in (0.0, 1.0, 4.0):
        for function, scale in ((lesson["careless"], -s), (at_once, s)):
            found = function(lesson["ask"], x, 500, fox, empty, s)
            torch.testing.assert_close(found, lesson["guided"](fox, scale)(x, 500), rtol=1e-4, atol=1e-4)


def test_composing_one_prompt_is_guidance_and_two_can_be_a_negative_prompt():
    uncond, text, negative = noise(3, 2, 4, 6, 6)
    torch.testing.assert_close(compose(uncond, [text], [4.0]), guide(uncond, text, 4.0))
    torch.testing.assert_close(
        compose(uncond, [text, negative], [4.0, 1 - 4.0]), guide(negative, text, 4.0), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_the_push_off_a_ground_is_a_second_prompt_below_zero(pipe, lesson, fox, monkeypatch):
    x, against = noise(1, 4, 8, 8), pipe.encode_prompt("on a purple background", "cpu", 1, False)[0]
    monkeypatch.setitem(lesson, "fox", fox)
    monkeypatch.setitem(lesson, "against", against)
    no_words, *answers = (predict(pipe, x, 500, words) for words in (lesson["empty"], fox, against))
    expected = compose(no_words, answers, [4.0, -0.25])
    torch.testing.assert_close(lesson["off_ground"](0.25)(x, 500), expected, rtol=1e-4, atol=1e-4)


def test_the_angle_of_two_answers(lesson):
    one = torch.tensor([1.0, 0.0])
    assert lesson["angle"](one, torch.tensor([1.0, 1.0])) == pytest.approx(45, abs=1e-3)
    assert lesson["angle"](0.1 * one, 3 * one) == 0


def test_only_what_stands_at_its_place_matches(lesson):
    assert lesson["matches"](("fox", "owl"), ("fox", "car")) == 1
    assert lesson["matches"](("owl",), ("fox", "owl")) == lesson["matches"]((), ("fox", "owl")) == 0


@torch.no_grad()
def test_where_the_scale_is_one_the_network_is_asked_once(pipe, lesson, fox, monkeypatch):
    asked = []
    monkeypatch.setitem(lesson, "predict", lambda pipe, x, t, words: asked.append(words) or predict(pipe, x, t, words))
    x = noise(1, 4, 8, 8)
    torch.testing.assert_close(lesson["guided"](fox, 1)(x, 500), predict(pipe, x, 500, fox))
    assert len(asked) == 1
    lesson["guided"](fox, 4)(x, 500)
    assert len(asked) == 3


@torch.no_grad()
def test_a_held_spread_scales_the_x0_estimate_only_where_it_is_wider(pipe, lesson, fox, monkeypatch):
    monkeypatch.setitem(lesson, "fox", fox)
    x, alpha_bar = noise(2, 4, 8, 8), lesson["alpha_bar"]
    plain = lesson["guided"](fox, 10)(x, 500)
    wide = lesson["spread"](predict_x0(x, plain, 500, alpha_bar))
    monkeypatch.setitem(lesson, "real_spread", 2 * float(wide.max()))
    torch.testing.assert_close(lesson["held"](x, 500), plain, rtol=1e-4, atol=1e-4)
    monkeypatch.setitem(lesson, "real_spread", float(wide.min()) / 2)
    found = lesson["spread"](predict_x0(x, lesson["held"](x, 500), 500, alpha_bar))
    torch.testing.assert_close(found, torch.full_like(wide, float(wide.min()) / 2), rtol=1e-3, atol=1e-3)


def test_variety_is_the_mean_distance_to_the_others(lesson):
    np.testing.assert_allclose(lesson["variety"](torch.eye(5)), np.full(5, 2**0.5), rtol=1e-5)
    assert lesson["variety"](torch.ones(4, 3)).max() < 1e-3
    np.testing.assert_allclose(lesson["variety"](torch.tensor([[0.0], [1.0], [5.0]])), [3, 2.5, 4.5], rtol=1e-5)


def test_the_error_of_a_mean_variety_is_near_that_of_leaving_out_one_picture_at_a_time(lesson):
    seen = noise(16, 6)
    apart = torch.cdist(seen, seen).double().numpy()
    others = [np.delete(np.delete(apart, i, 0), i, 1).sum() / (15 * 14) for i in range(16)]
    jackknife = np.sqrt(15 / 16 * np.square(others - np.mean(others)).sum())
    assert lesson["two_errors"](lesson["variety"](seen), 2) == pytest.approx(2 * jackknife, rel=0.1)
    assert lesson["two_errors"](np.array([1.0, 3.0])) == pytest.approx(2)


def test_the_distance_to_real_is_that_to_the_nearest_and_no_picture_is_its_own_neighbour(lesson):
    drawn, real = torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [3.5], [9.0]])
    np.testing.assert_allclose(lesson["to_real"](drawn, real), [1, 0.5], rtol=1e-5)
    np.testing.assert_allclose(lesson["to_real"](real, real), [2.5, 2.5, 5.5], rtol=1e-5)


@pytest.mark.nightly
@torch.no_grad()
def test_a_gentle_negative_prompt_and_a_rising_scale_keep_more_grounds():
    """As exercises 2 and 3 say."""
    pocket = load_pipeline("pocket", device="cpu")
    alpha_bar, times = pocket.scheduler.alphas_cumprod, [1 + 111 * i for i in reversed(range(9))]
    empty, fox = pocket.encode_prompt(["", "a fox"], "cpu", 1, False)[0].split(1)
    lesson = definitions(LESSON, pipe=pocket, empty=empty, alpha_bar=alpha_bar, TIMES=times)
    x_T = normal(16, 30, torch.zeros(1, pocket.unet.config.in_channels, *[pocket.unet.config.sample_size] * 2))

    def grounds(noise_of):
        return [reading.ground for reading in read(decode(pocket, lesson["draw"](x_T, noise_of)))]

    def kept(noise_of, of):
        return sum(one == other for one, other in zip(grounds(noise_of), of, strict=True))

    usual = grounds(lesson["guided"](fox, 4))
    commonest = Counter(usual).most_common(1)[0][0]
    phrase = GROUNDS[commonest]
    against = pocket.encode_prompt(phrase, "cpu", 1, False)[0]

    def led_away(pull):
        def noise_of(x, t):
            answers = [predict(pocket, x, t, words) for words in (fox, against)]
            return compose(predict(pocket, x, t, empty), answers, [4.0, pull])

        found = grounds(noise_of)
        assert commonest not in found
        return sum(one == other for one, other in zip(found, usual, strict=True))

    assert led_away(-3.0) < led_away(-1.0) < led_away(-0.25)
    plain = grounds(lesson["guided"](fox, 1))
    scales = (lambda t: 1 + 2 * t / 889, 2, lambda t: 3 - 2 * t / 889)
    for s in scales[::2]:  # as many gaps in all as with a plain 2
        assert sum(map(s, times)) == pytest.approx(2 * len(times), rel=0.01)
    falling, steady, rising = (kept(lesson["guided"](fox, s), plain) for s in scales)
    assert falling < steady < rising
