"""The model that is shipped: whole, small, loaded by diffusers alone."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from helpers.judge import JUDGE
from helpers.latents import decode, encode, psnr
from helpers.loading import POCKET, load_pipeline, verify_checksums
from helpers.scenes import draw, random_scene
from training.evaluate import EvaluationConfig, held_out_scenes, pair_scenes, single_scenes


@pytest.fixture(scope="module")
def pocket():
    return load_pipeline("pocket", device="cpu")


def test_the_folder_is_small_safe_and_listed():
    files = [path for path in POCKET.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert not [path for path in [*files, *JUDGE.rglob("*")] if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    verify_checksums(POCKET)
    listed = {line.split("  ")[1] for line in (POCKET / "SHA256SUMS").read_text().splitlines()}
    assert {path.relative_to(POCKET).as_posix() for path in files} - listed <= {"README.md", "SHA256SUMS"}


def test_it_loads_with_diffusers_alone_and_draws_the_same_picture(pocket):
    plain = StableDiffusionPipeline.from_pretrained(POCKET)
    plain.set_progress_bar_config(disable=True)
    pictures = [
        np.asarray(
            pipe("a fox", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0], dtype=int
        )
        for pipe in (plain, pocket)
    ]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert {part.dtype for part in (plain.unet, plain.vae, plain.text_encoder)} == {torch.float32}


def test_it_has_the_format_of_stable_diffusion(pocket):
    assert (pocket.unet.config.in_channels, pocket.unet.config.sample_size, pocket.vae_scale_factor) == (4, 16, 8)
    config = pocket.scheduler.config
    assert (config.beta_schedule, config.beta_start, config.beta_end) == ("scaled_linear", 0.00085, 0.012)
    assert (config.num_train_timesteps, config.prediction_type) == (1000, "epsilon")


def test_latents_have_unit_variance(pocket):
    scenes = [random_scene(np.random.default_rng(i), objects=1 + i % 2) for i in range(32)]
    latents = encode(pocket, [draw(scene) for scene in scenes])
    assert latents.std().item() == pytest.approx(1, abs=0.1)  # of 32 scenes; the factor was fitted on 256


def test_reconstructions_are_sharp(pocket):
    real = [draw(scene) for scene in pair_scenes(EvaluationConfig(pictures=16))]
    assert np.mean([psnr(a, b) for a, b in zip(real, decode(pocket, encode(pocket, real)), strict=True)]) > 26


def test_evaluation_asks_for_what_was_and_was_not_trained():
    config = EvaluationConfig()
    assert not any(scene.held_out() for scene in single_scenes(config) + pair_scenes(config))
    assert all(scene.held_out() for scene in held_out_scenes(config))
    assert len({scene.words for scene in single_scenes(config)}) == 124
