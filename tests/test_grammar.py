"""Pocket's grammar: its captions are known, and what is suggested leads to captions."""

import numpy as np
import pytest

from helpers.grammar import CAPTION, suggestions, unknown_words
from helpers.scenes import random_scene

LIMIT = 8


def test_every_caption_of_the_world_is_known():
    rng = np.random.default_rng(0)
    for i in range(500):
        scene = random_scene(rng, things=1 + i % 2)
        text = scene.caption(ground=i % 3 > 0, style=i % 5 > 0)
        assert unknown_words(text) == {}
        assert CAPTION.fullmatch(text)
    assert unknown_words("A FOX, left-of (a Pizza)!") == {}


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("fo", "a fox"),
        ("a fo", "a fox"),
        ("A  fo", "a fox"),
        ("a fox", "a fox left of"),
        ("a fox le", "a fox left of"),
        ("a fox left of a pi", "a fox left of a pig"),
        ("a fox left of a pur", "a fox left of a purple bear"),
        ("a fox left of a pig on a bl", "a fox left of a pig on a black background"),
        ("a fox on g", "a fox on grass"),
        ("a blue fox un", "a blue fox under water"),
        ("a fox on a blue background", "a fox on a blue background, flat style"),
        ("a fox at night", "a fox at night, flat style"),
        ("a fox, gl", "a fox, glossy style"),
        ("an orange o", "an orange octopus"),
        ("my fo", "my fox"),
        ("my piza", "my pizza"),
    ],
)
def test_a_prompt_is_continued(typed, first):
    assert suggestions(typed, LIMIT)[0][1] == first


@pytest.mark.parametrize("typed", ["a fox on a blue background, flat style", "qqqq", "my ", "my fox"])
def test_where_nothing_fits_nothing_is_suggested(typed):
    assert suggestions(typed, LIMIT) == []


def test_suggestions_lead_to_prompts_that_pocket_knows():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        prompt = ""
        while offered := suggestions(prompt, LIMIT):
            assert len(offered) <= LIMIT
            added, prompt = offered[rng.integers(len(offered))]
            assert prompt.endswith(added)
            seen.add(prompt)
        assert unknown_words(prompt) == {}
    assert len(seen) > 40
