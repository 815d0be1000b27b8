"""The model that is shipped: whole, small, loaded by diffusers alone, and what its card and the README say it is."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from evaluation.evaluate import EvaluationConfig, asked, verdicts, weights_key
from evaluation.model_card import of_this_world, write_card
from helpers.checksums import verify_checksums
from helpers.judge import JUDGE, read
from helpers.latents import decode, encode
from helpers.loading import POCKET, load_pipeline
from helpers.measures import psnr
from helpers.pictures import generate
from helpers.scenes import WORDS, draw, random_scene
from training.run_folder import history

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pocket():
    return load_pipeline("pocket", device="cpu")


def test_the_folder_is_small_safe_and_listed():
    files = [path for path in POCKET.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert not [path for path in [*files, *JUDGE.rglob("*")] if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    verify_checksums(POCKET)
    listed = {line.split("  ")[1] for line in (POCKET / "SHA256SUMS").read_text().splitlines()}
    assert {path.relative_to(POCKET).as_posix() for path in files} - listed == {"README.md", "SHA256SUMS"}


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
    scenes = [random_scene(np.random.default_rng(i), things=1 + i % 2) for i in range(32)]
    latents = encode(pocket, [draw(scene) for scene in scenes])
    assert latents.std().item() == pytest.approx(1, abs=0.1)  # of 32 scenes; the factor was fitted on 256


def test_it_draws_what_the_prompt_says(pocket):
    """Eight prompts with one thing, at the settings of the card: seven must be right, for one may fail anywhere."""
    scenes = asked("one thing", EvaluationConfig(pictures=len(WORDS)))[::15]
    found = verdicts(read(generate(pocket, [scene.caption() for scene in scenes], steps=20, seed=0)), scenes)
    assert len(scenes) == 8
    assert min(sum(found["words"]), sum(found["ground"])) >= 7


def test_reconstructions_are_sharp(pocket):
    for kind, least in (("one thing", 29), ("two things", 27.5)):
        real = [draw(scene) for scene in asked(kind, EvaluationConfig(pictures=16))]
        assert np.mean([psnr(a, b) for a, b in zip(real, decode(pocket, encode(pocket, real)), strict=True)]) > least


def test_every_figure_is_of_the_weights_that_are_here():
    key = weights_key(POCKET)
    assert json.loads((POCKET / "evaluation.json").read_text())["weights"] == key
    studies = POCKET / "studies.json"
    found = json.loads(studies.read_text()) if studies.exists() else {}
    assert {study["weights"] for study in found.values()} <= {key}


def test_its_history_tells_which_runs_were_of_another_world():
    before, here = ([run["folder"] for run in history(POCKET) if of_this_world(run) is now] for now in (False, True))
    assert sorted(before) == [f"runs/{name}" for name in ("bound", "bound", "longer", "more", "sharper", "unet", "vae")]
    assert here[:2] == ["runs/vae3", "runs/unet3"]
    assert not [folder for folder in here if Path(folder).is_absolute()]


def test_the_card_is_written_from_the_figures(tmp_path):
    for path in POCKET.rglob("*"):
        if path.is_file() and path.name != "README.md":
            target = tmp_path / path.relative_to(POCKET)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == (POCKET / "README.md").read_text()


def test_the_readme_quotes_the_figures_that_were_measured():
    kinds = json.loads((POCKET / "evaluation.json").read_text())["kinds"]
    readme = (ROOT / "README.md").read_text()
    for kind, result in kinds.items():
        row = re.search(rf"^\| {kind} \|(.*)\|$", readme, re.MULTILINE)
        assert row, kind
        quoted = [float(number) for number in re.findall(r"([\d.]+) %", row[1])]
        asked_for = [what for what in ("words", "style", "ground", "colours") if what in result["model"]]
        assert quoted == [round(100 * result["model"][what]["share"], 1) for what in asked_for]
