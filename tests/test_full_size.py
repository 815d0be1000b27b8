"""The lessons' own code on a model of the real size of Stable Diffusion 1.5, with random weights, on the CPU.

Two steps at 512 x 512 pixels: nothing that holds for Pocket only can hide in a size. Stored in float16, as such models
are; loaded in float32, as `load_pipeline` does on a CPU, where half precision would take many times as long. It needs
DISK and MEMORY, and is skipped by name where there is less. About 350 seconds of processor time, so
about 3 minutes of two free cores, and about 6 GB.
"""

import shutil
import time

import numpy as np
import psutil
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image

from helpers import attention, latents, sampling, schedules
from helpers.loading import is_pocket, load_pipeline
from tests.pipelines import sd15
from tools.benchmark import peak_memory_mb

pytestmark = pytest.mark.nightly
GIB = 2**30
DISK, MEMORY = 3 * GIB, 10 * GIB
PROMPT = "a fox left of a pizza"
SIDE, GUIDANCE, SEED = 512, 7.5, 3
LATENTS = (1, 4, 64, 64)
CLOSE = {"rtol": 1e-3, "atol": 1e-3}  # two steps of float32 in another order


@pytest.fixture(scope="module")
def seconds():
    """What took how long, by name."""
    return {}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory, request, seconds):
    folder = tmp_path_factory.mktemp("full_size")
    for kind, free, needed in (
        ("disk", shutil.disk_usage(folder).free, DISK),
        ("memory", psutil.virtual_memory().available, MEMORY),
    ):
        if free < needed:
            pytest.skip(f"The model at full size needs {needed / GIB:.0f} GB of {kind}, and {free / GIB:.1f} are free")
    start = time.perf_counter()
    sd15.full_size().to(torch.float16).save_pretrained(folder)
    seconds["made and saved"] = time.perf_counter() - start
    start = time.perf_counter()
    pipe = load_pipeline(folder, device="cpu")
    seconds["loaded"] = time.perf_counter() - start
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)  # two steps are two calls of the U-Net
    yield pipe
    shutil.rmtree(folder)
    said = ", ".join(f"{name} {taken:.0f} s" for name, taken in seconds.items() if taken >= 1)
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\nfull size: {said}; together {sum(seconds.values()):.0f} s, peak {peak_memory_mb() / 1000:.1f} GB")


@pytest.fixture(autouse=True)
def timed(pipe, request, seconds):
    start = time.perf_counter()
    yield
    seconds[request.node.name.removeprefix("test_").replace("_", " ")] = time.perf_counter() - start


@pytest.fixture(scope="module")
def drawn(pipe, seconds):
    """Two guided steps of `denoise`, and what cross-attention did in them."""
    start = time.perf_counter()
    with attention.capture(pipe) as record:
        run = sampling.run(pipe, PROMPT, steps=2, guidance=GUIDANCE, seed=SEED)
    seconds["two steps with attention recorded"] = time.perf_counter() - start
    return run, record


def test_sizes(pipe):
    parts = {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}
    assert {name: sum(p.numel() for p in getattr(pipe, name).parameters()) for name in parts} == parts
    assert {getattr(pipe, name).dtype for name in parts} == {torch.float32}
    assert not is_pocket(pipe)
    ids = pipe.tokenizer(PROMPT, padding="max_length").input_ids
    assert (len(pipe.tokenizer), len(ids), ids[0], ids[-1]) == (49_408, 77, 49_406, 49_407)
    text, uncond = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    assert text.shape == uncond.shape == (1, 77, 768)


def test_denoising(drawn):
    run, _ = drawn
    assert [step.t for step in run.steps] == [501, 1]
    for step in run.steps:
        for x in (step.latents, step.noise_uncond, step.noise_text, step.noise, step.x0):
            assert x.shape == LATENTS and bool(x.isfinite().all())
    assert run.latents.shape == LATENTS
    assert float((run.steps[0].noise_text - run.steps[0].noise_uncond).abs().max()) > 1e-4  # the prompt is heard


def test_the_pipeline_gives_the_same_latents(pipe, drawn):
    generator = torch.Generator("cpu").manual_seed(SEED)
    options = {"num_inference_steps": 2, "guidance_scale": GUIDANCE, "output_type": "latent"}
    torch.testing.assert_close(pipe(PROMPT, generator=generator, **options).images, drawn[0].latents, **CLOSE)


def test_attention_maps(drawn):
    _, record = drawn
    sizes = list(record.layers.values())
    assert {size: sizes.count(size) for size in sizes} == {(64, 64): 5, (32, 32): 5, (16, 16): 5, (8, 8): 1}
    assert record.timesteps == [501, 1]
    probabilities = record.maps()
    assert probabilities.shape == (64, 64, 77)
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(64, 64))
    assert record.word(PROMPT, "pizza").shape == (64, 64)


def test_decoding(pipe, drawn):
    pixels = latents.decode_tensor(pipe, drawn[0].latents)
    assert pixels.shape == (1, 3, SIDE, SIDE) and bool(pixels.isfinite().all())
    (picture,) = pipe.image_processor.postprocess(pixels, output_type="pil")
    assert picture.size == (SIDE, SIDE)


@torch.no_grad()
def test_image_to_image(pipe):
    """The last two of four steps from a noisy picture, by our formulas and by diffusers' own pipeline."""
    photo = Image.fromarray(np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8))
    alpha_bar = schedules.alpha_bar(schedules.betas())
    generator = torch.Generator("cpu").manual_seed(SEED)
    x0 = latents.encode(pipe, photo, sample=True, generator=generator)
    assert x0.shape == LATENTS
    eps = torch.randn(x0.shape, generator=generator)
    x = schedules.add_noise(x0, eps, 251, alpha_bar)
    text, uncond = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    both = torch.cat([uncond, text])
    for t, t_prev in ((251, 1), (1, 0)):
        noise_uncond, noise_text = pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=both).sample.chunk(2)
        x = sampling.ddim_step(x, sampling.guide(noise_uncond, noise_text, GUIDANCE), t, t_prev, alpha_bar)

    theirs = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        PROMPT,
        image=photo,
        strength=0.5,
        num_inference_steps=4,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(SEED),
        output_type="latent",
    ).images
    torch.testing.assert_close(x, expected, **CLOSE)
