"""What lesson 06 does by hand, held to diffusers and to the formulas. The functions are taken from the notebook."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from helpers.exercises.lesson_06 import at_once, compose
from helpers.sampling import guide, normal, predict
from tests.lessons import NOTEBOOKS, cell_with, definitions
from tests.pipelines.tiny import randn, tiny_pipeline

LESSON = NOTEBOOKS / "06_guidance.ipynb"


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
@pytest.mark.parametrize("scale", [3.0, 1.5])
def test_the_guided_loop_by_hand_is_the_pipeline_s(pipe, lesson, fox, scale):
    x = normal(2, 5, torch.zeros(1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2))
    ours = lesson["draw"](x, lesson["guided"](fox, scale))
    options = {"num_inference_steps": 4, "guidance_scale": scale, "output_type": "latent", "latents": x}
    torch.testing.assert_close(ours, pipe(["a fox"] * 2, **options).images, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_careless_function_walks_the_other_way_and_the_repaired_one_does_not(pipe, lesson, fox):
    x, empty = randn(1, 4, 8, 8), lesson["empty"]
    for s in (0.0, 1.0, 4.0):
        for function, scale in ((lesson["careless"], -s), (at_once, s)):
            found = function(lesson["ask"], x, 500, fox, empty, s)
            torch.testing.assert_close(found, lesson["guided"](fox, scale)(x, 500), rtol=1e-4, atol=1e-4)


def test_composing_one_prompt_is_guidance_and_two_can_be_a_negative_prompt():
    uncond, text, negative = randn(3, 2, 4, 6, 6)
    torch.testing.assert_close(compose(uncond, [text], [4.0]), guide(uncond, text, 4.0))
    torch.testing.assert_close(
        compose(uncond, [text, negative], [4.0, 1 - 4.0]), guide(negative, text, 4.0), rtol=1e-5, atol=1e-5
    )


def test_the_angle_of_two_answers(lesson):
    one = torch.tensor([1.0, 0.0])
    assert lesson["angle"](one, torch.tensor([1.0, 1.0])) == pytest.approx(45, abs=1e-3)
    assert lesson["angle"](0.1 * one, 3 * one) == 0


def test_only_what_stands_at_its_place_matches(lesson):
    assert lesson["matches"](("fox", "owl"), ("fox", "car")) == 1
    assert lesson["matches"](("owl",), ("fox", "owl")) == lesson["matches"]((), ("fox", "owl")) == 0


@torch.no_grad()
def test_at_scales_nought_and_one_the_network_is_asked_once(pipe, lesson, fox, monkeypatch):
    asked = []
    monkeypatch.setitem(lesson, "predict", lambda pipe, x, t, words: asked.append(words) or predict(pipe, x, t, words))
    x = randn(1, 4, 8, 8)
    torch.testing.assert_close(lesson["guided"](fox, 1)(x, 500), predict(pipe, x, 500, fox))
    torch.testing.assert_close(lesson["guided"](fox, 0)(x, 500), predict(pipe, x, 500, lesson["empty"]))
    assert len(asked) == 2
    lesson["guided"](fox, 4)(x, 500)
    assert len(asked) == 4


@pytest.fixture(scope="module")
def world(pipe):
    """The world of one number: its bells, its sharpened densities, and the runs with exact answers."""
    space = definitions(LESSON, alpha_bar=pipe.scheduler.alphas_cumprod, TIMES=[])
    exec(cell_with(LESSON, "def bells("), space)
    return space


def shares_and_widths(world, density):
    """On each side of 0: the share of a density over the lesson's line, and its width there."""
    line, found = world["line"], []
    for part in (density * (line < 0), density * (line > 0)):
        mean = (part * line).sum() / part.sum()
        width = ((part * (line - mean) ** 2).sum() / part.sum()).sqrt()
        found.append((float(part.sum() / density.sum()), float(width)))
    return found


def test_sharpening_keeps_the_shares_at_one_and_shrinks_a_hump_at_four(world):
    left = {s: shares_and_widths(world, q)[0][0] for s, q in world["sharpened"].items()}
    assert left[1] == pytest.approx(0.7, abs=1e-3)
    assert left[4] == pytest.approx(0.13, abs=5e-3)


@pytest.mark.parametrize("s", [0, 1, 4])
def test_the_exact_answers_are_those_known_for_one_bell(world, monkeypatch, s):
    monkeypatch.setitem(world, "everything", [(1, -2, 1.5)])
    monkeypatch.setitem(world, "called_c", [(1, 1, 0.5)])
    x, a = torch.linspace(-3, 3, 7), float(world["alpha_bar"][500])
    empty, words = ((1 - a) ** 0.5 * (x - a**0.5 * m) / (a * w**2 + 1 - a) for m, w in ((-2, 1.5), (1, 0.5)))
    torch.testing.assert_close(world["exact"](s)(x, 500), guide(empty, words, s), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_exact_runs_give_back_the_density_at_one_and_are_not_the_sharpened_one_at_four(world):
    dots = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    for s in (1, 4):
        ends = world["draw"](dots, world["exact"](s), range(999, 0, -9))
        left, width = float((ends < 0).float().mean()), float(ends[ends < 0].std())
        share, wide = shares_and_widths(world, world["sharpened"][s])[0]
        if s == 1:
            assert (left, width) == pytest.approx((share, wide), abs=0.04)
        else:
            assert left > share + 0.1 and width < wide / 2


@torch.no_grad()
def test_an_exact_answer_for_a_density_is_the_known_one_and_its_runs_end_as_the_density(world):
    x = torch.linspace(-3, 3, 7)
    for t in (100, 500, 900):
        found = world["exact_for"](world["sharpened"][1])(x, t)
        torch.testing.assert_close(found, world["exact"](1)(x, t), rtol=1e-3, atol=1e-3)
    dots = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    ends = world["draw"](dots, world["exact_for"](world["sharpened"][4]), range(999, 0, -9))
    sides = (ends[ends < 0], ends[ends > 0])
    for side, (share, width) in zip(sides, shares_and_widths(world, world["sharpened"][4]), strict=True):
        assert (len(side) / len(ends), float(side.std())) == pytest.approx((share, width), abs=0.05)


def test_how_alike_pictures_are_is_the_mean_correlation_of_two_of_them(lesson):
    noise = np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    patches = [picture[11:25, 10:22].ravel() for picture in noise]
    expected = np.mean([np.corrcoef(patches[i], patches[j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2))])
    assert lesson["alike"]([Image.fromarray(picture) for picture in noise]) == pytest.approx(expected)
    darker = [Image.fromarray(picture) for picture in (noise[0], noise[0] // 2)]
    assert lesson["alike"](darker) == pytest.approx(1, abs=1e-3)
