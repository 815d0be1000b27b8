"""The functions of lesson 03 and its exercise: its hook is the helper's, and what it counts and draws is right."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from helpers import surgery
from helpers.exercises.lesson_03 import amounts
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import WIDTH, randn, tiny_pipeline

LESSON = NOTEBOOKS / "03_inside_the_unet.ipynb"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    return definitions(LESSON, pipe=pipe, unet=pipe.unet, measure=amounts)


@pytest.mark.parametrize("layers", [["conv"] * 3, ["conv", "halve", "conv"], ["halve", "conv", "halve", "conv"]])
def test_the_receptive_field_is_where_the_gradient_is(lesson, layers):
    chain = nn.Sequential(*(nn.Conv2d(1, 1, 3, stride=2 if layer == "halve" else 1, padding=1) for layer in layers))
    for part in chain:
        nn.init.ones_(part.weight)
    x = torch.zeros(1, 1, 65, 65, requires_grad=True)
    out = chain(x)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    assert int((x.grad[0, 0].sum(dim=0) > 0).sum()) == lesson["sees"](layers)


def test_an_answer_is_taken_apart_into_what_it_was_made_of(lesson):
    one, two, rest = randn(4, 4, 16, 16), randn(1, 4, 16, 16, seed=1), randn(4, 4, 16, 16, seed=2)
    first, second = lesson["made_of"](0.9 * one - 0.2 * two + 0.3 * rest, one, two)
    assert abs(first - 0.9) < 0.02 and abs(second + 0.2) < 0.02


def test_what_the_amounts_leave_has_nothing_of_any_part():
    parts = [randn(2, 4, 8, 8, seed=seed) + randn(1, 4, 8, 8, seed=9) for seed in (1, 2, 3)]
    x = randn(2, 4, 8, 8)
    left = x - sum(amount * part for amount, part in zip(amounts(x, parts), parts, strict=True))
    assert_close(torch.stack([(left * part).mean() for part in parts]), torch.zeros(3), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_run_that_gets_all_three_wires_of_another_answers_as_the_other(lesson, pipe):
    side = pipe.unet.config.sample_size
    x, words = randn(2, 4, side, side), randn(1, 5, WIDTH, seed=1).expand(2, -1, -1)
    as_they_are = pipe.unet(x, 100, words).sample
    with lesson["all_three"]():
        exchanged = pipe.unet(x, 100, words).sample
    assert_close(exchanged, as_they_are.flip(0))


def test_two_runs_exchange_what_belongs_to_them(lesson):
    assert lesson["exchange"](torch.arange(4.0).reshape(4, 1, 1, 1)).flatten().tolist() == [2, 3, 0, 1]


def test_a_sketch_marks_one_part_in_red_and_the_others_not(lesson):
    def reds(name):
        return (np.asarray(lesson["sketch"](name)) == (166, 27, 27)).all(axis=2)

    parts = [f"skip {number}" for number in range(6)]
    parts += ["from level 1", "from level 2", "level 2 blind", *(f"words at level {level}" for level in range(3))]
    assert not reds("").any()
    assert all(reds(part).any() for part in parts)
    assert len({reds(part).tobytes() for part in parts}) == len(parts)


@torch.no_grad()
def test_the_lessons_own_hook_cuts_the_skips_of_level_0(lesson, pipe):
    side = pipe.unet.config.sample_size
    inputs = randn(1, 4, side, side), 100, randn(1, 5, WIDTH, seed=1)
    whole = pipe.unet(*inputs).sample
    top = pipe.unet.up_blocks[-1]
    with top.register_forward_pre_hook(lesson["zero"], with_kwargs=True):
        by_hand = pipe.unet(*inputs).sample
    with surgery.cut(pipe.unet, *range(len(top.resnets))):
        cut = pipe.unet(*inputs).sample
    assert_close(by_hand, cut, rtol=0, atol=0)
    assert not torch.equal(by_hand, whole)


def test_the_judges_readings_are_counted_where_they_agree(lesson):
    readings = [SimpleNamespace(words=("fox", "car"), colours=("red",)), SimpleNamespace(words=("owl",), colours=())]
    assert lesson["agreeing"](readings, "words", ["car", "fox"]) == 1
    assert lesson["agreeing"](readings, "colours", ["red", "red"]) == 1


def test_neighbours_change_places_in_both_halves_of_a_guided_batch(lesson):
    guided = torch.arange(8.0).reshape(8, 1, 1, 1)
    assert lesson["partners"](guided).flatten().tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert guided.flatten().tolist() == list(range(8))


def test_layouts_and_things_are_counted_beside_the_partners(lesson, capsys):
    one, both, twice = (
        SimpleNamespace(layout="one", words=("fox",)),
        SimpleNamespace(layout="above", words=("owl", "fox")),
        SimpleNamespace(layout="above", words=("fox", "fox")),
    )
    lesson |= {"things": ["fox", "owl"], "layouts": ["one", "above"]}
    lesson["arranged"]({"as asked": [one, both], "swapped": [twice, one]})
    counts = [line.split()[-3:] for line in capsys.readouterr().out.splitlines()[1:]]
    assert counts == [["1", "0", "1"], ["1", "0", "1"], ["0", "1", "1"], ["0", "1", "0"]]


def test_an_experiment_draws_a_part_cut_and_swapped_and_counts_beside_what_was_expected(lesson, capsys):
    fox, owl = (SimpleNamespace(words=(word,), colours=("red",)) for word in ("fox", "owl"))
    shown = []
    lesson |= {
        "things": ["fox", "owl"],
        "drawn_asked": lambda changed: changed,
        "read": lambda sets: {"cut": [fox, fox], "swapped": [owl, fox]},
        "pairs_shown": lambda sets, found, caption, wire: shown.append((wire, sets)),
    }
    experiment = lesson["experiment"]
    puts, swap = [], lesson["partners"]
    experiment("skip 1", lambda put: puts.append(put) or len(puts), {"cut": 2, "swapped": 0})
    assert swap in puts and torch.zeros_like in puts
    assert shown[0][0] == "skip 1" and list(shown[0][1]) == ["cut", "swapped"]
    told = capsys.readouterr().out
    assert "cut: 2 of 2 expected, 1 read" in told and "swapped: 0 of 2 expected, 0 read" in told
    for part, expected in [(lambda put: None, {"cut": 1, "swapped": 1}), (lambda put: 1, {"cut": ..., "swapped": 1})]:
        experiment("skip 1", part, expected)
        assert "not answered yet" in capsys.readouterr().out and len(shown) == 1
