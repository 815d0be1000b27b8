"""What lesson 00 says of its pictures, held to the pipeline and to the training's own rules."""

import base64
import io
import re

import nbformat
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from helpers import plots
from helpers.exercises import QUIZZES
from helpers.exercises.lesson_00 import change_words, latents_shown
from helpers.grammar import unknown_words
from helpers.latents import decode
from helpers.loading import load_pipeline
from helpers.model_folder import POCKET
from helpers.pictures import generate
from helpers.sampling import run
from tests.lessons import NOTEBOOKS, cell_with, constants, definitions
from tests.pipelines import sd15

LESSON = NOTEBOOKS / "00_first_picture.ipynb"
PROMPT, OWL = "a blue fox in the snow, noto style", "an owl on grass, noto style"
PADDING, SIDE, GAP = 56, 384, 16  # around the pictures above the lesson, of each, between them; in pixels


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


def tile(name, place, side, picture):
    """One of the pictures in an attached grid with heads, and what it should show."""
    left = 28 + place * (side + 8)
    return attached(name).crop((left, 50, left + side, 50 + side)), picture.resize((side, side))


def film_frame(film, index):
    film.seek(index)
    return film.convert("RGB").crop((16, 16, 400, 400))


def test_the_film_at_the_top_goes_from_noise_to_the_picture():
    film = attached("run.webp")
    assert film.n_frames == 11  # after 0, 2, ..., 20 steps
    first, before_last, last = (film_frame(film, i) for i in (0, 9, 10))
    assert apart(first, last) > 40 and apart(before_last, last) < 10


@pytest.mark.slow
def test_the_film_at_the_top_ends_with_the_picture_of_its_caption():
    (picture,) = generate(load_pipeline("pocket", device="cpu"), PROMPT, steps=20, guidance=4.0, seed=7)
    shown = film_frame(attached("run.webp"), 10)
    assert apart(shown, picture.resize((384, 384), Image.Resampling.BICUBIC)) < 3


@pytest.mark.slow
def test_the_first_estimate_is_far_ahead_of_the_latent():
    result = run(load_pipeline("pocket", device="cpu"), PROMPT, steps=20, guidance=4.0, seed=7)
    pipe = load_pipeline("pocket", device="cpu")
    frames = decode(pipe, torch.cat([*(step.latents for step in result.steps), result.latents]))
    (first,) = decode(pipe, result.steps[0].x0)
    assert all(apart(frame, frames[-1]) > apart(first, frames[-1]) for frame in frames[:11])


def by_hand(pipe, old="", new=""):
    """What the lesson's own loop draws, with a part of its text exchanged, and the pipeline's picture."""
    source = cell_with(LESSON, "by_hand").replace(old, new) if old else cell_with(LESSON, "by_hand")
    assert not old or source != cell_with(LESSON, "by_hand")
    space = {"torch": torch, "np": np, "pocket": pipe, "plots": plots, "fox": PROMPT}
    exec(source, space)
    return space["by_hand"], space["whole"]


def test_the_loop_of_the_lesson_draws_what_the_pipeline_draws():
    pipe = sd15.narrow()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)  # one call a step, as Pocket's
    rows, side = "(1, 4, 16, 16)", pipe.unet.config.sample_size
    drawn, whole = by_hand(pipe, rows, f"(1, 4, {side}, {side})")
    assert np.abs(np.asarray(drawn, int) - np.asarray(whole, int)).max() <= 1


def test_four_steps_go_the_whole_way():
    scheduler = DDIMScheduler.from_pretrained(POCKET, subfolder="scheduler")
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [751, 501, 251, 1]
    assert "751, 501, 251 and 1" in QUIZZES["00.every_step"].options[0].why
    assert "set_timesteps(20)" in cell_with(LESSON, "by_hand")


@pytest.mark.slow
def test_a_run_of_four_steps_is_nearly_the_picture_and_four_steps_of_twenty_are_not():
    pipe = load_pipeline("pocket", device="cpu")
    drawn, whole = by_hand(pipe)
    assert apart(drawn, whole) < 0.1
    few, _ = by_hand(pipe, "set_timesteps(20)", "set_timesteps(4)")
    stopped, _ = by_hand(pipe, "scheduler.timesteps:", "scheduler.timesteps[:4]:")
    assert 0.5 < apart(few, whole) < 10
    assert apart(stopped, whole) > 40
    for place, picture in enumerate((few, whole)):  # in the fold after the quiz
        assert apart(*tile("four-steps.webp", place, 192, picture)) < 6


@pytest.mark.slow
def test_the_picture_in_the_answer_is_the_first_latent_and_its_estimate():
    pipe = load_pipeline("pocket", device="cpu")
    first = run(pipe, PROMPT, steps=20, guidance=4.0, seed=7).steps[0]
    for place, (picture,) in enumerate((decode(pipe, first.latents), decode(pipe, first.x0))):
        assert apart(*tile("first-look.jpg", place, 256, picture)) < 8


def test_every_prompt_is_of_words_that_pocket_knows():
    names = constants(LESSON, "prompt", "fox")
    for prompt in [names["prompt"], names["fox"], OWL]:
        assert not unknown_words(prompt), prompt


@pytest.mark.slow
def test_the_pictures_in_the_fold_are_those_of_the_exercise():
    pipe = load_pipeline("pocket", device="cpu")
    ids = pipe.tokenizer(["", PROMPT, OWL], padding="max_length", truncation=True, return_tensors="pt").input_ids
    draw_changed = definitions(LESSON, pocket=pipe)["draw_changed"]
    draw_changed.__globals__["change_words"] = change_words  # in place of the learner's
    with torch.no_grad():
        vectors = pipe.text_encoder(ids).last_hidden_state
    first, second = vectors[[0, 1]], vectors[[0, 2]]
    alone, early, late = decode(pipe, torch.cat([draw_changed(first, second, after) for after in (0, 4, 12)]))
    (fox,) = generate(pipe, PROMPT, steps=20, guidance=4.0, seed=7)
    for place, picture in enumerate((fox, alone, early, late)):
        assert apart(*tile("changed.webp", place, 192, picture)) < 8
    # The ground: grass after 4 rounds, snow after 12.
    (red, green, blue), snow = (np.asarray(picture, float)[120:, :24].mean(axis=(0, 1)) for picture in (early, late))
    assert green > red + 50 and green > blue + 50
    assert snow.min() > 200
    # After 4 rounds the owl is slimmer at its right: there is sky where the owl alone still is, in a gap of the meadow.
    at = slice(88, 93), slice(81, 86)
    owl_there, sky_there = (np.asarray(picture, float)[at].mean(axis=(0, 1)) for picture in (alone, early))
    assert owl_there[2] < 100 < 180 < sky_there[2]


def test_the_count_of_calls_follows_the_rule_to_be_found():
    pipe = sd15.narrow()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)  # one call a step, as Pocket's
    pipe.set_progress_bar_config(disable=True)
    count_latents = definitions(LESSON, pocket=pipe)["count_latents"]
    for steps, pictures, guidance in ((2, 1, 4.0), (1, 2, 1.5), (2, 1, 1.0), (1, 2, 0.5)):
        assert count_latents(steps, pictures, guidance) == latents_shown(steps, pictures, guidance)
