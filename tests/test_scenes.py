"""The world of Pocket Diffusion: its sentences, its pictures, and the pairs that training never sees."""

import hashlib

import numpy as np
import pytest

from helpers.scenes import BACKGROUNDS, RELATIONS, SPRITES, STYLES, WORDS, caption, draw, held_out, random_scene, sprite
from training.build_sprites import pixel_hash


def test_the_world_is_as_large_as_stated():
    assert (len(WORDS), len(STYLES), len(BACKGROUNDS), len(RELATIONS)) == (124, 4, 10, 4)
    assert len(set(WORDS)) == 124


@pytest.mark.parametrize(
    ("words", "relation", "background", "style", "sentence"),
    [
        (("fox",), None, None, None, "a fox"),
        (("fox",), None, "blue", None, "a fox on a blue background"),
        (("fox", "pizza"), "left of", "white", "glossy", "a fox left of a pizza on a white background, glossy style"),
        (("star", "house"), "above", None, "noto", "a star above a house, noto style"),
        (("owl", "unicorn"), "below", "orange", None, "an owl below a unicorn on an orange background"),
        (("grapes", "umbrella"), "right of", None, None, "grapes right of an umbrella"),
    ],
)
def test_captions_follow_the_grammar(words, relation, background, style, sentence):
    assert caption(words, relation=relation, background=background, style=style) == sentence


def test_held_out_pairs_are_one_in_twenty():
    pairs = {(word, style) for word in WORDS for style in STYLES if held_out(word, style)}
    assert 15 <= len(pairs) <= 35


def test_sprites_are_those_that_were_rendered():
    from PIL import Image

    with Image.open(SPRITES / "sprites.webp") as atlas:
        assert pixel_hash(atlas) == (SPRITES / "sprites.sha256").read_text().strip()


def test_every_sprite_is_another_drawing():
    hashes = {hashlib.sha256(sprite(word, style).tobytes()).digest() for word in WORDS for style in STYLES}
    assert len(hashes) == len(WORDS) * len(STYLES)


@pytest.mark.parametrize(("word", "style", "choices"), [("dragon", "flat", "bear"), ("fox", "oil", "glossy")])
def test_unknown_sprites_are_refused(word, style, choices):
    with pytest.raises(ValueError, match=rf"Unknown .*{choices}"):
        sprite(word, style)


@pytest.mark.parametrize("relation", RELATIONS)
def test_objects_stand_where_the_caption_says(relation):
    rng = np.random.default_rng(1)
    scene = next(s for s in iter(lambda: random_scene(rng, objects=2), None) if s.relation == relation)
    (x0, y0), (x1, y1) = scene.centres
    assert {"left of": x0 < x1 - 50, "right of": x0 > x1 + 50, "above": y0 < y1 - 50, "below": y0 > y1 + 50}[relation]
    assert scene.words[0] != scene.words[1]
    background = np.array(BACKGROUNDS[scene.background])
    painted = (np.abs(np.asarray(draw(scene)).astype(int) - background) > 8).any(axis=2)
    for (x, y), size in zip(scene.centres, scene.sizes, strict=True):
        half = size // 2 + 1
        box = painted[max(0, y - half) : y + half, max(0, x - half) : x + half]
        assert box.mean() > 0.15  # both are drawn
        painted[max(0, y - half) : y + half, max(0, x - half) : x + half] = False
    assert not painted.any()  # and nothing stands anywhere else


def test_the_same_seed_gives_the_same_scene():
    one, two = (random_scene(np.random.default_rng(7), objects=2) for _ in range(2))
    assert one == two
    assert np.array_equal(draw(one), draw(two))


def test_a_scene_has_one_or_two_objects():
    with pytest.raises(ValueError, match="1 or 2 objects, not 3"):
        random_scene(np.random.default_rng(0), objects=3)
