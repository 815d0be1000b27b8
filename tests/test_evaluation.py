"""What measures the model: the same for any number of processes, and able to find a copy."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import evaluate, studies
from evaluation.evaluate import EvaluationConfig, sheet, weights_key
from evaluation.measure_samplers import jackknife_error
from evaluation.model_card import commands, studies_section
from evaluation.studies import (
    StudiesConfig,
    distance_study,
    in_parts,
    kept_pictures,
    nearest,
    trained_scenes,
    unseen_scenes,
)
from helpers.loading import POCKET, load_pipeline
from helpers.measures import frechet_distance
from helpers.scenes import draw, random_scene
from tests.accelerated import launch
from training.dataset import training_scenes
from training.flags import flat
from training.unet import UNetConfig

FEW = StudiesConfig(
    evaluation=EvaluationConfig(pictures=4, steps=1, batch_size=2),
    pictures=40,
    kept=3,
    shown=2,
)


@pytest.fixture(scope="module")
def pocket():
    pipe = load_pipeline("pocket", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.nightly
def test_two_processes_find_what_one_finds(tmp_path):
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        shutil.copytree(POCKET, folder)
        arguments = ["--model", str(folder), "--pictures", "3", "--steps", "1"]
        if processes == 1:
            evaluate.main(arguments)
        else:
            launch("evaluation.evaluate", *arguments, processes=processes)
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
    distances, numbers = nearest(training[[4, 2]] + torch.tensor([[0.01], [-0.02]]), training.split(3))
    assert numbers.tolist() == [4, 2]
    torch.testing.assert_close(distances, torch.tensor([0.01, 0.02]), rtol=1e-3, atol=1e-4)


def run_record(program="train_unet", **settings):
    record = {"program": program, "folder": "runs/x", "mixed_precision": "no", "inputs": {}}
    return record | {"settings": json.loads(json.dumps(flat(UNetConfig()) | settings))}


def test_the_scenes_trained_on_are_those_of_all_runs(tmp_path):
    first, second = run_record(scenes=5), run_record(scenes=7, seed=3, pairs=1.0)
    same = run_record(scenes=5, snr_floor=0.5)  # went on with the first one's scenes
    runs = [first, run_record("train_vae"), same, second]
    (tmp_path / "training.json").write_text(json.dumps({"runs": runs}))
    scenes = trained_scenes(tmp_path)
    one = UNetConfig(scenes=5)
    other = UNetConfig(scenes=7, pairs=1.0, loop=replace(one.loop, seed=3))
    assert scenes == [*training_scenes(one), *training_scenes(other)]
    with pytest.raises(FileNotFoundError, match="nobody knows what it was shown"):
        trained_scenes(tmp_path / "elsewhere")


def test_the_card_repeats_the_runs_as_they_were():
    run = run_record(scenes=5, channels=[16, 32], min_snr_gamma=float("inf"), learning_rate=9e-4)
    run |= {"mixed_precision": "bf16", "note": "Remarkable.", "inputs": {"start_from": {"folder": "a/b", "key": "1"}}}
    text = commands([run]).replace(" \\\n       ", "")
    assert text.startswith(
        "    # Remarkable.\n    accelerate launch --mixed_precision bf16 -m training.train_unet --folder runs/x "
        "--start-from a/b --channels 16 32 --scenes 5 --min-snr-gamma inf --learning-rate 0.0009\n"
    )
    evaluated, replaced = (text.index(what) for what in ("evaluate --model runs/x/pipeline", "cp -r runs/x/pipeline/."))
    assert evaluated < replaced


def test_the_jackknife_leaves_out_both_kinds_of_scenes_evenly():
    """Pictures of one object and of two alternate and have other features: the error is still that of repetitions."""
    kinds = torch.tensor([[3.0, 0.0], [-3.0, 0.0]]).repeat(50, 1)

    def features(seed):
        return kinds + torch.randn(100, 2, generator=torch.Generator().manual_seed(seed))

    reference = torch.cat([features(seed) for seed in range(1000, 1020)])
    sets = [features(seed) for seed in range(200)]
    spread = np.std([frechet_distance(found, reference) for found in sets])
    errors = [jackknife_error(found, reference, 10) for found in sets[:50]]
    assert np.median(errors) == pytest.approx(spread, rel=0.3)


def test_copies_of_the_training_set_are_found_out(pocket, tmp_path, monkeypatch):
    """A model that only repeats training scenes is nearer to them than unseen pictures are; another is not."""
    rng = np.random.default_rng(0)
    training = [random_scene(rng, objects=1 + i % 2) for i in range(60)]
    copies = {1: iter(s for s in training if s.relation is None), 2: iter(s for s in training if s.relation)}
    scenes = unseen_scenes(FEW, FEW.seed)
    repeated = [draw(next(copies[len(scene.words)])) for scene in scenes]
    for pictures, share in ((repeated, 1.0), ([draw(scene) for scene in scenes], None)):
        monkeypatch.setattr(studies, "kept_pictures", lambda *_, pictures=pictures: pictures)
        results, picture = distance_study(pocket, training, FEW, studies.Accelerator(cpu=True), tmp_path)
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
