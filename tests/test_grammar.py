"""Pocket's grammar: its captions are known, and what is suggested leads to captions."""

import numpy as np
import pytest

from helpers.grammar import suggestions, unknown_words
from helpers.scenes import BACKGROUNDS, RELATIONS, STYLES, WORDS, caption

LIMIT = 8


def test_every_caption_of_the_grammar_is_known():
    captions = [
        caption(
            (word, WORDS[i - 1]), relation=RELATIONS[i % 4], background=list(BACKGROUNDS)[i % 10], style=STYLES[i % 4]
        )
        for i, word in enumerate(WORDS)
    ]
    assert all(unknown_words(text) == {} for text in captions)
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
        ("a fox left of a pig on a bl", "a fox left of a pig on a black background"),
        ("a fox on a blue background", "a fox on a blue background, flat style"),
        ("a fox, gl", "a fox, glossy style"),
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
