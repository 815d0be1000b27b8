"""What lesson 00b says of what Pocket learnt, held to the training's own rules and to its pictures."""

import base64
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from PIL import Image

from helpers import scenes
from helpers.exercises.lesson_00b import nearest
from helpers.grammar import unknown_words
from helpers.judge import read
from helpers.latents import decode, encode
from helpers.loading import load_pipeline
from helpers.model_folder import POCKET
from helpers.pictures import generate
from tests.lessons import NOTEBOOKS, constants, definitions
from training.dataset import training_scenes

LESSON = NOTEBOOKS / "00b_what_it_knows.ipynb"
PADDING, SIDE, GAP = 56, 384, 16  # around the pictures above the lesson, of each, between them; in pixels


@pytest.fixture(scope="module")
def lesson():
    return definitions(LESSON, np=np)


def attached(name):
    """A picture that the lesson brings in one of its text cells."""
    found = [cell.attachments[name] for cell in nbformat.read(LESSON, 4).cells if name in cell.get("attachments", {})]
    (data,) = found[0].values()
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def hero():
    """The prompt and seed of each picture above the lesson, as its caption gives them."""
    first = nbformat.read(LESSON, as_version=4).cells[0].source
    return [(prompt, int(seed)) for prompt, seed in re.findall(r"`([^`]+)`\s\(seed (\d+)\)", first)]


def test_the_pictures_above_the_lesson_are_of_left_out_pairs():
    assert not any(unknown_words(prompt) for prompt, _ in hero())
    shown = [re.match(r"a (\w+) (\w+) .*, (\w+) style", prompt).groups() for prompt, _ in hero()]
    assert [(colour, word) for colour, word, _ in shown] == [
        ("blue", "car"),
        ("purple", "duck"),
        ("purple", "mushroom"),
    ]
    for colour, word, style in shown:
        assert scenes.held_out_colour(word, colour) and not scenes.held_out_style(word, style)
        own = [scenes.draw(scenes.Scene((scenes.Thing(word),), style=each)) for each in scenes.STYLES]
        assert colour not in {reading.colours[0] for reading in read(own)}


@pytest.mark.slow
def test_the_pictures_above_the_lesson_are_those_of_its_prompts_and_seeds():
    pipe, shown = load_pipeline("pocket", device="cpu"), np.asarray(attached("asked.jpg"), float)
    for i, (prompt, seed) in enumerate(hero()):
        (picture,) = generate(pipe, prompt, steps=20, guidance=4.0, seed=seed)
        left = PADDING + i * (SIDE + GAP)
        tile = shown[PADDING : PADDING + SIDE, left : left + SIDE]
        assert np.abs(tile - np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)).mean() < 4


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


def test_every_prompt_is_of_known_words_but_those_called_unknown(unseen):
    names = constants(LESSON, "fox", "mushroom", "asked")
    assert not scenes.held_out_colour("fox", "blue") and not scenes.held_out_colour("mushroom", "red")
    assert not scenes.held_out_style("fox", "noto") and not scenes.held_out_style("mushroom", "flat")
    for prompt in [names["fox"], names["mushroom"], *(scene.caption() for scene in unseen)]:
        assert not unknown_words(prompt), prompt
    strange = [set(unknown_words(f"{words} in the snow, noto style")) for words in names["asked"]]
    assert strange == [set(), {"no"}, set(), {"dragon"}]
    assert "in the snow" in unknown_words("no fox")["no"]


def test_the_own_sentence_is_of_a_face_that_training_had_and_a_thing_that_it_had_in_other_styles():
    face, thing = constants(LESSON, "face", "thing").values()
    assert {face, "angry", "cool", "happy", "sleeping"} == {word.split()[0] for word in scenes.WORDS if " face" in word}
    for word in (f"{face} face", "fox", "angry face"):
        assert not scenes.held_out_style(word, "noto")
    assert [style for style in scenes.STYLES if scenes.held_out_style(thing, style)] == ["noto"]  # as the lesson says
    assert not unknown_words(f"a {face} {thing} on a white background, noto style")


def test_the_sentences_of_training_are_counted_right(lesson):
    assert lesson["phrases"]("fox", "noto") == 1 + sum(not scenes.held_out_colour("fox", one) for one in scenes.COLOURS)
    left_out = next(
        (word, style) for word in scenes.WORDS for style in scenes.STYLES if scenes.held_out_style(word, style)
    )
    assert lesson["phrases"](*left_out) == 0 and lesson["phrases"]("rainbow", "noto") == 1
    told = next(cell for cell in nbformat.read(LESSON, 4).cells if "def phrases" in cell.source).outputs
    assert any("123,863,400 different sentences that name ground and style" in one.get("text", "") for one in told)
    possible = 0
    for style in scenes.STYLES:
        ways = [lesson["phrases"](word, style) for word in scenes.WORDS]
        pairs = sum(one * other for i, one in enumerate(ways) for j, other in enumerate(ways) if i != j)
        possible += 18 * (sum(ways) + 4 * pairs)
    assert possible == 123_863_400


def test_apart_is_the_mean_difference_of_two_pictures(lesson):
    one, other = np.zeros((10, 10, 3), np.uint8), np.full((10, 10, 3), 255, np.uint8)
    assert lesson["apart"](one, other) == lesson["apart"](other, one) == 255
    assert lesson["apart"](one, one) == 0
    other[:5] = 0
    assert lesson["apart"](one, other) == 127.5


@pytest.fixture(scope="module")
def training(lesson):
    """The scenes of both runs, as the lesson makes them again."""
    found = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        found.append([scenes.random_scene(rng, things=1 + int(rng.random() < 0.6)) for _ in range(40_000)])
    return found


@pytest.mark.slow
def test_the_scenes_made_again_are_those_of_training(training):
    runs = json.loads((POCKET / "training.json").read_text(encoding="utf-8"))["runs"]
    last = [run["settings"] for run in runs if run["program"] == "train_unet"][-2:]
    for run, again in zip(last, training, strict=True):
        loop = SimpleNamespace(seed=run["seed"])
        assert again == training_scenes(SimpleNamespace(loop=loop, pairs=run["pairs"], scenes=run["scenes"]))
    every = [scene for again in training for scene in again]
    assert len(every) == 80_000
    foxes = {scenes.Scene((scenes.Thing("fox"),), ground="snow", style=style).caption() for style in scenes.STYLES}
    assert foxes <= {scene.caption() for scene in every}  # the sentences of the four orange foxes
    assert sum(scene.words == ("duck",) and scene.style == "noto" for scene in every) == 57


def test_a_planet_stands_in_each_corner_of_one_of_the_eight():
    planets = [np.asarray(scenes.draw(scenes.Scene((), ground="space", variant=i)), float) for i in range(8)]
    corners = [(x, y) for x in (16, 112) for y in (16, 112)]
    orange = [[abs(one[y, x] - (245, 165, 115)).mean() < 50 for x, y in corners] for one in planets]
    assert all(sum(one) == 1 for one in orange) and np.any(orange, axis=0).all()


@pytest.mark.slow
def test_a_place_keeps_its_stars_through_the_vae_and_a_drawn_one_has_them_elsewhere(lesson):
    pipe, held = load_pipeline("pocket", device="cpu"), lesson["held"]
    places = [scenes.draw(scenes.Scene((), ground="space", variant=i)) for i in range(scenes.VARIANTS)]
    rings = [held(place, lesson["stars"](place))[0] for place in places]
    hearts = [scenes.Scene((scenes.Thing("heart"),), ground="space", variant=i) for i in range(scenes.VARIANTS)]
    copies = decode(pipe, encode(pipe, [scenes.draw(scene) for scene in hearts]))
    for i, copy in enumerate(copies):  # of whichever place: a copy is told by its stars
        found = [held(copy, group) for group in rings]
        free, count = found.pop(i)
        assert count == len(free) >= 3 and max(count for _, count in found) in (1, 2)
    drawn = generate(pipe, ["a heart in space, flat style"] * 3, steps=20, seed=1)
    most = [max((held(one, group) for group in rings), key=lambda found: found[1]) for one in drawn]
    assert [(count, len(free)) for free, count in most] == [(1, 6), (3, 7), (2, 7)]


def test_no_orange_disc_and_no_heart_counts_as_a_star(lesson):
    heart = scenes.draw(scenes.Scene((scenes.Thing("heart"),), ground="space", variant=3))
    assert lesson["held"](heart, [(64, 50), (64, 80), (112, 112)]) == ([], 0)  # nor is a ring there counted


def test_tokens_of_the_words_are_as_the_lesson_says():
    tokenize = load_pipeline("pocket", device="cpu").tokenizer.tokenize
    assert tokenize("no fox") == ["n", "o</w>", "fox</w>"] and tokenize("a fox") == ["a</w>", "fox</w>"]
    assert tokenize("angry") == ["angry</w>"] and len(tokenize("dragon")) == 4


@pytest.mark.slow
def test_the_fold_of_the_exercise_says_what_its_cell_prints(lesson, training):
    pipe = load_pipeline("pocket", device="cpu")
    ducks = [scene for again in training for scene in again if scene.words == ("duck",) and scene.style == "noto"]
    found = {"copies": [], "drawn": []}
    for colour in ("purple", "red"):
        painted = [replace(duck, things=(replace(duck.things[0], colour=colour),), ground="water") for duck in ducks]
        pictures = [scenes.draw(replace(scene, variant=i)) for scene in painted for i in range(8)]
        known = [np.asarray(picture) for picture in pictures]
        copies = decode(pipe, encode(pipe, pictures[:: len(pictures) // 9]))
        drawn = generate(pipe, [lesson["scene"]("duck", colour, "noto", "water").caption()] * 4, steps=20)
        for name, group in {"copies": copies, "drawn": drawn}.items():
            off = [nearest(np.asarray(one), known) for one in group]
            found[name].append(f"{min(off):.1f} to {max(off):.1f}")
        assert len(copies) == 10
    assert not scenes.held_out_colour("duck", "red") and scenes.held_out_colour("duck", "purple")
    fold = next(cell.source for cell in nbformat.read(LESSON, 4).cells if "What it shows" in cell.source)
    for name, (purple, red) in found.items():
        assert f"| {name} | {purple} | {red} |" in fold
