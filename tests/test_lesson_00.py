"""What lesson 00 says of its pictures, held to the pipeline and to the training's own rules."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from helpers import scenes
from helpers.exercises.lesson_00 import unet_calls
from helpers.grammar import unknown_words
from helpers.judge import read
from helpers.latents import decode
from helpers.sampling import run
from tests.lessons import NOTEBOOKS, cell_with, constants, definitions
from tests.pipelines import sd15

LESSON = NOTEBOOKS / "00_first_picture.ipynb"
PROMPT = "a blue fox in the snow, flat style"


@pytest.fixture(scope="module")
def lesson():
    return definitions(LESSON, np=np)


def test_the_frames_are_those_of_the_pipelines_run_from_its_noise_to_its_picture():
    pipe = sd15.narrow()
    space = {"torch": torch, "pipe": pipe, "run": run, "decode": decode}
    exec(cell_with(LESSON, "result = run("), space)
    generator = torch.Generator("cpu").manual_seed(3)
    whole = pipe(PROMPT, num_inference_steps=20, guidance_scale=4.0, generator=generator).images[0]
    noise = torch.randn(space["latents"][:1].shape, generator=torch.Generator("cpu").manual_seed(3))
    assert torch.equal(space["latents"][:1], noise)
    assert len(space["frames"]) == len(space["times"]) == len(space["latents"])
    assert len(space["estimates"]) == len(space["frames"]) - 1
    assert np.abs(np.asarray(space["frames"][-1], int) - np.asarray(whole, int)).max() <= 1


def test_what_the_lesson_calls_unseen_was_left_out_of_training():
    for (word, colour), prompt in constants(LESSON, "unseen")["unseen"].items():
        assert scenes.held_out_colour(word, colour)
        assert f"{colour} {word}" in prompt
        # Nor is any of its emoji of that colour by itself.
        own = [scenes.draw(scenes.Scene((scenes.Thing(word),), style=style)) for style in scenes.STYLES]
        assert colour not in {reading.colours[0] for reading in read(own)}


def test_every_prompt_is_of_words_that_pocket_knows_but_the_dragon():
    names = constants(LESSON, "wishes", "prompts", "fox", "unseen")
    for prompt in [*names["wishes"], *names["prompts"], names["fox"], *names["unseen"].values()]:
        assert not unknown_words(prompt), prompt
    assert unknown_words("a dragon on a white background") == {"dragon": ["diamond"]}


def test_pictures_of_one_seed_are_found_by_their_edges(lesson):
    one, other = np.zeros((10, 10, 3), np.uint8), np.full((10, 10, 3), 255, np.uint8)
    assert lesson["apart"](one, other) == lesson["apart"](other, one) == 255
    assert lesson["apart"](one, one) == 0
    other[:2] = other[-2:] = other[:, :2] = other[:, -2:] = 0
    assert lesson["apart"](lesson["edge"](one), lesson["edge"](other)) == 0
    assert len(lesson["edge"](one)) == 100 - 6 * 6


def test_the_four_emoji_of_a_word_stand_in_one_tile():
    space = definitions(LESSON)
    tile = space["emoji"]("car")
    assert tile.shape == (128, 128, 3)
    last = scenes.draw(scenes.Scene((scenes.Thing("car"),), style=scenes.STYLES[-1])).reduce(2)
    assert np.array_equal(tile[64:, 64:], np.asarray(last))


def test_what_the_judge_reads_of_another_model_is_left_out(capsys):
    pictures = [Image.new("RGB", (128, 128))] * 2
    assert definitions(LESSON, pipe=sd15.narrow())["seen"](pictures) == ["", ""]
    assert "Skipped" in capsys.readouterr().out


def test_the_count_of_looks_follows_the_law_to_be_found():
    pipe = sd15.narrow()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)  # one look a step, as Pocket's
    pipe.set_progress_bar_config(disable=True)
    looks = definitions(LESSON, pipe=pipe)["looks"]
    for steps, pictures, guidance in ((2, 1, 4.0), (1, 2, 1.5), (2, 1, 1.0), (1, 2, 0.5)):
        assert looks(steps, pictures, guidance) == unet_calls(steps, pictures, guidance)
