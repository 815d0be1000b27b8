"""The world of Pocket Diffusion: sentences, colours, places, what is held out, and where things stand."""

import colorsys
import hashlib

import numpy as np
import pytest
from PIL import Image

from helpers import grounds, scenes
from helpers.grounds import PLACES, SIZE, VARIANTS, place
from helpers.scenes import (
    COLOURS,
    GROUNDS,
    PLAIN,
    RELATIONS,
    SPRITES,
    STYLES,
    WORDS,
    Scene,
    Thing,
    boxes,
    coloured,
    draw,
    frame,
    held_out_colour,
    held_out_style,
    random_scene,
    sprite,
    takes_colours,
    vary,
)
from training.build_sprites import pixel_hash


@pytest.fixture(scope="module")
def many():
    """400 random scenes, half of one thing and half of two."""
    rng = np.random.default_rng(0)
    return [random_scene(rng, things=1 + i % 2) for i in range(400)]


def test_the_world_is_as_large_as_stated():
    assert (len(WORDS), len(STYLES), len(COLOURS), len(PLAIN), len(PLACES), len(RELATIONS)) == (120, 4, 7, 10, 8, 4)
    assert len(set(WORDS)) == 120


def test_sprites_are_those_that_were_rendered():
    with Image.open(SPRITES / "sprites.webp") as atlas:
        assert pixel_hash(atlas) == (SPRITES / "sprites.sha256").read_text().strip()


def test_every_sprite_is_another_drawing():
    hashes = {hashlib.sha256(sprite(word, style).tobytes()).digest() for word in WORDS for style in STYLES}
    assert len(hashes) == len(WORDS) * len(STYLES)


@pytest.mark.parametrize(
    ("scene", "sentence"),
    [
        (Scene((Thing("fox"),)), "a fox on a white background, flat style"),
        (Scene((Thing("owl", "orange"),), ground="night", style="noto"), "an orange owl at night, noto style"),
        (Scene((Thing("grapes"),), ground="orange"), "grapes on an orange background, flat style"),
        (
            Scene((Thing("unicorn", "blue"), Thing("grapes", "blue")), "left of", "water", "glossy"),
            "a blue unicorn left of blue grapes under water, glossy style",
        ),
    ],
)
def test_a_caption_says_word_colour_relation_ground_and_style(scene, sentence):
    assert scene.caption() == sentence


def test_a_caption_can_leave_out_ground_and_style():
    scene = Scene((Thing("fox", "blue"),), ground="grass")
    assert scene.caption(ground=False) == "a blue fox, flat style"
    assert scene.caption(style=False) == "a blue fox on grass"


def test_what_is_held_out_is_in_no_scene_and_is_not_little(many):
    for scene in many:
        for thing in scene.things:
            assert not held_out_style(thing.word, scene.style)
            assert not held_out_colour(thing.word, thing.colour)
    styles = sum(held_out_style(word, style) for word in WORDS for style in scenes.STYLES)
    colours = sum(held_out_colour(word, colour) for word in WORDS for colour in COLOURS)
    assert 0.03 < styles / (4 * len(WORDS)) < 0.07  # one in twenty is meant, and one in ten
    assert 0.07 < colours / (7 * len(WORDS)) < 0.13
    rng = np.random.default_rng(1)
    assert any(random_scene(rng, things=2, allow_held_out=True).held_out for _ in range(100))


def test_scenes_vary_in_all_that_captions_say_and_never_say(many):
    things = [thing for scene in many for thing in scene.things]
    plain = sum(scene.ground not in PLACES for scene in many) / len(many)
    assert 0.4 < plain < 0.6
    assert {scene.ground for scene in many} == set(GROUNDS)
    assert {thing.colour for thing in things} == {None, *COLOURS}
    assert {thing.mirrored for thing in things} == {False, True}
    assert {thing.tilt for thing in things} == set(range(-scenes.TILT, scenes.TILT + 1))
    assert all(len(set(scene.words)) == len(scene.words) for scene in many)


def test_colours_go_only_to_what_can_take_one(many):
    assert all(takes_colours(thing.word, scene.style) for scene in many for thing in scene.things if thing.colour)
    assert takes_colours("fox", "flat")
    assert not takes_colours("shark", "flat")  # grey
    assert not takes_colours("rainbow", "flat")  # of every hue


@pytest.mark.parametrize("colour", COLOURS)
def test_a_coloured_thing_has_that_hue_and_its_eyes_stay(colour):
    before, after = (np.asarray(picture, float) for picture in (sprite("fox", "flat"), coloured("fox", "flat", colour)))
    hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in before.reshape(-1, 4)[:, :3] / 255])
    opaque = before.reshape(-1, 4)[:, 3] > 250
    body, grey = opaque & (hsv[:, 1] > 0.5), opaque & (hsv[:, 1] < 0.1)
    changed = after.reshape(-1, 4)
    found = colorsys.rgb_to_hsv(*(np.median(changed[body, :3], axis=0) / 255))[0]
    assert abs((found - COLOURS[colour][0] + 0.5) % 1 - 0.5) < 0.03  # hue goes round
    np.testing.assert_array_equal(changed[grey], before.reshape(-1, 4)[grey])
    np.testing.assert_array_equal(changed[:, 3], before.reshape(-1, 4)[:, 3])


def test_things_stay_in_their_frames_and_two_never_touch(many):
    for scene in many:
        for index, (left, top, right, bottom) in enumerate(boxes(scene)):
            low, first, high, last = frame(scene, index)
            assert low <= left < right <= high
            assert first <= top < bottom <= last
    pair = next(scene for scene in many if scene.relation == "right of")
    (left, *_), (_, _, right, _) = boxes(pair)
    assert left > right  # the first stands right of the second


def test_a_drawing_changes_where_its_thing_is_and_nowhere_else(many):
    for scene in many[:40]:
        picture = np.asarray(draw(scene), float)
        empty = np.asarray(draw(Scene((), ground=scene.ground, variant=scene.variant)), float)
        outside = np.ones((SIZE, SIZE), bool)
        for left, top, right, bottom in boxes(scene):
            outside[top:bottom, left:right] = False
        assert picture.shape == (SIZE, SIZE, 3)
        np.testing.assert_array_equal(picture[outside], empty[outside])
        assert np.abs(picture - empty)[~outside].mean() > 1


def test_a_size_is_that_of_what_is_seen():
    left, top, right, bottom = boxes(Scene((Thing("pepper", side=90),)))[0]
    assert max(right - left, bottom - top) == 90


def test_varying_a_scene_keeps_its_caption(many):
    rng = np.random.default_rng(2)
    for scene in many[:20]:
        varied = vary(scene, rng)
        assert varied.caption() == scene.caption()
        assert varied != scene


def test_places_come_in_variants_and_always_the_same():
    for name in PLACES:
        pictures = [np.asarray(place(name, variant)) for variant in range(VARIANTS)]
        assert len({picture.tobytes() for picture in pictures}) == VARIANTS
        again = PLACES[name][1]((list(PLACES).index(name), 0)).finished()
        np.testing.assert_array_equal(np.asarray(again), pictures[0])


def test_edges_of_places_are_soft():
    """Where a hill meets the sky there are colours between the two: places are drawn larger and made smaller."""
    rows = np.asarray(place("sunset", 0), float).mean(axis=2)
    steps = np.abs(np.diff(rows, axis=0))  # (127, 128)
    edge = steps.argmax(axis=0)
    columns = np.arange(SIZE)
    whole = np.abs(rows[edge - 2, columns] - rows[edge + 3, columns])
    assert np.median(steps.max(axis=0) / whole) < 0.95


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sprite("dragon", "flat"), "Unknown word 'dragon': choose one of bear, "),
        (lambda: sprite("fox", "oil"), "Unknown style 'oil': choose one of flat, glossy, "),
        (lambda: coloured("fox", "flat", "mauve"), "Unknown colour 'mauve': choose one of red, "),
        (lambda: place("moon", 0), "Unknown place 'moon': choose one of grass, "),
        (lambda: grounds.place("sky", 8), "variant is 8: choose a whole number from 0 to 7"),
        (lambda: random_scene(np.random.default_rng(0), things=3), "A scene has 1 or 2 things, not 3"),
    ],
)
def test_what_is_not_in_the_world_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
