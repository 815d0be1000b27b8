"""What lesson 00 says of its pictures, held to the pipeline and to the training's own rules."""

import numpy as np
import torch

from helpers import scenes
from helpers.grammar import unknown_words
from helpers.latents import decode
from helpers.sampling import run
from tests.lessons import NOTEBOOKS, cell_with, constants, definitions
from tests.pipelines import sd15

LESSON = NOTEBOOKS / "00_first_picture.ipynb"
PROMPT = "a blue fox in the snow, flat style"


def test_the_frames_are_those_of_the_pipelines_run_from_its_noise_to_its_picture():
    pipe = sd15.narrow()
    space = {"torch": torch, "pipe": pipe, "run": run, "decode": decode}
    exec(cell_with(LESSON, "result = run("), space)
    generator = torch.Generator("cpu").manual_seed(3)
    whole = pipe(PROMPT, num_inference_steps=20, guidance_scale=4.0, generator=generator).images[0]
    noise = torch.randn(space["latents"][:1].shape, generator=torch.Generator("cpu").manual_seed(3))
    assert torch.equal(space["latents"][:1], noise)
    assert len(space["frames"]) == len(space["times"]) == len(space["latents"])
    assert np.abs(np.asarray(space["frames"][-1], int) - np.asarray(whole, int)).max() <= 1


def test_what_the_lesson_calls_unseen_was_left_out_of_training():
    unseen = constants(LESSON, "unseen")["unseen"]
    for (word, colour), prompt in unseen.items():
        assert scenes.held_out_colour(word, colour)
        assert f"{colour} {word}" in prompt
    # Penguins were never coloured at all: no style of theirs takes a colour.
    assert not any(scenes.takes_colours("penguin", style) for style in scenes.STYLES)
    assert not any(scenes.held_out_colour(word, colour) for word, colour in (("fox", "blue"), ("octopus", "pink")))


def test_every_prompt_is_of_words_that_pocket_knows_but_the_dragon():
    names = constants(LESSON, "wishes", "prompts", "fox", "unseen")
    for prompt in [*names["wishes"], *names["prompts"], names["fox"], *names["unseen"].values()]:
        assert not unknown_words(prompt), prompt
    assert unknown_words("a dragon on a white background") == {"dragon": ["diamond"]}


def test_pictures_of_one_seed_are_found_by_their_pixels():
    apart = definitions(LESSON, np=np)["apart"]
    one, other = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert apart(one, other) == apart(other, one) == 255
    assert apart(one, one) == 0
