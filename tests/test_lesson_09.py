"""Lesson 09: its solvers are the library's samplers and have the order they claim; what was measured can be trusted.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

import csv
import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from evaluation import measure_samplers
from evaluation.measure_samplers import (
    COLUMNS,
    SAMPLERS,
    SHARED,
    SamplersConfig,
    build_sampler,
    jackknife_error,
    key_of,
    measure,
    measured_scenes,
    plan,
    read_rows,
    setup_key,
    write_rows,
)
from helpers.exercises.lesson_09 import midpoint_step, scenes_needed, two_step
from helpers.latents import decode
from helpers.loading import POCKET, load_pipeline
from helpers.measures import frechet_distance
from helpers.sampling import run
from tests.lessons import NOTEBOOKS, constants, definitions
from tests.pipelines.tiny import randn, tiny_pipeline

LESSON = NOTEBOOKS / "09_samplers.ipynb"
SHAPE = (2, 4, 4, 4)
FEW = SamplersConfig(
    pictures=4,
    steps=(1, 2),
    heun_steps=(2,),
    samplers=("DDIM", "Heun"),
    unguided=(("DDIM", 2),),
    guidance=4.0,
    reference=20,
    groups=2,
)


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    alpha_bar = pipe.scheduler.alphas_cumprod.double()
    table = ((1 - alpha_bar) / alpha_bar).sqrt().numpy()
    words, empty = pipe.encode_prompt("a cat", pipe.device, 1, do_classifier_free_guidance=True)
    toy = {"centres": torch.tensor([-1.0, 1.0]).double(), "weights": torch.tensor([0.4, 0.6]).double()}
    made = {"words": words, "empty": empty, "table": table, "size": pipe.unet.config.sample_size, "scale": 4.0}
    with torch.no_grad():
        return definitions(LESSON, pipe=pipe, **constants(LESSON, "SAMPLERS", "MEMORY", "FIRST"), **made, **toy)


# --- by hand equals the library


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", ["Euler", "Heun", "DPM++ 2M"])
@torch.no_grad()
def test_the_solvers_are_the_librarys(lesson, pipe, name, steps):
    solve = lesson[{"Euler": "euler", "Heun": "heun", "DPM++ 2M": "dpm_solver"}[name]]
    sigmas = lesson["trailing_levels"](steps)
    factor = math.sqrt(sigmas[0] ** 2 + 1) if name == "DPM++ 2M" else sigmas[0]
    ours = solve(lesson["slope"], factor * lesson["normal"](1, seed=3), sigmas)
    theirs = run(pipe, "a cat", steps=steps, guidance=4.0, seed=3, sampler=lesson["sampler"](name)).latents
    assert len(ours) == steps + 1
    assert lesson["distance"](ours[-1], theirs) < 1e-4


@torch.no_grad()
def test_another_solver_would_be_noticed(lesson, pipe):
    sigmas = lesson["trailing_levels"](5)
    ours = lesson["euler"](lesson["slope"], sigmas[0] * lesson["normal"](1, seed=3), sigmas)[-1]
    theirs = run(pipe, "a cat", steps=5, guidance=4.0, seed=3, sampler=lesson["sampler"]("Heun")).latents
    assert lesson["distance"](ours, theirs) > 1e-2


@pytest.mark.parametrize("kind", ["Euler", "Heun", "DPM++ 2M", "UniPC", "PNDM", "DDIM", "DDPM", "Euler a"])
@pytest.mark.parametrize("steps", [1, 4, 5, 7, 20])
def test_trailing_gives_the_timesteps_of_every_sampler(pipe, kind, steps):
    one = build_sampler(kind, pipe)
    one.set_timesteps(steps)
    equal_gaps = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    assert list(dict.fromkeys(int(t) for t in one.timesteps)) == equal_gaps


def test_the_two_step_rule_is_pndms_where_the_steps_are_equal():
    eps, before = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
    x = randn(*SHAPE)
    assert_close(two_step(x, eps, before, 3.0, 2.0, 1.0), x - (3 * eps - before) / 2)


def test_ddim_is_euler_and_ddpm_is_euler_a(pipe):
    """From one start: the library takes Euler's from sigma times the noise, not from sqrt(sigma^2 + 1) times it.

    With a number of steps that divides 1000: otherwise DDIM rounds the timesteps between its steps in its own way.
    """
    side = pipe.unet.config.sample_size
    noise = randn(1, pipe.unet.config.in_channels, side, side)
    high = float(build_sampler("Euler", pipe).sigmas.max())
    drawn = {}
    for name in ("DDIM", "Euler", "DDPM", "Euler a", "UniPC"):
        start = noise * math.sqrt(high**2 + 1) / high if name.startswith("Euler") else noise
        options = {"steps": 4, "guidance": 4.0, "seed": 1, "latents": start}
        drawn[name] = run(pipe, "a cat", sampler=build_sampler(name, pipe), **options).latents

    def apart(a, b):
        return float((drawn[a] - drawn[b]).norm() / drawn[b].norm())

    assert apart("DDIM", "Euler") < 1e-4
    assert apart("DDPM", "Euler a") < 1e-4
    assert apart("DDIM", "DDPM") > 0.1
    assert apart("DDIM", "UniPC") > 1e-3


# --- the order that is claimed


def toy_orders(lesson, solve):
    x = 5 * torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope, levels = lesson["toy_slope"], lesson["karras_levels"]
    truth = lesson["heun"](slope, x, levels(2001, 0.05, 5)[:-1])[-1]
    errors = [float((solve(slope, x, levels(n + 1, 0.05, 5)[:-1])[-1] - truth).abs().mean()) for n in (64, 128)]
    return math.log2(errors[0] / errors[1])


def by_midpoint(slope, x, sigmas):
    path = [x]
    for sigma, after in pairwise(sigmas):
        path.append(midpoint_step(slope, path[-1], sigma, after))
    return path


def by_trend(slope, x, sigmas):
    path, before = [x], None
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        eps = slope(path[-1], sigma)
        if before is None:
            path.append(path[-1] + (after - sigma) * eps)
        else:
            path.append(two_step(path[-1], eps, before, sigmas[i - 1], sigma, after))
        before = eps
    return path


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpm_solver", 2)])
def test_the_solvers_have_their_order(lesson, name, order):
    assert toy_orders(lesson, lesson[name]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("solve", [by_midpoint, by_trend])
def test_the_exercises_are_of_order_two(lesson, solve):
    assert toy_orders(lesson, solve) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 5.0])
def test_the_toy_slope_is_minus_sigma_times_the_score(lesson, sigma):
    x = torch.linspace(-6, 6, 25, dtype=torch.float64).requires_grad_()
    (score,) = torch.autograd.grad(lesson["log_density"](x, sigma).sum(), x)
    assert_close(lesson["toy_slope"](x.detach(), sigma), -sigma * score, rtol=0, atol=1e-8)


def test_the_levels_are_karras(pipe, lesson):
    one = build_sampler("Euler", pipe)
    one = type(one).from_config(one.config, use_karras_sigmas=True)
    one.set_timesteps(8)
    sigmas = one.sigmas.tolist()
    np.testing.assert_allclose(lesson["karras_levels"](8, sigmas[-2], sigmas[0]), sigmas, rtol=1e-4)


def test_a_step_on_a_straight_path_has_no_error_and_on_a_bent_one_what_the_bend_adds(lesson):
    levels = [4.0, 3.0, 2.0, 1.5, 1.0]
    x, direction, aside = randn(3, *SHAPE[1:]).split(1)
    straight = [x + sigma * direction for sigma in levels]
    errors = lesson["step_errors"](lambda x, sigma: direction, straight, levels, 2)
    assert errors == pytest.approx([0, 0], abs=1e-6)
    bent = [*straight[:2], straight[2] + aside, *straight[3:]]
    errors = lesson["step_errors"](lambda x, sigma: direction, bent, levels, 2)
    assert errors == pytest.approx([float(aside.norm() / straight[-1].norm())] * 2, rel=1e-4)


@pytest.mark.parametrize("earlier", [0, 1, 2, 3])
def test_a_memory_of_slopes_is_exact_for_polynomials_of_lower_degree(lesson, earlier):
    """A slope that depends on sigma alone, and even steps; the first ones, which remember less, are left out."""
    levels = np.linspace(4, 1, 7).tolist()

    def whole(sigma):
        return torch.tensor([sigma ** (earlier + 1) / (earlier + 1)], dtype=torch.float64)

    def jump(x, sigma):
        return torch.tensor([sigma**earlier], dtype=torch.float64)

    def end(sigmas):
        return lesson["remember"](jump, whole(sigmas[0]), sigmas, earlier)

    # What one more step adds to a run that is long enough to have filled its memory.
    added = end(levels) - end(levels[:-1])
    assert_close(added, whole(levels[-1]) - whole(levels[-2]), rtol=1e-9, atol=1e-12)


def test_one_earlier_slope_is_the_exercise_where_the_steps_are_equal(lesson):
    x, levels = randn(1, *SHAPE[1:]), (3.0, 2.0, 1.0)
    first = torch.sin(x) / levels[0]
    after = x + (levels[1] - levels[0]) * first
    expected = two_step(after, torch.sin(after) / levels[1], first, *levels)
    assert_close(lesson["remember"](lambda x, sigma: torch.sin(x) / sigma, x, levels, 1), expected)


def test_euler_aims_at_its_estimates_and_dpm_solver_beyond_them(lesson):
    x, levels = randn(*SHAPE), [8.0, 4.0, 2.0, 0.0]

    def slope(x, sigma):
        return torch.sin(x) / (1 + sigma)

    path = lesson["euler"](slope, x, levels)
    estimates = [one - sigma * slope(one, sigma) for one, sigma in zip(path, levels[:-1], strict=False)]
    for aim, estimate in zip(lesson["aims"](path, levels), estimates, strict=True):
        assert_close(aim, estimate, rtol=1e-4, atol=1e-4)
    path = lesson["dpm_solver"](slope, x, levels)
    before, now, last = (one - sigma * slope(one, sigma) for one, sigma in zip(path, levels[:-1], strict=False))
    expected = [before, now + (now - before) / 2, last]  # the steps to 4 and to 2 are equal in log sigma
    for aim, target in zip(lesson["aims"](path, levels), expected, strict=True):
        assert_close(aim, target, rtol=1e-4, atol=1e-4)


# --- the statistics


def test_the_sign_test_counts_coins(lesson):
    assert lesson["sign_test"]("1110", "1110") == (0, 0, 1.0)
    assert lesson["sign_test"]("111111", "000000") == (6, 0, pytest.approx(2 / 64))
    assert lesson["sign_test"]("1000", "0111") == (1, 3, pytest.approx(2 * 5 / 16))


def test_the_scenes_that_are_needed_are_enough_and_one_multiple_fewer_are_not(lesson):
    chance = lesson["chance"]
    assert [chance(times * 6, times * 2) < 0.05 for times in (1, 2, 3)] == [False, False, True]
    assert scenes_needed(chance, 6, 2, 100, 0.05) == 300
    assert scenes_needed(chance, 2, 6, 50, 0.05) == 150
    assert scenes_needed(chance, 22, 3, 100, 0.05) == 100


def test_the_jackknife_error_is_the_spread_of_repeated_measurements():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(4000, 4, generator=generator)
    sets = [torch.randn(200, 4, generator=generator) * 1.3 + 0.5 for _ in range(40)]
    spread = np.std([frechet_distance(x, reference) for x in sets], ddof=1)
    errors = [jackknife_error(x, reference, 10) for x in sets]
    assert np.mean(errors) == pytest.approx(spread, rel=0.35)  # 40 sets tell a spread to about 11 %


# --- the lesson and the script speak of the same things


def test_the_table_of_the_lesson_is_that_of_the_script(pipe, lesson):
    assert lesson["SAMPLERS"] == SAMPLERS
    for name in SAMPLERS:
        ours, theirs = lesson["sampler"](name), build_sampler(name, pipe)
        assert type(ours) is type(theirs) is getattr(diffusers, SAMPLERS[name][0])
        assert dict(ours.config) == dict(theirs.config)
        assert ours.config.timestep_spacing == SHARED["timestep_spacing"]


def test_the_scenes_of_the_script_are_single_things_and_pairs_in_turn():
    scenes = measured_scenes(SamplersConfig(), count=6)
    assert [len(scene.words) for scene in scenes] == [1, 2] * 3
    assert not any(scene.held_out for scene in scenes)
    assert measured_scenes(SamplersConfig(), start=4, count=2) == scenes[4:]


def test_the_scenes_of_the_lesson_are_the_measured_ones(lesson, pipe):
    config = SamplersConfig()
    assert lesson["FIRST"] == config.seed
    captions, noise = lesson["measured_scenes"](range(6))
    assert captions == [scene.caption() for scene in measured_scenes(config, count=6)]
    with torch.no_grad():
        drawn = run(pipe, captions[2], steps=1, seed=config.seed + 2, sampler=lesson["sampler"]("DDIM"))
    assert_close(noise[2:3], drawn.steps[0].latents)  # from which picture 2 is drawn


@torch.no_grad()
def test_each_scene_is_asked_with_its_own_words(lesson, pipe):
    two = pipe.encode_prompt(["a cat", "a dog"], pipe.device, 1, do_classifier_free_guidance=False)[0]
    x = lesson["normal"](2, seed=1)
    for s in (1, 4.0):
        both = lesson["predict"](x, 500, s, two)
        alone = torch.cat([lesson["predict"](x[i : i + 1], 500, s, two[i : i + 1]) for i in (0, 1)])
        assert_close(both, alone, rtol=1e-4, atol=1e-5)


# --- measuring


@pytest.fixture(scope="module")
def pocket():
    pipe = load_pipeline("pocket", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_measurement_is_whole_and_goes_on_where_it_was_stopped(pocket, tmp_path, monkeypatch):
    file = tmp_path / "runs" / "samplers.csv"
    rows = measure(pocket, POCKET, FEW, file, batch_size=2)
    assert [key_of(row) for row in rows] == plan(FEW)
    written = read_rows(file)
    assert [tuple(row) for row in written] == [COLUMNS] * len(plan(FEW))
    assert {key_of(row): row["calls"] for row in written} == {
        ("real", 0, 0): "0",
        ("rebuilt", 0, 0): "0",
        ("DDIM", 1, 4): "1",
        ("DDIM", 2, 4): "2",
        ("Heun", 2, 4): "3",
        ("DDIM", 2, 1): "2",
    }
    assert written[3]["frechet"] != written[5]["frechet"]  # other pictures without guidance
    for row in written:
        assert len(row["right"]) == int(row["pictures"]) == FEW.pictures
        assert row["right"].count("1") == int(row["words"])
        assert float(row["frechet"]) > 0
        assert (float(row["seconds"]) > 0) == (row["sampler"] not in ("real", "rebuilt"))

    drawn = []
    real_row = measure_samplers.measure_row

    def counted(pipe, name, steps, *rest):
        drawn.append((name, steps))
        return real_row(pipe, name, steps, *rest)

    monkeypatch.setattr(measure_samplers, "measure_row", counted)
    other = {**written[2], "setup": "another"}
    write_rows(file, [*written[:2], other, *written[4:]])
    again = measure(pocket, POCKET, FEW, file)  # in one batch instead of two
    assert drawn == [("DDIM", 1), ("DDIM", 2)]  # the row of another setup counts as missing
    assert [row["right"] for row in again] == [row["right"] for row in rows]
    assert float(again[2]["frechet"]) == pytest.approx(float(rows[2]["frechet"]), rel=1e-2)


def test_a_row_draws_what_the_pipeline_draws(pocket):
    """With the pipeline's own loop: the same scenes, noise and sampler give the same pictures."""
    pictures, calls, seconds = measure_samplers.draw_row(pocket, "DPM++ 2M", 2, FEW.guidance, FEW, 2)
    assert (len(pictures), calls) == (FEW.pictures, 2)
    assert seconds > 0
    own, pocket.scheduler = pocket.scheduler, build_sampler("DPM++ 2M", pocket)
    try:
        latents = pocket(
            [scene.caption() for scene in measured_scenes(FEW)],
            num_inference_steps=2,
            guidance_scale=FEW.guidance,
            generator=[torch.Generator().manual_seed(FEW.seed + i) for i in range(FEW.pictures)],
            output_type="latent",
        ).images
    finally:
        pocket.scheduler = own
    for ours, theirs in zip(pictures, decode(pocket, latents), strict=True):
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int)).max() <= 2


def test_the_setup_knows_the_model_and_what_is_asked_of_it(tmp_path):
    (tmp_path / "unet").mkdir()
    weights = tmp_path / "unet" / "model.safetensors"
    weights.write_bytes(b"one")
    key = setup_key(tmp_path, FEW)
    assert len(key) == 12
    assert setup_key(tmp_path, FEW) == key
    more_rows = SamplersConfig(**{**vars(FEW), "steps": (1, 2, 3), "samplers": ("DDIM",), "unguided": ()})
    assert setup_key(tmp_path, more_rows) == key
    assert setup_key(tmp_path, SamplersConfig(**{**vars(FEW), "guidance": 5.0})) != key
    weights.write_bytes(b"two")
    assert setup_key(tmp_path, FEW) != key


def test_the_file_that_is_shipped_is_whole_and_of_the_model_that_is_shipped():
    rows = read_rows(POCKET / measure_samplers.FILE)
    config = SamplersConfig(pictures=int(rows[0]["pictures"]))
    assert [key_of(row) for row in rows] == plan(config)
    assert {row["setup"] for row in rows} == {setup_key(POCKET, config)}
    assert config.pictures >= 50
    with open(POCKET / measure_samplers.FILE, encoding="utf-8", newline="") as lines:
        assert tuple(next(csv.reader(lines))) == COLUMNS
