"""What lesson 02 computes by hand is what diffusers computes: the solutions of its exercises, and its own functions."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from torch.testing import assert_close

from helpers.exercises.lesson_02 import estimate_x0, sample, skip_channels, time_embedding
from helpers.schedules import alpha_bar, betas
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import WIDTH, tiny_pipeline

LESSON = NOTEBOOKS / "02_unet_denoising_loop.ipynb"
ALPHA_BAR = alpha_bar(betas())
SHAPE = (2, 4, 4, 4)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predict(x, t):
    """A stand-in for the U-Net: near the noise of data that is standard normal, so that a run stays near 1."""
    return (1 - ALPHA_BAR[t]).sqrt() * x + 0.1 * torch.sin(3 * x)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    width = pipe.unet.config.block_out_channels[0]
    return definitions(LESSON, pipe=pipe, config=pipe.unet.config, alpha_bar=ALPHA_BAR, width=width)


# The exercises


def test_the_estimate_is_the_schedulers_at_every_timestep():
    x_t, eps = normal(*SHAPE), normal(*SHAPE, seed=1)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    scheduler.set_timesteps(1000)
    for t in scheduler.timesteps.tolist():
        theirs = scheduler.step(eps, t, x_t).pred_original_sample
        # The estimates are up to 60 large at the last timesteps.
        assert_close(estimate_x0(x_t, eps, float(scheduler.alphas_cumprod[t])), theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("cos_first", [True, False])
@pytest.mark.parametrize("width", [8, 64, 320])
def test_the_time_embedding_is_the_librarys_at_every_timestep(width, cos_first):
    t = torch.arange(1000)
    theirs = get_timestep_embedding(t, width, flip_sin_to_cos=cos_first, downscale_freq_shift=0)
    # An angle of 999 in float32 is exact to 6e-5, and so is its sine.
    assert_close(time_embedding(t, width, cos_first), theirs, rtol=0, atol=1e-3)


def test_the_time_embedding_is_the_unets_own(pipe):
    t = torch.arange(1000)
    width = pipe.unet.config.block_out_channels[0]
    assert_close(time_embedding(t, width, True), pipe.unet.time_proj(t), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("widths", "layers"), [((8, 16), 1), ((8, 8, 16, 16), 2)])
def test_the_channels_of_the_skips_are_those_of_a_live_unet(widths, layers):
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=widths,
            layers_per_block=layers,
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
            cross_attention_dim=WIDTH,
            norm_num_groups=4,
        )
    kept = []
    for block in unet.up_blocks:  # from below: each takes the last of what is left

        def keep(block, inputs, named):
            kept[:0] = [tensor.shape[1] for tensor in named["res_hidden_states_tuple"]]

        block.register_forward_pre_hook(keep, with_kwargs=True)
    device = torch.device("meta")
    unet(
        torch.zeros(1, 4, 16, 16, device=device), torch.zeros(1, device=device), torch.zeros(1, 2, WIDTH, device=device)
    )
    assert skip_channels(list(widths), layers) == kept


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_the_loop_is_ddim_of_diffusers(steps):
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    start = x = normal(*SHAPE)
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(predict(x, t), t, x).prev_sample
    # Measured: 1e-6 in 25 steps, which add up their roundings.
    assert_close(sample(predict, start, scheduler.timesteps.tolist(), ALPHA_BAR), x, rtol=0, atol=1e-5)


# The functions that the lesson itself writes


def test_the_steps_of_the_lesson_are_those_of_diffusers_at_every_timestep_of_a_run(lesson):
    settings = lesson["pipe"].scheduler.config
    ddpm = DDPMScheduler.from_config(settings, variance_type="fixed_small")
    ddim = DDIMScheduler.from_config(settings)
    times = lesson["timesteps"](25)
    for scheduler, last in ((ddpm, -1), (ddim, 0)):
        scheduler.set_timesteps(25)
        assert times == scheduler.timesteps.tolist()
        ours, theirs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
        x = expected = normal(*SHAPE)
        for t, t_prev in zip(times, [*times[1:], last], strict=True):
            expected = scheduler.step(predict(expected, t), t, expected, generator=theirs).prev_sample
            eps = predict(x, t)
            if scheduler is ddpm:
                x = lesson["ddpm_step"](x, eps, t, t_prev, torch.randn(SHAPE, generator=ours))
            else:
                x = lesson["ddim_step"](x, eps, t, t_prev)
            assert_close(x, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_lessons_time_vector_and_resnet_are_the_unets(lesson, pipe):
    t = torch.tensor([0, 400, 999])
    code = lesson["waves"](t)
    assert_close(code, pipe.unet.time_proj(t), rtol=0, atol=1e-3)
    vector = pipe.unet.time_embedding(code)
    by_hand = pipe.unet.time_embedding.linear_2(F.silu(pipe.unet.time_embedding.linear_1(code)))
    assert_close(by_hand, vector, rtol=0, atol=1e-6)
    for block in (*pipe.unet.down_blocks, pipe.unet.mid_block, *pipe.unet.up_blocks):
        for resnet in block.resnets:
            x = normal(3, resnet.in_channels, 4, 4)
            assert_close(lesson["resnet_by_hand"](resnet, x, vector), resnet(x, vector), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_lesson_traces_and_cuts_the_skips_of_any_unet(lesson, pipe):
    side = pipe.unet.config.sample_size
    inputs = normal(1, 4, side, side), 400, normal(1, 5, WIDTH, seed=1)
    whole = pipe.unet(*inputs).sample
    down, middle, up = lesson["down"], _, _ = lesson["trace"](pipe.unet, *inputs)
    assert [shape[0] for shape in down] == skip_channels(pipe.unet.config.block_out_channels, 1)
    assert [shape[1:] for shape in down] == [shape[1:] for shape in reversed(up)]
    assert middle == (16, side // 2, side // 2)

    answers = []
    for number in range(len(down)):
        with lesson["cut"](number):
            answers.append(pipe.unet(*inputs).sample)
    with lesson["cut"](*range(len(down))), lesson["shallow"]():
        nothing = pipe.unet(*inputs).sample
    assert all(not torch.allclose(answer, whole, atol=1e-6) for answer in [*answers, nothing])
    assert torch.equal(pipe.unet(*inputs).sample, whole)  # the hooks are gone


@torch.no_grad()
def test_cutting_one_skip_silences_its_source_and_no_other(lesson, pipe):
    """With the path from below silent too, only the skips of the last block reach the output."""
    side = pipe.unet.config.sample_size
    inputs = normal(1, 4, side, side), 400, normal(1, 5, WIDTH, seed=1)
    lesson["down"], _, _ = lesson["trace"](pipe.unet, *inputs)
    with lesson["shallow"]():
        alone = pipe.unet(*inputs).sample
        with lesson["cut"](3):  # taken by the first block, below
            assert torch.equal(pipe.unet(*inputs).sample, alone)
        with lesson["cut"](0):
            assert not torch.allclose(pipe.unet(*inputs).sample, alone, atol=1e-6)
