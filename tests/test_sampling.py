"""The denoising loop is the pipeline's, and the steps by hand are those of diffusers' schedulers."""

import itertools

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)
from torch.testing import assert_close

from helpers import inputs
from helpers.sampling import Run, ddim_step, ddpm_step, denoise, guide, predict_x0, run
from helpers.schedules import add_noise, alpha_bar, betas
from tests.pipelines.tiny import randn, tiny_pipeline

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ALPHA_BAR = alpha_bar(betas())
SHAPE = (2, 4, 4, 4)
SAMPLERS = {
    "ddim": lambda config: DDIMScheduler.from_config(config),
    "pndm": lambda config: PNDMScheduler.from_config(config, skip_prk_steps=True),  # as in Stable Diffusion
    "euler": lambda config: EulerDiscreteScheduler.from_config(config),
}


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def no_unet(pipe, monkeypatch):
    """The pipeline with a U-Net and a text encoder that must not be called."""

    def called(*args, **options):
        raise AssertionError("called before the inputs were checked")

    monkeypatch.setattr(pipe.unet, "forward", called)
    monkeypatch.setattr(pipe.text_encoder, "forward", called)
    return pipe


def noise_of(x, a):
    """A stand-in for the U-Net: near the noise of data that is standard normal, so that a run stays near 1."""
    return (1 - a).sqrt() * x + 0.1 * torch.sin(3 * x)


# Steps by hand


def run_tolerance(steps):
    """Each run goes on from its own last step, so that differences add up.

    Measured: 2e-6 in 25 steps, 6e-5 in 1000. There a step's beta is 1 minus a ratio near 1, which leaves four of
    float32's seven digits in diffusers' numbers.
    """
    return {"rtol": 0, "atol": 1e-5 if steps <= 25 else 2e-4}


@pytest.mark.parametrize("steps", [1, 7, 25, 1000])
def test_ddpm_steps_are_those_of_diffusers_at_every_timestep_of_a_run(steps):
    scheduler = DDPMScheduler(**STABLE_DIFFUSION, clip_sample=False, variance_type="fixed_small")
    scheduler.set_timesteps(steps)
    theirs, ours = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    x = expected = randn(*SHAPE)
    timesteps = scheduler.timesteps.tolist()
    for t, t_prev in zip(timesteps, [*timesteps[1:], -1], strict=True):
        expected = scheduler.step(
            noise_of(expected, ALPHA_BAR[t]), torch.tensor(t), expected, generator=theirs
        ).prev_sample
        x = ddpm_step(x, noise_of(x, ALPHA_BAR[t]), t, t_prev, ALPHA_BAR, torch.randn(SHAPE, generator=ours))
        assert_close(x, expected, **run_tolerance(steps))


@pytest.mark.parametrize(
    ("steps", "eta", "to_one"),
    [*itertools.product([1, 7, 25], [0.0, 0.5, 1.0], [False, True]), (999, 0.0, False), (999, 1.0, True)],
)
def test_ddim_steps_are_those_of_diffusers_at_every_timestep_of_a_run(steps, eta, to_one):
    scheduler = DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False, set_alpha_to_one=to_one, steps_offset=1)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(1)
    x = expected = randn(*SHAPE)
    for t in scheduler.timesteps.tolist():
        noise = torch.randn(SHAPE, generator=generator)
        expected = scheduler.step(
            noise_of(expected, ALPHA_BAR[t]), t, expected, eta=eta, variance_noise=noise
        ).prev_sample
        t_prev = max(t - 1000 // steps, -1 if to_one else 0)
        x = ddim_step(x, noise_of(x, ALPHA_BAR[t]), t, t_prev, ALPHA_BAR, eta, noise)
        assert_close(x, expected, **run_tolerance(steps))


def test_ddim_with_eta_one_is_ddpm():
    x, eps, noise = randn(*SHAPE), randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
    for t in (*range(0, 999, 27), 999):
        for t_prev in {t - 1, max(t - 40, -1)}:
            assert_close(
                ddim_step(x, eps, t, t_prev, ALPHA_BAR, 1.0, noise),
                ddpm_step(x, eps, t, t_prev, ALPHA_BAR, noise),
                # x0 is up to 60 on the way, at the last timesteps.
                rtol=0,
                atol=3e-5,
            )


def test_the_true_noise_leads_back_to_the_picture():
    x0, eps = randn(*SHAPE), randn(*SHAPE, seed=1)
    for t in range(0, 1000, 37):
        x_t = add_noise(x0, eps, t, ALPHA_BAR)
        # Rounding of x_t, divided by sqrt(alpha_bar), which is at least 1/15.
        assert_close(predict_x0(x_t, eps, t, ALPHA_BAR), x0, rtol=0, atol=1e-5)
        assert_close(ddim_step(x_t, eps, t, -1, ALPHA_BAR), x0, rtol=0, atol=1e-5)
        up = ddim_step(x_t, eps, t, 999, ALPHA_BAR)
        assert_close(up, add_noise(x0, eps, 999, ALPHA_BAR), rtol=0, atol=1e-5)


def test_guidance_of_zero_one_and_more():
    uncond, text = randn(*SHAPE), randn(*SHAPE, seed=1)
    assert torch.equal(guide(uncond, text, 0.0), uncond)
    assert_close(guide(uncond, text, 1.0), text, rtol=0, atol=1e-6)
    assert_close(guide(uncond, text, 4.0), 4 * text - 3 * uncond, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float16), ("cpu", torch.bfloat16), ("meta", torch.float32)], ids=str
)
def test_dtype_and_device_are_kept(device, dtype):
    x, eps, noise = (randn(*SHAPE, seed=seed).to(device, dtype) for seed in range(3))
    results = [
        predict_x0(x, eps, 500, ALPHA_BAR),
        ddpm_step(x, eps, 500, 460, ALPHA_BAR, noise),
        ddim_step(x, eps, 500, 460, ALPHA_BAR),
        ddim_step(x, eps, torch.tensor(500), torch.tensor(460), ALPHA_BAR, 1.0, noise),
        guide(eps, noise, 7.5),
    ]
    for result in results:
        assert (result.device.type, result.dtype, result.shape) == (device, dtype, x.shape)


@pytest.mark.parametrize(
    ("function", "arguments", "part"),
    [
        (ddpm_step, (1000, 999), "t is 1000"),
        (ddpm_step, (5, -2), "t is -2"),
        (ddpm_step, (5, 5), "t_prev is 5 and t is 5"),
        (ddpm_step, (5, 6), "t_prev is 6 and t is 5"),
        (ddpm_step, (-1, -1), "t is -1"),
        (ddpm_step, (5.0, 4), "t is 5.0"),
        (ddim_step, (1000, 999), "t is 1000"),
        (ddim_step, (torch.tensor([5, 6]), 4), "one whole number"),
        (ddim_step, (40, -39), "t is -39"),  # what diffusers calls the timestep before 1
    ],
)
def test_timesteps_that_cannot_be_are_refused(function, arguments, part):
    x = randn(*SHAPE)
    with pytest.raises(ValueError) as error:
        function(x, x, *arguments, ALPHA_BAR, noise=x)
    assert part in str(error.value)


def test_other_bad_input_of_a_step_is_refused():
    x = randn(*SHAPE)
    with pytest.raises(ValueError, match=r"eta is 1\.5: choose a number from 0"):
        ddim_step(x, x, 5, 4, ALPHA_BAR, 1.5, x)
    with pytest.raises(ValueError, match="noise is None"):
        ddim_step(x, x, 5, 4, ALPHA_BAR, 1.0)
    with pytest.raises(ValueError, match="towards noise needs eta 0"):
        ddim_step(x, x, 4, 5, ALPHA_BAR, 1.0, x)


# The loop


@pytest.mark.parametrize(("guidance", "negative_prompt"), [(1, ""), (4, ""), (4, "a red owl")])
@pytest.mark.parametrize("name", SAMPLERS)
def test_latents_are_those_of_the_pipeline(pipe, monkeypatch, name, guidance, negative_prompt):
    monkeypatch.setattr(pipe, "scheduler", SAMPLERS[name](pipe.scheduler.config))
    options = {"num_inference_steps": 5, "guidance_scale": guidance, "negative_prompt": negative_prompt}
    result = run(pipe, "a fox", steps=5, guidance=guidance, seed=3, negative_prompt=negative_prompt)
    expected = pipe("a fox", generator=torch.Generator().manual_seed(3), output_type="latent", **options).images
    # The same operations in the same order; 1e-5 allows for a machine that adds up in another one.
    assert_close(result.latents, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_samplers_that_draw_noise_draw_that_of_the_pipeline(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "scheduler", DDPMScheduler.from_config(pipe.scheduler.config))
    expected = pipe(
        "a fox",
        num_inference_steps=5,
        guidance_scale=4,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    result = run(pipe, "a fox", steps=5, guidance=4, seed=3)
    assert_close(result.latents, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    "kind",
    [
        DDIMScheduler,
        DDPMScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        KDPM2DiscreteScheduler,
        DPMSolverMultistepScheduler,
    ],
)
def test_every_step_is_a_record_of_what_the_sampler_did(pipe, kind):
    sampler = kind.from_config(pipe.scheduler.config)
    result = run(pipe, "a fox", steps=4, guidance=4, sampler=sampler)
    assert isinstance(result, Run)
    assert [step.index for step in result.steps] == list(range(len(result.steps)))
    sampler.set_timesteps(4)
    assert [step.t for step in result.steps] == sampler.timesteps.tolist()
    generator = torch.Generator().manual_seed(0)
    generated = torch.randn((1, 4, 32, 32), generator=generator)
    options = {"generator": generator} if kind is DDPMScheduler else {}
    x = generated * sampler.init_noise_sigma
    for step, t in zip(result.steps, sampler.timesteps, strict=True):
        assert torch.equal(step.latents, x)
        assert torch.equal(step.noise, guide(step.noise_uncond, step.noise_text, 4.0))
        sampler.scale_model_input(x, t)
        x, *x0 = sampler.step(step.noise, t, x, **options, return_dict=False)
        x0 = x0[0] if x0 else sampler.model_outputs[-1]  # DPM-Solver++ keeps its estimate to itself
        # Numbers up to 15 times those of x_t, in which float32 leaves 1e-6 of each.
        assert_close(step.x0, x0, rtol=1e-4, atol=1e-4)
    assert torch.equal(result.latents, x)


def test_pndm_calls_the_unet_once_more_than_it_has_steps(pipe):
    sampler = SAMPLERS["pndm"](pipe.scheduler.config)
    steps = run(pipe, "a fox", steps=5, sampler=sampler).steps
    assert [step.t for step in steps] == [801, 601, 601, 401, 201, 1]
    for step in steps:
        a = ALPHA_BAR[step.t]
        assert_close(step.x0 * a.sqrt() + step.noise * (1 - a).sqrt(), step.latents, rtol=0, atol=1e-4)


def test_the_unet_is_called_once_a_step_and_for_the_prompt_alone_with_guidance_one(pipe, monkeypatch):
    batches, forward = [], pipe.unet.forward

    def counted(sample, *args, **options):
        batches.append(len(sample))
        return forward(sample, *args, **options)

    monkeypatch.setattr(pipe.unet, "forward", counted)
    steps = run(pipe, "a fox", steps=3, guidance=4).steps
    assert batches == [2, 2, 2]
    batches.clear()
    steps = run(pipe, "a fox", steps=3, guidance=1).steps
    assert batches == [1, 1, 1]
    assert all(step.noise_uncond is None and step.noise is step.noise_text for step in steps)


def test_guidance_below_one_does_what_the_formula_says(pipe):
    nothing, half = (run(pipe, "a fox", steps=3, guidance=scale).steps[0] for scale in (0, 0.5))
    assert torch.equal(nothing.noise, nothing.noise_uncond)
    assert_close(half.noise, (half.noise_uncond + half.noise_text) / 2, rtol=0, atol=1e-5)


def test_a_list_of_prompts_gives_what_each_gives_alone(pipe):
    together = run(pipe, ["a fox", "an owl"], steps=3, seed=7, negative_prompt="red").latents
    alone = [
        run(pipe, prompt, steps=3, seed=7 + i, negative_prompt="red").latents
        for i, prompt in enumerate(["a fox", "an owl"])
    ]
    # A batch of another size may be added up in another order.
    assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_runs_can_be_taken_step_by_step_side_by_side(pipe):
    sampler = SAMPLERS["euler"](pipe.scheduler.config)
    before = sampler.timesteps
    pairs = list(
        zip(
            denoise(pipe, "a fox", steps=4, sampler=sampler),
            denoise(pipe, "an owl", steps=4, sampler=sampler),
            strict=True,
        )
    )
    assert sampler.timesteps is before
    for i, prompt in enumerate(["a fox", "an owl"]):
        last = run(pipe, prompt, steps=4, sampler=sampler).steps[-1]
        assert torch.equal(pairs[-1][i].x0, last.x0)


def test_latents_can_be_given_and_sizes_chosen(pipe):
    noise = torch.randn((1, 4, 32, 32), generator=torch.Generator().manual_seed(0))
    drawn = run(pipe, "a fox", steps=2).latents
    assert torch.equal(run(pipe, "a fox", steps=2, seed=9, latents=noise).latents, drawn)
    assert next(denoise(pipe, "a fox", steps=2, height=80)).latents.shape == (1, 4, 40, 32)


def test_gradients_are_off_in_the_loop_and_on_in_the_callers_code(pipe):
    for step in denoise(pipe, "a fox", steps=2):
        assert torch.is_grad_enabled()
        assert not step.noise.requires_grad
        x = step.latents.requires_grad_()  # the tensors can still take part in a gradient
        x.square().sum().backward()
        assert x.grad is not None
    assert torch.is_grad_enabled()


def test_the_default_guidance_is_that_of_generate(pipe, monkeypatch):
    def scale(step):
        return ((step.noise - step.noise_uncond).norm() / (step.noise_text - step.noise_uncond).norm()).item()

    assert scale(next(denoise(pipe, "a fox"))) == pytest.approx(7.5, rel=1e-3)
    monkeypatch.setattr(inputs, "is_pocket", lambda pipe: True)
    assert scale(next(denoise(pipe, "a fox"))) == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize(
    ("prompt", "options", "part"),
    [
        (5, {}, "prompt is 5"),
        ([], {}, "prompt is []"),
        ("a fox", {"negative_prompt": None}, "negative_prompt is None"),
        ("a fox", {"steps": 0}, "steps is 0"),
        ("a fox", {"steps": 2.5}, "steps is 2.5"),
        ("a fox", {"steps": 1000}, "from 1 to 999"),
        ("a fox", {"guidance": -1}, "guidance is -1"),
        ("a fox", {"guidance": "strong"}, "guidance is 'strong'"),
        ("a fox", {"seed": -1}, "seed is -1"),
        ("a fox", {"height": 65}, "height is 65"),
        ("a fox", {"width": 4096}, "width is 4096"),
        ("a fox", {"latents": torch.zeros(1, 4, 8, 8)}, "latents is of shape (1, 4, 8, 8): give a tensor of shape"),
        ("a fox", {"latents": [0.0]}, "latents is a list"),
        ("a fox", {"sampler": "euler"}, "sampler is 'euler'"),
        ("a fox", {"sampler": EulerDiscreteScheduler}, "sampler is EulerDiscreteScheduler: give a"),
        ("a fox", {"sampler": DDIMScheduler(prediction_type="v_prediction")}, "prediction_type 'v_prediction'"),
        ("a fox", {"sampler": FlowMatchEulerDiscreteScheduler()}, "prediction_type None"),
    ],
)
def test_bad_input_is_refused_in_the_call_before_any_work(no_unet, prompt, options, part):
    with pytest.raises(ValueError) as error:
        denoise(no_unet, prompt, **options)
    assert part in str(error.value)


def test_no_work_is_done_before_the_first_step_is_asked_for(no_unet):
    loop = denoise(no_unet, "a fox")
    with pytest.raises(AssertionError, match="called before"):
        next(loop)


def test_what_the_model_will_not_understand_is_said_in_the_call(no_unet, capfd):
    denoise(no_unet, ["a fox" * 10, "an owl"], guidance=1, negative_prompt="red")
    out, err = capfd.readouterr()
    assert "reads only 32 tokens" in out and "no effect with guidance 1" in out
    assert err == ""
