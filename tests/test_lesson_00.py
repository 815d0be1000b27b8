"""What lesson 00 says of its pictures, held to the pipeline and to the training's own rules."""

import re

import nbformat
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from helpers import scenes
from helpers.exercises.lesson_00 import ahead, latents_shown
from helpers.grammar import unknown_words
from helpers.judge import read
from helpers.latents import decode
from helpers.loading import load_pipeline
from helpers.pictures import generate
from helpers.sampling import run
from tests.lessons import NOTEBOOKS, cell_with, constants, definitions
from tests.pipelines import sd15

LESSON = NOTEBOOKS / "00_first_picture.ipynb"
PROMPT = "a blue fox in the snow, noto style"
PADDING, SIDE, GAP = 56, 384, 16  # around the pictures above the lesson, of each, between them; in pixels


@pytest.fixture(scope="module")
def lesson():
    return definitions(LESSON, np=np)


def test_the_frames_are_those_of_the_pipelines_run_from_its_noise_to_its_picture():
    pipe = sd15.narrow()
    space = {"torch": torch, "np": np, "pocket": pipe, "run": run, "decode": decode}
    space |= definitions(LESSON, np=np)
    for text in ("result = run(", "estimates = decode("):
        exec(cell_with(LESSON, text), space)
    generator = torch.Generator("cpu").manual_seed(7)
    whole = pipe(PROMPT, num_inference_steps=20, guidance_scale=4.0, generator=generator).images[0]
    noise = torch.randn(space["latents"][:1].shape, generator=torch.Generator("cpu").manual_seed(7))
    assert torch.equal(space["latents"][:1], noise)
    assert len(space["frames"]) == len(space["latents"]) == len(space["times"]) + 1
    assert len(space["estimates"]) == len(space["off_estimate"]) == len(space["times"])
    assert len(space["off_latent"]) == len(space["frames"])
    assert space["off_latent"][-1] == 0
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


@pytest.mark.slow
def test_the_first_estimate_is_far_ahead_of_the_latent_and_the_last_is_not():
    pipe = load_pipeline("pocket", device="cpu")
    off = definitions(LESSON, np=np)["off"]
    mushroom = constants(LESSON, "mushroom")["mushroom"]
    for text, seed in ((PROMPT, 7), (PROMPT, 8), (mushroom, 7), ("a ghost at night, flat style", 0), ("a rocket", 0)):
        result = run(pipe, text, steps=20, guidance=4.0, seed=seed)
        frames = decode(pipe, torch.cat([*(step.latents for step in result.steps), result.latents]))
        lead = ahead(*off(frames, decode(pipe, torch.cat([step.x0 for step in result.steps]))))
        assert lead[0] > 5 and lead[-1] == 0, (text, seed, lead)


@pytest.fixture(scope="module")
def unseen(lesson):
    return constants(LESSON, "unseen", scene=lesson["scene"])["unseen"]


def test_what_the_lesson_calls_unseen_was_left_out_of_training(unseen):
    for scene in unseen:
        (thing,) = scene.things
        assert scenes.held_out_colour(thing.word, thing.colour)
        assert not scenes.held_out_style(thing.word, scene.style)
        # Nor is any of its emoji of that colour by itself.
        own = [scenes.draw(scenes.Scene((scenes.Thing(thing.word),), style=style)) for style in scenes.STYLES]
        assert thing.colour not in {reading.colours[0] for reading in read(own)}


def test_the_control_was_in_training(unseen, lesson):
    control = constants(LESSON, "control", scene=lesson["scene"])["control"]
    for one, left_out in zip(control, unseen, strict=True):
        assert (one.words, one.style, one.ground) == (left_out.words, left_out.style, left_out.ground)
        assert scenes.takes_colours(one.words[0], one.style)
        assert not one.held_out


def test_every_prompt_is_of_words_that_pocket_knows_but_the_dragon(unseen):
    names = constants(LESSON, "prompts", "fox")
    for prompt in [*names["prompts"], names["fox"], *(scene.caption() for scene in unseen)]:
        assert not unknown_words(prompt), prompt
    assert unknown_words("a dragon on a white background") == {"dragon": ["diamond"]}


def test_every_place_in_space_has_its_planet_in_a_corner_and_the_lesson_finds_it(lesson):
    planet = definitions(LESSON, **constants(LESSON, "CORNERS", "ORANGE"))["planet"]
    places = [scenes.draw(scenes.Scene((), ground="space", variant=variant)) for variant in range(scenes.VARIANTS)]
    assert {planet(picture) for picture in places} == {"top left", "top right", "bottom left", "bottom right"}
    assert planet(scenes.draw(scenes.Scene((), ground="night"))) is None
    assert planet(places[0].resize((512, 512))) == planet(places[0])


def test_apart_is_the_mean_difference_of_two_pictures(lesson):
    one, other = np.zeros((10, 10, 3), np.uint8), np.full((10, 10, 3), 255, np.uint8)
    assert lesson["apart"](one, other) == lesson["apart"](other, one) == 255
    assert lesson["apart"](one, one) == 0
    other[:5] = 0
    assert lesson["apart"](one, other) == 127.5


def test_what_the_judge_reads_of_another_model_is_left_out(capsys):
    pictures = [Image.new("RGB", (128, 128))] * 2
    assert definitions(LESSON)["seen"](sd15.narrow(), pictures) == ["", ""]
    assert "Skipped" in capsys.readouterr().out


def test_the_count_of_calls_follows_the_rule_to_be_found():
    pipe = sd15.narrow()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)  # one call a step, as Pocket's
    pipe.set_progress_bar_config(disable=True)
    count_latents = definitions(LESSON, pocket=pipe)["count_latents"]
    for steps, pictures, guidance in ((2, 1, 4.0), (1, 2, 1.5), (2, 1, 1.0), (1, 2, 0.5)):
        assert count_latents(steps, pictures, guidance) == latents_shown(steps, pictures, guidance)


def test_only_on_of_the_dragons_pieces_is_a_word_that_training_had():
    tokenize = load_pipeline("pocket", device="cpu").tokenizer.tokenize
    assert tokenize("a dragon") == ["a</w>", "d", "ra", "g", "on</w>"]
    known = {*" ".join([*scenes.WORDS, *scenes.COLOURS, *scenes.STYLES, "a left of background"]).split()}
    assert all(tokenize(word) == [f"{word}</w>"] for word in known)
    assert tokenize("on grass") == ["on</w>", "grass</w>"]
