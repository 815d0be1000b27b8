"""What measures the model: the same for any number of processes, and able to find a copy."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.loading import POCKET, load_pipeline
from helpers.scenes import draw
from tests.test_training import launch
from training import studies
from training.evaluate import EvaluationConfig, sheet, weights_key
from training.model_card import studies_section
from training.studies import StudiesConfig, distance_study, in_parts, kept_pictures, nearest, unseen_scenes
from training.train_unet import UNetConfig, training_scenes

FEW = StudiesConfig(
    evaluation=EvaluationConfig(pictures=4, steps=1, batch_size=2),
    pictures=40,
    kept=3,
    training=UNetConfig(scenes=60),
    shown=2,
)


@pytest.fixture(scope="module")
def pocket():
    pipe = load_pipeline("pocket", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        shutil.copytree(POCKET, folder)
        launch("training.evaluate", "--model", folder, "--pictures", 3, "--steps", 1, processes=processes)
        samples = np.asarray(Image.open(folder / "samples.webp"), dtype=int)
        found.append((json.loads((folder / "evaluation.json").read_text()), samples))
    (alone, samples_alone), (shared, samples_shared) = found
    # Each process has fewer threads, which add in another order: pixels change by 1 before WebP loses more (0.6 of 255
    # measured; other pictures would differ by 50). No reading may change.
    assert np.abs(samples_alone - samples_shared).mean() < 2
    assert shared["kinds"].keys() == alone["kinds"].keys()
    for kind, figures in alone["kinds"].items():
        assert shared["kinds"][kind] == figures | {"psnr": pytest.approx(figures["psnr"], abs=0.01)}


def test_pictures_are_kept_part_by_part_and_drawn_once(pocket, tmp_path, monkeypatch):
    accelerator = studies.Accelerator(cpu=True)
    scenes = unseen_scenes(FEW, 0)[:5]
    first = kept_pictures(pocket, scenes, FEW, FEW.evaluation, accelerator, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000-00003.npy", "00003-00005.npy"]

    drawn = []

    def counted(pipe, prompts, *others, **named):
        drawn.append(list(prompts))
        return draw_with(pipe, prompts, *others, **named)

    draw_with = studies.draw_with
    monkeypatch.setattr(studies, "draw_with", counted)
    (tmp_path / "00003-00005.npy").unlink()  # as if it had been stopped here
    again = kept_pictures(pocket, scenes, FEW, FEW.evaluation, accelerator, tmp_path)
    assert drawn == [[scene.caption() for scene in scenes[3:]]]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_nearest_row_is_found():
    rng = torch.Generator().manual_seed(0)
    training = torch.rand(7, 12, generator=rng)
    distances, numbers = nearest(training[[4, 2]] + torch.tensor([[0.01], [-0.02]]), training)
    assert numbers.tolist() == [4, 2]
    torch.testing.assert_close(distances, torch.tensor([0.01, 0.02]), rtol=1e-3, atol=1e-4)


def test_copies_of_the_training_set_are_found_out(pocket, tmp_path, monkeypatch):
    """A model that only repeats training scenes is nearer to them than unseen pictures are; another is not."""
    training = training_scenes(FEW.training)
    copies = {1: iter(s for s in training if s.relation is None), 2: iter(s for s in training if s.relation)}
    scenes = unseen_scenes(FEW, FEW.seed)
    repeated = [draw(next(copies[len(scene.words)])) for scene in scenes]
    for pictures, share in ((repeated, 1.0), ([draw(scene) for scene in scenes], None)):
        monkeypatch.setattr(studies, "kept_pictures", lambda *_, pictures=pictures: pictures)
        results, picture = distance_study(pocket, FEW, studies.Accelerator(cpu=True), tmp_path)
        for kind in studies.KINDS:
            found = results["nearest"][kind]
            if share:
                assert found["model"] == {"median": pytest.approx(0, abs=1e-3), "nearer than 95 %": share}
            else:
                assert found["model"] == found["real"]
            assert found["reconstruction"]["nearer than 95 %"] == pytest.approx(0.05, abs=0.001)
        assert picture.size == (2 * 128, 4 * 128)
    # These were the real pictures themselves.
    assert results["frechet"]["model"] == pytest.approx(results["frechet"]["real"])
    assert results["judged"]["one object"]["words"] > 0.9


def test_the_settings_are_what_the_pictures_were_drawn_with(pocket, tmp_path, monkeypatch):
    asked = []

    def drawn(pipe, prompts, evaluation, accelerator, first=0):
        asked.append((evaluation.steps, evaluation.guidance))
        return [Image.new("RGB", (128, 128))] * len(prompts)

    monkeypatch.setattr(studies, "draw_with", drawn)
    results = studies.settings_study(pocket, FEW, studies.Accelerator(cpu=True), tmp_path)
    guided = FEW.evaluation.guidance
    assert set(asked) == {(steps, guided) for steps in FEW.steps} | {(1, guidance) for guidance in FEW.guidances}
    assert list(results["steps"]) == [str(steps) for steps in FEW.steps]
    section = studies_section({"settings": results})
    assert "| 100 | 4 | 0.0 % (0.0 %) | 0.0 % (0.0 %) |" in section
    assert section.count("0.0 % (0.0 %) |\n") == len(FEW.steps) + len(FEW.guidances) - 1  # the default stands once


def test_noise_errors_are_those_of_the_definition(pocket):
    """At a timestep where nearly all is noise, the model predicts nearly all of it."""
    errors = studies.noise_errors(pocket, FEW)
    assert list(errors) == [str(t) for t in FEW.timesteps]
    values = list(errors.values())
    assert values == sorted(values, reverse=True)  # the less of the picture is left, the easier the noise is told
    assert values[-1] < 0.02 < values[0] < 1


def test_parts_and_sheets():
    assert [(part.start, part.stop) for part in in_parts(5, 2)] == [(0, 2), (2, 4), (4, 5)]
    picture = sheet([Image.new("RGB", (2, 3), colour) for colour in ("red", "lime", "blue")], columns=2)
    assert picture.size == (4, 6)
    assert [picture.getpixel(at) for at in ((0, 0), (3, 0), (1, 5), (3, 5))] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (0, 0, 0),
    ]


def test_the_key_changes_with_the_weights(tmp_path):
    for name in ("unet", "vae"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    key = weights_key(tmp_path)
    (tmp_path / "README.md").write_text("words")
    assert weights_key(tmp_path) == key
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"other")
    assert weights_key(tmp_path) != key
