"""What measures the model: what counts as right, how sure a share is, the same for any number of processes, and able to
find a copy.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from evaluation import evaluate, studies
from evaluation.evaluate import (
    KINDS,
    EvaluationConfig,
    asked,
    first_looks,
    judged,
    paired,
    share,
    sharpness,
    sheet,
    variety,
    verdicts,
    weights_key,
)
from evaluation.measure_samplers import jackknife_error
from evaluation.model_card import commands, per_cent, studies_section, write_card
from evaluation.studies import (
    StudiesConfig,
    distance_study,
    in_parts,
    kept_pictures,
    nearest,
    trained_scenes,
    unseen_scenes,
)
from helpers import judge
from helpers.judge import Judge, Reading
from helpers.latents import decode
from helpers.loading import POCKET, load_pipeline
from helpers.measures import frechet_distance
from helpers.scenes import (
    STYLES,
    WORDS,
    Scene,
    Thing,
    draw,
    held_out_colour,
    held_out_style,
    random_scene,
    takes_colours,
    vary,
)
from tests.accelerated import launch
from tests.pipelines.tiny import tiny_pipeline
from training.dataset import training_scenes
from training.flags import flat
from training.unet import UNetConfig

FEW = StudiesConfig(
    evaluation=EvaluationConfig(pictures=4, steps=1, batch_size=2),
    pictures=40,
    kept=3,
    shown=2,
)


@pytest.fixture(autouse=True)
def any_judge(monkeypatch):
    """What is tested here does not depend on what is read: a judge at random is enough."""
    torch.manual_seed(0)
    net = Judge().eval()
    monkeypatch.setattr(judge, "load_judge", lambda: net)


@pytest.fixture(scope="module")
def pocket():
    pipe = load_pipeline("pocket", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_every_kind_asks_for_what_it_says():
    scenes = {kind: make(240, 7) for kind, (make, _) in KINDS.items()}
    assert len({scene.words for scene in scenes["one thing"]}) == 120
    assert all(len(scene.things) == 1 and not scene.held_out for scene in scenes["one thing"])
    assert all(len(scene.things) == 2 and not scene.held_out for scene in scenes["two things"])
    assert all(len({thing.colour for thing in scene.things} - {None}) == 2 for scene in scenes["two colours"])
    for scene in scenes["held-out styles"]:
        assert held_out_style(scene.words[0], scene.style) and scene.things[0].colour is None
    for scene in scenes["held-out colours"]:
        (thing,) = scene.things
        assert held_out_colour(thing.word, thing.colour) and takes_colours(thing.word, scene.style)
        assert not held_out_style(thing.word, scene.style)
    assert min(map(len, scenes.values())) > 150
    pairs = {(scene.words[0], scene.style) for scene in scenes["held-out styles"]}
    assert pairs == {(word, style) for word in WORDS for style in STYLES if held_out_style(word, style)}
    config = EvaluationConfig(pictures=5)
    assert [len(asked(kind, config)) for kind in KINDS] == [5] * len(KINDS)


BLUE_FOX, RED_CAR, OWL = Thing("fox", "blue"), Thing("car", "red"), Thing("owl")


def reading(words, colours, layout="beside", style="flat", ground="white"):
    return Reading(layout, words, colours, style, ground)


@pytest.mark.parametrize(
    ("scene", "read", "right"),
    [
        (Scene((BLUE_FOX, RED_CAR), "left of"), reading(("fox", "car"), ("blue", "red")), {"words", "colours"}),
        (Scene((BLUE_FOX, RED_CAR), "right of"), reading(("car", "fox"), ("red", "blue")), {"words", "colours"}),
        (Scene((BLUE_FOX, RED_CAR), "left of"), reading(("car", "fox"), ("blue", "red")), {"colours"}),
        (Scene((BLUE_FOX, RED_CAR), "left of"), reading(("fox", "car"), ("red", "blue")), {"words", "swapped"}),
        (Scene((BLUE_FOX, RED_CAR), "left of"), reading(("fox", "car"), ("blue", "blue")), {"words", "leaked"}),
        (Scene((BLUE_FOX, RED_CAR), "left of"), reading(("fox",), ("blue",), layout="one"), set()),
        (Scene((BLUE_FOX, OWL), "left of"), reading(("fox", "owl"), ("blue", "blue")), {"words", "colours"}),
        (Scene((OWL,)), reading(("owl",), ("red",), layout="one"), {"words"}),
        (Scene((OWL,)), reading(("owl",), ("red",), layout="above"), set()),
    ],
)
def test_what_is_right_in_a_picture(scene, read, right):
    found = verdicts([read], [scene])
    assert found["style"] == found["ground"] == [True]
    assert {name for name in ("words", "colours", "swapped", "leaked") if found[name] == [True]} == right
    two = len({thing.colour for thing in scene.things} - {None}) == 2
    assert (found["swapped"] == [None]) == (found["leaked"] == [None]) == (not two)


def test_a_share_has_the_interval_of_wilson_and_clusters_count_once():
    """Wilson (1927): 9 of 10 lie within 0.596 and 0.982; the same pictures in five pairs are as sure as five."""
    values = [True] * 9 + [False]
    found = share([*values, None])
    assert (found["share"], found["pictures"]) == (0.9, 10)
    assert (found["low"], found["high"]) == pytest.approx((0.596, 0.982), abs=1e-3)
    pairs = share(values, [i // 2 for i in range(10)])
    assert pairs["low"] < found["low"]
    assert (pairs["share"], pairs["pictures"], pairs["clusters"]) == (0.9, 10, 5)
    assert share([True] * 20)["high"] == pytest.approx(1) and share([None]) == {}


def test_the_paired_test_is_that_of_coins():
    one, other = [True] * 6 + [False, True], [False] * 6 + [True, True]
    assert paired(one, other) == {"only the first": 6, "only the second": 1, "p": pytest.approx(2 * 8 / 128)}
    assert paired("1", "1")["p"] == 1
    assert paired("1101", "0001") == {"only the first": 2, "only the second": 0, "p": 0.5}


def test_what_is_judged_can_be_compared_picture_by_picture(monkeypatch):
    scenes = [Scene((OWL,)), Scene((Thing("fox"),)), Scene((OWL,))]
    readings = [reading((word,), ("red",), layout="one") for word in ("owl", "owl", "owl")]
    monkeypatch.setattr(evaluate, "read", lambda pictures: readings)
    found = judged([draw(scene) for scene in scenes], scenes, [scene.words for scene in scenes])
    assert found["right"] == "101"
    assert found["words"]["share"] == pytest.approx(2 / 3) and found["words"]["clusters"] == 2
    assert found["style"]["share"] == found["ground"]["share"] == 1
    assert not {"colours", "swapped", "leaked"} & set(found)  # no caption names a colour
    assert found["words, none named"] == found["words"] and "words, colour named" not in found
    words = evaluate.by_colour([True, False], [Scene((Thing("fox", "blue"),)), Scene((OWL,))])
    assert words == {"words, colour named": [True, None], "words, none named": [None, False]}
    assert found["sharpness"] == sharpness([draw(scene) for scene in scenes])


def test_variety_is_none_for_one_picture_and_grows_with_what_captions_never_say():
    rng = np.random.default_rng(0)
    scene = Scene((Thing("rocket"),), ground="grass")
    assert variety([draw(scene)] * 3) == 0
    assert variety([draw(vary(scene, rng)) for _ in range(6)]) > 0.05
    halves = [Image.new("RGB", (128, 128), colour) for colour in ("black", "white")]
    assert variety(halves) == pytest.approx(1)


def test_sharpness_is_the_mean_step_between_neighbours():
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[:, 64:] = 127  # one step of 127 in each row of 127
    assert sharpness([Image.fromarray(picture)]) == pytest.approx(0.5)


def test_a_first_look_is_the_x0_that_pure_noise_implies():
    """Ho et al. (2020), eq. 15, at the noisiest timestep; picture i has the noise that the pipeline gives its seed."""
    pipe = tiny_pipeline()
    config = EvaluationConfig(batch_size=2, seed=5)
    found = first_looks(pipe, ["a", "b", ""], config)
    noise = torch.cat([torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(5 + i)) for i in range(3)])
    text = pipe.encode_prompt(["a", "b", ""], "cpu", 1, False)[0]
    with torch.no_grad():
        eps = pipe.unet(noise, 999, text).sample
    alpha_bar = pipe.scheduler.alphas_cumprod[999]
    expected = decode(pipe, (noise - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt())
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1


def test_the_card_says_what_was_found(pocket, tmp_path, monkeypatch):
    """All of an evaluation, with a model and a judge that know little: every figure stands in the card."""
    monkeypatch.setattr(evaluate, "CAPTIONS", 2)
    monkeypatch.setattr(evaluate, "ALIKE", 2)
    results = evaluate.evaluate(pocket, EvaluationConfig(pictures=2, steps=1), Accelerator(cpu=True))
    results = json.loads(json.dumps(results))
    for path in POCKET.rglob("*"):
        if path.is_file() and path.name not in ("README.md", "evaluation.json", "studies.json"):
            (tmp_path / path.relative_to(POCKET)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(POCKET)).symlink_to(path)
    (tmp_path / "evaluation.json").write_text(json.dumps(results))
    write_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    for kind, result in results["kinds"].items():
        assert f"| {kind} | words | 2" in card
        assert f"{result['psnr']:.1f} dB with {kind}" in card or "thing" not in kind
        test = result["model against guidance 1"]
        assert f"| {test['only the first']} | {test['only the second']} | {test['p']:.2g} |" in card
    assert "| two colours | swapped | 2 |" in card and "| two things | swapped |" not in card
    assert "| held-out styles | words | 2 of 2 pairs |" in card
    one = results["kinds"]["one thing"]
    assert f"| first look | {per_cent(one['first look']['words'])} | {one['first look']['sharpness']:.2f} |" in card
    for guidance in (1, 2, 4, 8):
        assert f"| {guidance} | {per_cent(results['variety'][str(guidance)]['words'])} | " in card
    assert "2 pictures of each of 2 captions" in " ".join(card.split())
    assert "Pocket Diffusion 2" in card and "runs/longer" not in card  # its runs are told of, and not listed


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
    accelerator = Accelerator(cpu=True)
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


def run_record(program="train_unet", key="1", **settings):
    inputs = {"vae": {"folder": "a/vae", "key": key}}
    record = {"program": program, "folder": "runs/x", "mixed_precision": "no", "inputs": inputs}
    return record | {"settings": json.loads(json.dumps(flat(UNetConfig()) | settings))}


def test_the_scenes_trained_on_are_those_of_all_runs_of_this_world(tmp_path):
    first, second = run_record(scenes=5), run_record(scenes=7, seed=3, pairs=1.0)
    same = run_record(scenes=5, snr_floor=0.5)  # went on with the first one's scenes
    old = run_record(key=None, scenes=9, seed=8)  # of Pocket Diffusion 2
    runs = [first, run_record("train_vae"), old, same, second]
    (tmp_path / "training.json").write_text(json.dumps({"runs": runs}))
    scenes = trained_scenes(tmp_path)
    one = UNetConfig(scenes=5)
    other = UNetConfig(scenes=7, pairs=1.0, loop=replace(one.loop, seed=3))
    assert scenes == [*training_scenes(one), *training_scenes(other)]
    (tmp_path / "training.json").write_text(json.dumps({"runs": [old]}))
    for folder in (tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(FileNotFoundError, match="nobody knows what it was shown"):
            trained_scenes(folder)


def test_the_card_repeats_the_runs_as_they_were():
    run = run_record(scenes=5, channels=[16, 32], min_snr_gamma=float("inf"), learning_rate=9e-4)
    run |= {"mixed_precision": "bf16", "note": "Remarkable.", "inputs": {"start_from": {"folder": "a/b", "key": "1"}}}
    text = commands([run]).replace(" \\\n       ", "")
    assert text.startswith(
        "    # Remarkable.\n    accelerate launch --mixed_precision bf16 -m training.train_unet --folder runs/x "
        "--start-from a/b --channels 16 32 --scenes 5 --min-snr-gamma inf --learning-rate 0.0009\n"
    )
    assert "evaluation.studies" not in text
    assert commands([run], ["steps"]).endswith("evaluation.studies steps                # how many are enough")
    evaluated, replaced = (text.index(what) for what in ("evaluate --model runs/x/pipeline", "cp -r runs/x/pipeline/."))
    assert evaluated < replaced


def test_the_jackknife_leaves_out_both_kinds_of_scenes_evenly():
    """Pictures of one thing and of two alternate and have other features: the error is still that of repetitions."""
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
    training = [random_scene(rng, things=1 + i % 2) for i in range(60)]
    copies = {1: iter(s for s in training if s.relation is None), 2: iter(s for s in training if s.relation)}
    scenes = unseen_scenes(FEW, FEW.seed)
    repeated = [draw(next(copies[len(scene.words)])) for scene in scenes]
    for pictures, copied in ((repeated, 1.0), ([draw(scene) for scene in scenes], None)):
        monkeypatch.setattr(studies, "kept_pictures", lambda *_, pictures=pictures: pictures)
        results, picture = distance_study(pocket, training, FEW, Accelerator(cpu=True), tmp_path)
        for kind in studies.KINDS:
            found = results["nearest"][kind]
            if copied:
                assert found["model"] == {"median": pytest.approx(0, abs=1e-3), "nearer than 95 %": copied}
            else:
                assert found["model"] == found["real"]
            assert found["reconstruction"]["nearer than 95 %"] == pytest.approx(0.05, abs=0.001)
        assert picture.size == (2 * 128, 4 * 128)
    # These were the real pictures themselves.
    assert results["frechet"]["model"] == pytest.approx(results["frechet"]["real"])
    assert results["judged"]["one thing"]["words"]["pictures"] == 20


def test_steps_are_compared_on_the_same_pictures(pocket, tmp_path, monkeypatch):
    drawn_with = []

    def drawn(pipe, prompts, evaluation, accelerator, first=0):
        drawn_with.append(evaluation.steps)
        return [Image.new("RGB", (128, 128))] * len(prompts)

    def judged(pictures, scenes):  # 100 steps are right with all of the four pictures, others with the first
        right = "1111" if drawn_with[-1] == 100 else "1000"
        return {"right": right, "words": share([digit == "1" for digit in right])}

    monkeypatch.setattr(studies, "draw_with", drawn)
    monkeypatch.setattr(studies, "judged", judged)
    results = studies.steps_study(pocket, FEW, Accelerator(cpu=True), tmp_path)
    assert set(drawn_with) == set(FEW.steps) == {int(steps) for steps in results["steps"]}
    found = results["steps"]["20"]["two things"]["against most steps"]
    assert found == {"only the first": 0, "only the second": 3, "p": 0.25}
    section = studies_section({"steps": results})
    few, whole = per_cent(share([True, False, False, False])), per_cent(share([True] * 4))
    assert f"| 20 | {few} | 0 : 3 | {few} | 0 : 3 |" in section
    assert f"| 100 | {whole} | 0 : 0 | {whole} | 0 : 0 |" in section


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
