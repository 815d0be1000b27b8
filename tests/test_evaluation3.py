"""Figures of the next world's model: what counts as right, how sure a share is, and which scenes are asked for."""

import numpy as np
import pytest
from PIL import Image

from evaluation.evaluate3 import KINDS, paired, share, sharpness, variety, verdicts
from helpers.judge import Reading
from helpers.scenes import Scene, Thing, draw, held_out_colour, held_out_style, takes_colours, vary


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
    assert pairs["low"] < found["low"] and pairs["share"] == 0.9
    assert share([True] * 20)["high"] == pytest.approx(1) and share([None]) == {}


def test_the_paired_test_is_that_of_coins():
    one, other = [True] * 6 + [False, True], [False] * 6 + [True, True]
    assert paired(one, other) == {"only the first": 6, "only the second": 1, "p": pytest.approx(2 * 8 / 128)}
    assert paired([True], [True])["p"] == 1


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
