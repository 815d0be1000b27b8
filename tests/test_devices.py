"""No helper leaves a tensor on another device or in another dtype than its models.

There is no GPU here. The `meta` device stands in for one: its tensors have no values, and an operation that meets one
of the CPU's raises as it would on a GPU (a single number excepted, on both). What needs values, such as a picture,
runs on the CPU in float16 and bfloat16, where a tensor left in float32 raises, or shows in the dtype of the result.
"""

import numpy as np
import pytest
import torch
from accelerate import cpu_offload_with_hook
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
)
from PIL import Image

from helpers import attention, latents, plots, sampling, schedules, viewers
from helpers.loading import load_pipeline
from helpers.pictures import generate
from tests.pipelines.full_format import save_full
from tests.pipelines.tiny import SIDE, tiny_pipeline

HALVES = (torch.float16, torch.bfloat16)
META = torch.device("meta")
ALPHA_BAR = schedules.alpha_bar(schedules.betas())
LATENTS = (1, 4, SIDE // 2, SIDE // 2)
# One that takes alpha_bar and three that take sigmas: with noise at each step, in two stages, and with a memory.
SAMPLERS = (DDIMScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler)
# Each is a formula of x and eps, tensors of one shape: every way in which the lessons call it.
FORMULAS = {
    "guide": lambda x, eps: sampling.guide(x, eps, 4.0),
    "predict_x0": lambda x, eps: sampling.predict_x0(x, eps, 500, ALPHA_BAR),
    "ddpm_step": lambda x, eps: sampling.ddpm_step(x, eps, 500, 480, ALPHA_BAR, eps),
    "ddpm_step to the end": lambda x, eps: sampling.ddpm_step(x, eps, 0, -1, ALPHA_BAR, eps),
    "ddpm_step, t a tensor": lambda x, eps: sampling.ddpm_step(
        x, eps, torch.tensor(9), torch.tensor(3), ALPHA_BAR, eps
    ),
    "ddim_step": lambda x, eps: sampling.ddim_step(x, eps, 500, 480, ALPHA_BAR),
    "ddim_step with noise": lambda x, eps: sampling.ddim_step(x, eps, 500, 480, ALPHA_BAR, 1.0, eps),
    "add_noise": lambda x, eps: schedules.add_noise(x, eps, 500, ALPHA_BAR.to(x.device)),
    "add_noise, the schedule on the CPU": lambda x, eps: schedules.add_noise(x, eps, 500, ALPHA_BAR),
    "add_noise, t a tensor, the schedule on the CPU": lambda x, eps: schedules.add_noise(
        x, eps, torch.tensor([500], device=x.device), ALPHA_BAR
    ),
    "add_noise, t a tensor on the CPU": lambda x, eps: schedules.add_noise(x, eps, torch.tensor([500]), ALPHA_BAR),
    "add_noise, eps in float32": lambda x, eps: schedules.add_noise(x, eps.float(), 500, ALPHA_BAR),
}


def quiet_pipeline(*args, **kwargs):
    pipe = tiny_pipeline().to(*args, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=HALVES, ids=str)
def half(request):
    return quiet_pipeline(dtype=request.param)


@pytest.fixture(scope="module")
def absent():
    """A pipeline whose weights are on another device: every tensor that reaches them has to be moved there."""
    return quiet_pipeline(META)


def picture():
    pixels = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def normal(*shape, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(**options)


class TimestepsOnTheCPU:
    """A sampler whose timesteps keep their values, which `meta` has not; as numbers they fit every device."""

    def set_timesteps(self, steps, device=None, *rest):
        super().set_timesteps(steps, None, *rest)


def on_meta(sampler, pipe):
    kind = type(sampler.__name__, (TimestepsOnTheCPU, sampler), {})
    return kind.from_config(pipe.scheduler.config)


# Another device


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_stay_on_the_device_of_their_inputs(name):
    x = FORMULAS[name](torch.zeros(LATENTS, device=META), torch.zeros(LATENTS, device=META))
    assert (x.device, x.shape) == (META, LATENTS)


def test_schedules_follow_the_betas():
    for x in (schedules.alpha_bar(schedules.betas().to(META)), schedules.snr(ALPHA_BAR.to(META))):
        assert (x.device, x.dtype, x.shape) == (META, torch.float32, (1000,))


@pytest.mark.parametrize("sampler, guidance", [(DDIMScheduler, 1.0), *((sampler, 4.0) for sampler in SAMPLERS)])
def test_the_loop_stays_on_the_pipelines_device(sampler, guidance, absent):
    options = {"steps": 4, "guidance": guidance, "sampler": on_meta(sampler, absent)}
    run = sampling.run(absent, "a fox", latents=normal(*LATENTS), **options)
    tensors = [x for step in run.steps for x in (step.latents, step.noise, step.noise_text, step.x0)]
    tensors += [step.noise_uncond for step in run.steps if guidance != 1]
    assert {(x.device, x.dtype, x.shape) for x in [*tensors, run.latents]} == {(META, torch.float32, LATENTS)}


def test_pictures_and_latents_are_moved_to_the_vae(absent):
    pixels = torch.zeros(1, 3, SIDE, SIDE)
    for pictures in (picture(), pixels):
        assert (latents.encode(absent, pictures).device, latents.encode(absent, pictures).shape) == (META, LATENTS)
    for x in (torch.zeros(LATENTS), torch.zeros(LATENTS, device=META)):
        decoded = latents.decode_tensor(absent, x)
        assert (decoded.device, decoded.shape) == (META, (1, 3, SIDE, SIDE))


def test_parts_that_wait_in_main_memory_get_their_inputs_where_they_compute():
    """What `enable_model_cpu_offload` sets up, with `meta` as the GPU: weights move there when they are called."""
    pipe = quiet_pipeline()
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        cpu_offload_with_hook(part, META)
    assert pipe.device == torch.device("cpu")
    run = sampling.run(pipe, "a fox", steps=2, sampler=on_meta(DDIMScheduler, pipe))
    assert run.latents.device == META
    assert latents.decode_tensor(pipe, run.latents).device == META
    assert latents.encode(pipe, picture()).device == META


def test_attention_is_computed_where_the_layer_is(absent):
    layer = absent.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    width = layer.to_q.in_features
    hidden, text = torch.zeros(2, 9, width, device=META), torch.zeros(2, 5, layer.to_k.in_features, device=META)
    probabilities = attention.probabilities(layer, hidden, text)
    assert (probabilities.device, probabilities.shape) == (META, (2, layer.heads, 9, 5))


# Another dtype


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_keep_the_dtype(name, dtype):
    x = FORMULAS[name](normal(*LATENTS, dtype=dtype), normal(*LATENTS, dtype=dtype))
    assert x.dtype == dtype and bool(x.isfinite().all())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_loop_keeps_the_pipelines_dtype(sampler, half):
    """From latents in float32, as well."""
    options = {"steps": 4, "guidance": 4.0, "sampler": sampler.from_config(half.scheduler.config)}
    run = sampling.run(half, "a fox", latents=normal(*LATENTS), **options)
    tensors = [x for s in run.steps for x in (s.latents, s.noise, s.noise_text, s.noise_uncond, s.x0)]
    assert {x.dtype for x in [*tensors, run.latents]} == {half.unet.dtype}
    assert all(bool(x.isfinite().all()) for x in tensors)


def test_generate_draws_what_the_loop_draws(half):
    drawn = generate(half, "a fox", steps=3, guidance=4.0)[0]
    loop = latents.decode(half, sampling.run(half, "a fox", steps=3, guidance=4.0).latents)[0]
    assert np.abs(np.asarray(drawn, float) - np.asarray(loop, float)).max() <= 2  # of 255: the formulas round apart


def test_there_and_back_through_the_vae(half):
    dtype = half.vae.dtype
    for pictures in (picture(), normal(1, 3, SIDE, SIDE).clamp(-1, 1)):
        for options in ({}, {"sample": True, "generator": torch.Generator().manual_seed(0)}):
            x0 = latents.encode(half, pictures, **options)
            assert (x0.dtype, x0.shape) == (dtype, LATENTS)
    for x in (x0, x0.float()):
        assert latents.decode_tensor(half, x).dtype == dtype
        assert latents.decode(half, x)[0].size == (SIDE, SIDE)


def test_attention_is_recorded_in_float32_sliced_or_not(half):
    with attention.capture(half, keep_heads=True) as record:
        drawn = generate(half, "a fox", steps=1)[0]
    assert {x.dtype for call in record.calls for x in call.values()} == {torch.float32}
    heat = record.word("a fox", "fox")
    assert attention.overlay(drawn, heat.to(half.unet.dtype)).size == drawn.size
    half.enable_attention_slicing()
    try:
        with attention.capture(half) as sliced:
            generate(half, "a fox", steps=1)
    finally:
        half.disable_attention_slicing()
    torch.testing.assert_close(sliced.word("a fox", "fox"), heat, atol=0.02, rtol=0)


def test_everything_that_shows_takes_half_precision(half):
    dtype = half.unet.dtype
    x = normal(1, 4, 8, 8, dtype=dtype)
    pixels = normal(3, 8, 8, dtype=dtype).clamp(-1, 1)
    assert plots.as_picture(pixels).dtype == np.uint8
    assert len(latents.channel_pictures(x)[0]) == 4
    assert viewers.step_viewer([pixels, pixels], ["one", "two"]).film
    plots.plt.close(plots.grid([[pixels]]))
    plots.plt.close(plots.lines(torch.arange(3), {"a": x.flatten()[:3]}, xlabel="x", ylabel="y"))


def test_a_pipeline_loads_and_draws_in_half_precision_with_its_safety_checker(tmp_path):
    pipe = load_pipeline(save_full(tmp_path / "model"), device="cpu", dtype=torch.float16)
    parts = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.safety_checker)
    assert {x.dtype for part in parts for x in part.parameters()} == {torch.float16}
    assert generate(pipe, "a fox", steps=2)[0].getbbox() is not None
