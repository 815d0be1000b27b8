"""What lesson 00 says of its pictures, held to the pipeline and to the training's own rules."""

import base64
import io
import re
from collections import Counter

import nbformat
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from helpers import scenes
from helpers.exercises.lesson_00 import latents_shown
from helpers.grammar import unknown_words
from helpers.latents import decode
from helpers.loading import load_pipeline
from helpers.pictures import generate
from helpers.sampling import run
from tests.lessons import NOTEBOOKS, cell_with, constants, definitions
from tests.pipelines import sd15

LESSON = NOTEBOOKS / "00_first_picture.ipynb"
PROMPT, SPACE = "a blue fox in the snow, noto style", "a red rocket in space, flat style"
SEEDS = 20  # of the planets
PADDING, SIDE, GAP = 56, 384, 16  # around the pictures above the lesson, of each, between them; in pixels


@pytest.fixture(scope="module")
def lesson():
    return definitions(LESSON, np=np)


def test_the_frames_are_those_of_the_pipelines_run_from_its_noise_to_its_picture():
    pipe = sd15.narrow()
    space = {"torch": torch, "np": np, "pocket": pipe, "run": run, "decode": decode}
    space |= definitions(LESSON, np=np)
    exec(cell_with(LESSON, "result = run("), space)
    generator = torch.Generator("cpu").manual_seed(7)
    whole = pipe(PROMPT, num_inference_steps=20, guidance_scale=4.0, generator=generator).images[0]
    noise = torch.randn(space["latents"][:1].shape, generator=torch.Generator("cpu").manual_seed(7))
    assert torch.equal(space["latents"][:1], noise)
    assert len(space["frames"]) == len(space["latents"]) == len(space["times"]) + 1
    assert len(space["estimates"]) == len(space["times"])
    assert np.abs(np.asarray(space["frames"][-1], int) - np.asarray(whole, int)).max() <= 1


def hero():
    """The prompt and seed of each picture above the lesson, as its caption gives them."""
    first = nbformat.read(LESSON, as_version=4).cells[0].source
    return [(prompt, int(seed)) for prompt, seed in re.findall(r"`([^`]+)`\s\(seed (\d+)\)", first)]


def test_the_pictures_above_the_lesson_are_of_words_that_pocket_knows():
    assert len(hero()) == 4
    assert not any(unknown_words(prompt) for prompt, _ in hero())


@pytest.mark.slow
def test_the_pictures_above_the_lesson_are_those_of_its_prompts_and_seeds():
    pipe = load_pipeline("pocket", device="cpu")
    shown = np.asarray(Image.open(LESSON.parent.parent / "images" / "first-pictures.jpg").convert("RGB"), float)
    for i, (prompt, seed) in enumerate(hero()):
        (picture,) = generate(pipe, prompt, steps=20, guidance=4.0, seed=seed)
        left = PADDING + i * (SIDE + GAP)
        tile = shown[PADDING : PADDING + SIDE, left : left + SIDE]
        assert np.abs(tile - np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)).mean() < 4


def attached(name):
    """A picture that the lesson brings in one of its text cells."""
    found = [cell.attachments[name] for cell in nbformat.read(LESSON, 4).cells if name in cell.get("attachments", {})]
    (data,) = found[0].values()
    return Image.open(io.BytesIO(base64.b64decode(data)))


def apart(one, other):
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()


def film_frame(film, index):
    film.seek(index)
    return film.convert("RGB").crop((16, 16, 400, 400))


def test_the_film_at_the_top_goes_from_noise_to_the_picture():
    film = attached("run.png")
    assert film.n_frames == 21
    first, before_last, last = (film_frame(film, i) for i in (0, 19, 20))
    assert apart(first, last) > 40 and apart(before_last, last) < 6


@pytest.mark.slow
def test_the_film_at_the_top_ends_with_the_picture_of_its_caption():
    (picture,) = generate(load_pipeline("pocket", device="cpu"), PROMPT, steps=20, guidance=4.0, seed=7)
    shown = film_frame(attached("run.png"), 20)
    assert apart(shown, picture.resize((384, 384), Image.Resampling.NEAREST)) < 8  # it has 64 colours


@pytest.mark.slow
def test_the_first_estimate_is_far_ahead_of_the_latent():
    result = run(load_pipeline("pocket", device="cpu"), PROMPT, steps=20, guidance=4.0, seed=7)
    pipe = load_pipeline("pocket", device="cpu")
    frames = decode(pipe, torch.cat([*(step.latents for step in result.steps), result.latents]))
    (first,) = decode(pipe, result.steps[0].x0)
    assert all(apart(frame, frames[-1]) > apart(first, frames[-1]) for frame in frames[:11])


def test_every_prompt_is_of_words_that_pocket_knows():
    names = constants(LESSON, "prompt", "fox")
    for prompt in [names["prompt"], names["fox"], SPACE]:
        assert not unknown_words(prompt), prompt


@pytest.fixture(scope="module")
def planet():
    return definitions(LESSON, **constants(LESSON, "CORNERS", "ORANGE"))["planet"]


def test_every_place_in_space_has_its_planet_in_a_corner_and_the_lesson_finds_it(planet):
    places = [scenes.draw(scenes.Scene((), ground="space", variant=variant)) for variant in range(scenes.VARIANTS)]
    # Six at the top and four at either side, as the answer below the figure says.
    assert Counter(map(planet, places)) == {"top left": 3, "top right": 3, "bottom left": 1, "bottom right": 1}
    assert planet(scenes.draw(scenes.Scene((), ground="night"))) is None
    assert planet(places[0].resize((512, 512))) == planet(places[0])


def test_compare_counts_equal_corners_from_one_seed_and_sets_them_beside_those_from_different_seeds(lesson):
    corners = ["top left", None, "top left"]
    assert lesson["compare"](corners, ["top left", None, "top right"]) == "1 of 2 (by chance 50 %)"
    assert lesson["compare"](corners, ["top left", "top left", "top left"]) == "2 of 2 (by chance 100 %)"


def test_two_words_of_a_corner_are_exchanged(lesson):
    corners = ["top left", None, "bottom right"]
    assert lesson["exchanged"](corners, "left", "right") == ["top right", None, "bottom left"]
    assert lesson["exchanged"](corners, "top", "bottom") == ["bottom left", None, "top right"]


@pytest.mark.slow
def test_planets_stay_with_the_noise_and_change_sides_with_it_but_seldom_rows(planet, lesson):
    compare, draw = lesson["compare"], definitions(LESSON, pocket=load_pipeline("pocket", device="cpu"))["draw"]
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(SEEDS)]
    noise = torch.cat([torch.randn((1, 4, 16, 16), generator=generator) for generator in generators])
    flights, *others = (
        [planet(picture) for picture in draw(prompt, x)]
        for prompt, x in (
            (SPACE, noise),
            ("a pig in space, flat style", noise),
            (SPACE, noise.flip(-1)),
            (SPACE, noise.flip(-2)),
        )
    )
    assert constants(LESSON, "n")["n"] == SEEDS
    pigs, mirrored, turned = others
    across, below = lesson["exchanged"](flights, "left", "right"), lesson["exchanged"](flights, "top", "bottom")
    assert compare(flights, pigs) == "16 of 18 (by chance 41 %)"
    assert compare(across, mirrored) == "14 of 16 (by chance 39 %)"
    assert compare(below, turned) == "6 of 17 (by chance 15 %)"
    assert turned[1] == "bottom right"  # the flame that is taken for a planet


@pytest.mark.slow
def test_the_wide_picture_in_the_fold_is_the_one_of_its_cell():
    noise = torch.randn((1, 4, 16, 32), generator=torch.Generator("cpu").manual_seed(7))
    settings = {"height": 128, "width": 256, "num_inference_steps": 20, "guidance_scale": 4.0}
    pipe = load_pipeline("pocket", device="cpu")
    (wide,) = pipe("a mushroom on grass, flat style", latents=noise, **settings).images
    assert apart(attached("wide.png").convert("RGB").resize((256, 128)), wide) < 8


def test_the_count_of_calls_follows_the_rule_to_be_found():
    pipe = sd15.narrow()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)  # one call a step, as Pocket's
    pipe.set_progress_bar_config(disable=True)
    count_latents = definitions(LESSON, pocket=pipe)["count_latents"]
    for steps, pictures, guidance in ((2, 1, 4.0), (1, 2, 1.5), (2, 1, 1.0), (1, 2, 0.5)):
        assert count_latents(steps, pictures, guidance) == latents_shown(steps, pictures, guidance)
