"""What lesson 08 does by hand, held to diffusers. The functions are those of the notebook itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image
from torch.testing import assert_close

from helpers import sampling, schedules
from helpers.exercises.lesson_08 import difference_mask, still_kept, up
from helpers.latents import encode
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import SIDE, tiny_pipeline

LESSON = NOTEBOOKS / "08_image_to_image.ipynb"
ALPHA_BAR = schedules.alpha_bar(schedules.betas())
PROMPT = "a mushroom on a blue background, flat style"
STEPS, SCALE = 5, 4.0
CLOSE = {"rtol": 0, "atol": 1e-4}


def seeded(seed):
    return torch.Generator("cpu").manual_seed(seed)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def ddim(pipe):
    settings = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading", "steps_offset": 1}
    return DDIMScheduler.from_config(pipe.scheduler.config, **settings)


@pytest.fixture
def lesson(pipe, ddim):
    """The functions of the lesson, on the tiny pipeline."""
    empty = pipe.encode_prompt("", pipe.device, 1, do_classifier_free_guidance=False)[0]
    names = {"alpha_bar": ddim.alphas_cumprod, "side": SIDE, "factor": pipe.vae_scale_factor, "scale": SCALE}
    return definitions(LESSON, pipe=pipe, ddim=ddim, STEPS=STEPS, empty=empty, walk_up=up, **names)


@pytest.fixture(scope="module")
def picture():
    values = torch.rand((3, 8, 8), generator=seeded(0))
    smooth = F.interpolate(values[None], size=SIDE, mode="bicubic")[0].clamp(0, 1)
    return Image.fromarray((255 * smooth).byte().permute(1, 2, 0).numpy())


@pytest.fixture(scope="module")
def mask_pixels():
    """An ellipse, whose edge lies across the places of the latent."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return ((rows - 21) ** 2 / 300 + (columns - 37) ** 2 / 500 < 1).float()


@pytest.fixture(scope="module")
def mask(pipe, mask_pixels):
    return mask_pixels[:: pipe.vae_scale_factor, :: pipe.vae_scale_factor][None, None]


def start(pipe, picture, seed):
    """Latents and noise in the order in which the library draws them."""
    generator = seeded(seed)
    x0 = encode(pipe, picture, sample=True, generator=generator)
    return x0, torch.randn(x0.shape, generator=generator)


def options(steps):
    return {"num_inference_steps": steps, "guidance_scale": SCALE, "output_type": "latent"}


# The timesteps


@pytest.mark.parametrize("steps", [1, 4, 7, 20, 30, 50])
def test_the_timesteps_are_the_librarys_in_both_directions(lesson, ddim, steps):
    ddim.set_timesteps(steps)
    assert lesson["timesteps"](steps) == ddim.timesteps.tolist()
    inverse = DDIMInverseScheduler.from_config(ddim.config)
    inverse.set_timesteps(steps)
    assert lesson["timesteps"](steps)[::-1] == inverse.timesteps.tolist()


# SDEdit


@pytest.mark.parametrize(("steps", "strength"), [(10, 0.1), (10, 0.35), (5, 1.0)])
def test_sdedit_is_the_librarys_image_to_image(lesson, pipe, picture, steps, strength):
    x0, eps = start(pipe, picture, seed=3)
    ours = lesson["sdedit"](x0, PROMPT, strength, eps, steps=steps)
    tool = lesson["library"](StableDiffusionImg2ImgPipeline)
    theirs = tool(PROMPT, image=picture, strength=strength, generator=seeded(3), **options(steps)).images
    assert_close(ours, theirs, **CLOSE)


def test_other_noise_another_strength_or_the_mean_would_be_noticed(lesson, pipe, picture):
    x0, eps = start(pipe, picture, seed=3)
    right = lesson["sdedit"](x0, PROMPT, 0.6, eps)
    for wrong in (
        lesson["sdedit"](x0, PROMPT, 0.8, eps),
        lesson["sdedit"](x0, PROMPT, 0.6, lesson["normal"](1, 4)),
        lesson["sdedit"](encode(pipe, picture), PROMPT, 0.6, eps),
        lesson["sdedit"](x0, "a cat", 0.6, eps),
    ):
        assert (wrong - right).abs().max() > 10 * CLOSE["atol"]


def test_a_strength_below_one_step_leaves_the_picture_as_it_is(lesson, pipe, picture):
    x0 = encode(pipe, picture)
    assert torch.equal(lesson["sdedit"](x0, PROMPT, 0.1, lesson["normal"](1, 0)), x0)  # of 5 steps


def test_sdedit_takes_another_guidance(lesson, pipe, picture):
    x0, eps = start(pipe, picture, seed=3)
    tool = lesson["library"](StableDiffusionImg2ImgPipeline)
    given = options(STEPS) | {"guidance_scale": 2.0}
    theirs = tool(PROMPT, image=picture, strength=0.6, generator=seeded(3), **given).images
    assert_close(lesson["sdedit"](x0, PROMPT, 0.6, eps, s=2.0), theirs, **CLOSE)


def test_a_batch_gives_what_each_picture_gives_alone(lesson, pipe, picture):
    x0, eps = encode(pipe, [picture, picture.rotate(90)]), lesson["normal"](2, 0)
    together = lesson["sdedit"](x0, [PROMPT, "a cat"], 0.6, eps)
    for i, prompt in enumerate([PROMPT, "a cat"]):
        assert_close(together[i : i + 1], lesson["sdedit"](x0[i : i + 1], prompt, 0.6, eps[i : i + 1]), **CLOSE)


def test_one_picture_takes_several_noises(lesson, pipe, picture):
    x0, eps = encode(pipe, picture), lesson["normal"](3, 0)
    assert_close(lesson["sdedit"](x0, PROMPT, 0.6, eps)[2:], lesson["sdedit"](x0, PROMPT, 0.6, eps[2:]), **CLOSE)


def test_kept_brightness_is_the_grey_pictures_and_the_colour_the_painted_ones(lesson, picture):
    grey = picture.rotate(180).convert("L").convert("RGB")
    kept = lesson["keep_brightness"](picture, grey).convert("YCbCr")
    wanted = Image.merge("YCbCr", (grey.convert("YCbCr").split()[0], *picture.convert("YCbCr").split()[1:]))
    # Colours that no screen has are clipped on the way through RGB.
    difference = np.abs(np.asarray(kept, int) - np.asarray(wanted, int))
    assert np.median(difference) <= 1
    assert np.median(np.abs(np.asarray(kept, int) - np.asarray(picture.convert("YCbCr"), int))[..., 0]) > 10


# Inpainting


@pytest.mark.parametrize("seed", [1, 2])
def test_inpainting_is_the_librarys_with_four_channels(lesson, pipe, picture, mask_pixels, mask, seed):
    x0, eps = start(pipe, picture, seed)
    ours = lesson["inpaint"](x0, mask, PROMPT, eps)
    tool = lesson["library"](StableDiffusionInpaintPipeline)
    pictures = {"image": picture, "mask_image": Image.fromarray((255 * mask_pixels).byte().numpy())}
    theirs = tool(PROMPT, **pictures, strength=1.0, generator=seeded(seed), **options(STEPS)).images
    assert_close(ours, theirs, **CLOSE)


def test_what_is_kept_is_equal_and_what_is_not_is_new(lesson, pipe, picture, mask):
    x0, eps = encode(pipe, picture), lesson["normal"](1, 1)
    result = lesson["inpaint"](x0, mask, PROMPT, eps)
    assert torch.equal(result * (1 - mask), x0 * (1 - mask))
    assert ((result - x0) * mask).abs().mean() > 0.1


def test_with_an_empty_mask_nothing_changes_and_with_a_full_one_it_is_plain_sampling(lesson, pipe, picture):
    x0, eps = encode(pipe, picture), lesson["normal"](1, 1)
    nothing, everything = torch.zeros_like(x0[:, :1]), torch.ones_like(x0[:, :1])
    assert torch.equal(lesson["inpaint"](x0, nothing, PROMPT, eps), x0)
    plain = sampling.run(pipe, PROMPT, steps=STEPS, guidance=SCALE, latents=eps, sampler=lesson["ddim"]).latents
    assert_close(lesson["inpaint"](x0, everything, PROMPT, eps), plain, **CLOSE)


def test_inpainting_takes_another_number_of_steps(lesson, pipe, picture, mask):
    x0, eps = encode(pipe, picture), lesson["normal"](1, 1)
    given = {"steps": 8, "guidance": SCALE, "latents": eps, "sampler": lesson["ddim"]}
    plain = sampling.run(pipe, PROMPT, **given).latents
    assert_close(lesson["inpaint"](x0, torch.ones_like(x0[:, :1]), PROMPT, eps, steps=8), plain, **CLOSE)


# Inversion


@pytest.mark.parametrize("steps", [4, 7])
def test_inversion_is_the_librarys(lesson, pipe, ddim, picture, steps):
    x0, words = encode(pipe, picture), lesson["embed"](PROMPT)
    inverse = DDIMInverseScheduler.from_config(ddim.config)
    inverse.set_timesteps(steps)
    x = x0
    path = lesson["inverted"](x0, words, steps)
    assert len(path) == steps + 1
    for ours, t in zip(path[1:], inverse.timesteps.tolist(), strict=True):
        x = inverse.step(pipe.unet(x, t, words).sample, t, x).prev_sample
        assert_close(ours, x, **CLOSE)


@pytest.mark.parametrize("s", [1.0, SCALE])
def test_the_way_down_is_the_librarys_ddim(lesson, pipe, ddim, s):
    x, words = lesson["normal"](1, 0), lesson["embed"](PROMPT)
    theirs = sampling.run(pipe, PROMPT, steps=STEPS, guidance=s, latents=x, sampler=ddim).latents
    assert_close(lesson["down"](x, words, lesson["timesteps"](STEPS), s), theirs, **CLOSE)


def test_guidance_on_the_way_up_is_that_of_the_way_down(lesson, picture):
    x, words = encode(lesson["pipe"], picture), lesson["embed"](PROMPT)
    first = lesson["timesteps"](STEPS)[-1]
    eps = lesson["guided"](x, first, words, 2.0)
    assert_close(lesson["inverted"](x, words, STEPS, 2.0)[1], sampling.ddim_step(x, eps, 0, first, ALPHA_BAR), **CLOSE)


def test_a_step_up_and_down_with_one_noise_is_none(lesson):
    x, eps = lesson["normal"](2, 0), lesson["normal"](2, 1)
    there = sampling.ddim_step(x, eps, 101, 801, ALPHA_BAR)
    assert_close(sampling.ddim_step(there, eps, 801, 101, ALPHA_BAR), x, rtol=1e-4, atol=1e-4)


def smooth(x, t, words=None, s=1.0):
    """A stand-in for the U-Net: near the noise of data that is standard normal, so that a run stays near 1."""
    return s * ((1 - ALPHA_BAR[t]).sqrt() * x + 0.1 * torch.sin(3 * x))


def test_the_round_trip_error_falls_with_the_steps_and_guidance_spoils_it(lesson, monkeypatch):
    monkeypatch.setitem(lesson, "guided", smooth)
    x0 = lesson["normal"](1, 0)

    def error(steps, s):
        top, order = lesson["inverted"](x0, None, steps)[-1], lesson["timesteps"](steps)
        return lesson["rms"](lesson["down"](top, None, order, s) - x0)

    errors = [error(steps, 1.0) for steps in (5, 10, 20, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3
    assert error(40, 1.2) > 2 * errors[-1]


def test_correlation_tells_noise_from_a_picture(lesson):
    picture, noise = torch.randn((2, 4, 64, 64), generator=seeded(0))
    assert abs(lesson["correlation"](picture, noise)) < 0.05
    assert lesson["correlation"](picture, 3 * picture + 1) > 0.999
    assert 0.6 < lesson["correlation"](picture, picture + noise) < 0.8


# The exercises


def test_the_way_up_asks_where_each_step_leads_and_keeps_all_it_reaches():
    x, asked = torch.ones((1, 4, 2, 2)), []

    def predict_eps(latents, t):
        asked.append((float(latents.mean()), t))
        return torch.zeros_like(latents)

    path = up(x, [101, 501, 901], predict_eps, ALPHA_BAR)
    assert [t for _, t in asked] == [101, 501, 901]
    assert torch.equal(path[0], x)
    # Without any noise a step changes nothing but the share of the picture.
    for latents, t in zip(path, [0, 101, 501, 901], strict=True):
        assert_close(latents, x * (ALPHA_BAR[t] / ALPHA_BAR[0]).sqrt())
    assert [mean for mean, _ in asked] == [float(latents.mean()) for latents in path[:-1]]


@pytest.fixture
def with_strengths(lesson):
    """The loop below the exercise, with the solution in it."""
    return lesson["with_strengths"]


def test_one_strength_in_all_places_is_sdedit(lesson, with_strengths, picture):
    lesson["kept_after"] = still_kept
    x0, eps = encode(lesson["pipe"], picture), lesson["normal"](1, 0)
    for strength in (0.0, 0.4, 0.8):
        everywhere = torch.full_like(x0[:, :1], strength)
        assert_close(with_strengths(x0, everywhere, PROMPT, eps), lesson["sdedit"](x0, PROMPT, strength, eps), **CLOSE)


def test_strengths_0_and_1_are_inpainting(lesson, with_strengths, picture, mask):
    lesson["kept_after"] = still_kept
    x0, eps = encode(lesson["pipe"], picture), lesson["normal"](1, 1)
    # At strength 1 SDEdit keeps a trace of the picture in its start; this loop starts from noise, as inpainting does.
    assert_close(with_strengths(x0, mask, PROMPT, eps), lesson["inpaint"](x0, mask, PROMPT, eps), **CLOSE)


def test_the_mask_out_of_two_prompts_is_where_they_differ():
    source = torch.randn((4, 4, 8, 8), generator=seeded(0))
    change = torch.zeros_like(source)
    change[..., 2:5, 3:7] = torch.randn((4, 4, 3, 4), generator=seeded(1))
    expected = torch.zeros((1, 1, 8, 8))
    expected[..., 2:5, 3:7] = 1
    found = difference_mask(source, source + change)
    assert found.shape == expected.shape
    assert (found <= expected).all()
    assert found.sum() > expected.sum() / 2
