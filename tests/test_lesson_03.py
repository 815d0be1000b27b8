"""The functions of lesson 03: its hook is the helper's, and what it counts and draws is right."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from helpers import surgery
from helpers.loading import load_pipeline
from tests.lessons import NOTEBOOKS, cell_with, constants, definitions
from tests.pipelines.tiny import WIDTH, randn, tiny_pipeline

LESSON = NOTEBOOKS / "03_inside_the_unet.ipynb"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    return definitions(LESSON, pipe=pipe, unet=pipe.unet)


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


def test_what_the_amounts_leave_has_nothing_of_any_part(lesson):
    parts = [randn(2, 4, 8, 8, seed=seed) + randn(1, 4, 8, 8, seed=9) for seed in (1, 2, 3)]
    x = randn(2, 4, 8, 8)
    left = x - sum(amount * part for amount, part in zip(lesson["made_of"](x, *parts), parts, strict=True))
    assert_close(torch.stack([(left * part).mean() for part in parts]), torch.zeros(3), rtol=0, atol=1e-5)


def test_a_sketch_marks_one_part_in_red_and_the_others_not(lesson):
    def reds(name):
        return (np.asarray(lesson["sketch"](name)) == (166, 27, 27)).all(axis=2)

    parts = [f"skip {number}" for number in range(6)]
    parts += ["from level 1", "from level 2", *(f"words at level {level}" for level in range(3))]
    assert not reds("").any()
    assert all(reds(part).any() for part in parts)
    assert len({reds(part).tobytes() for part in parts}) == len(parts)
    several = (np.asarray(lesson["sketch"]("skip 0", "words at level 1")) == (166, 27, 27)).all(axis=2)
    assert (several == (reds("skip 0") | reds("words at level 1"))).all()


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
    own, partners = lesson["own_and_partners"]("thing", "words", ["car", "fox"]).items()
    assert (own[0], [own[1](i, seen) for i, seen in enumerate(readings)]) == ("own thing", [True, False])
    assert (partners[0], [partners[1](i, seen) for i, seen in enumerate(readings)]) == (
        "partner's thing",
        [True, False],
    )
    own = lesson["own_and_partners"]("colour", "colours", ["red", "blue"])["own colour"]
    assert [own(i, seen) for i, seen in enumerate(readings)] == [True, False]


def test_neighbours_change_places_in_both_halves_of_a_guided_batch(lesson):
    guided = torch.arange(8.0).reshape(8, 1, 1, 1)
    assert lesson["partners"](guided).flatten().tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert guided.flatten().tolist() == list(range(8))


def reading(layout, *words, colours=("red",)):
    return SimpleNamespace(layout=layout, words=words, colours=colours)


def test_layouts_are_counted_beside_the_partners(lesson, capsys):
    lesson |= {"asked": ["a fox", "an owl"], "read_pocket": lambda pipe, drawings: drawings}
    one, both, twice = reading("one", "fox"), reading("above", "owl", "fox"), reading("above", "fox", "fox")
    sets = {"as asked": [one, both], "swapped": [twice, one]}
    as_asked = [(0, one), (1, both)]
    columns = lesson["own_and_partners"]("layout", "layout", ["one", "above"])
    columns |= {"as asked": lambda *seen: seen in as_asked}
    assert lesson["counted"](sets, columns, ["a", "b"]) == sets
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("of 1 ") and all(len(line) == len(head) for line in lines)
    assert [line.split()[-3:] for line in lines] == [["1", "0", "1"], ["1", "0", "1"], ["0", "1", "0"], ["0", "1", "0"]]
    lesson["counted"](sets, columns)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("of 2 ")
    assert [line.split()[-3:] for line in lines] == [["2", "0", "2"], ["0", "2", "0"]]


def test_relations_are_drawn_whole_and_swapped(lesson, capsys, monkeypatch):
    drawn = [["beside fox owl", "above fox owl"] * 6, ["above owl cat", "one owl"] * 6]  # whole, then swapped
    texts, rows = [], []

    def drawn_asked(changed, asked):
        texts.append(asked)
        assert isinstance(changed, nullcontext) == (len(texts) == 1)
        return drawn[len(texts) - 1]

    monkeypatch.setattr(lesson["plots"], "show", lambda figure, caption: None)
    monkeypatch.setattr(
        lesson["plots"], "grid", lambda shown, **more: rows.extend(zip(more["names"], shown, strict=True))
    )
    lesson |= {"asked": ["a fox", "an owl"] * 6, "things": ["fox", "owl"] * 6, "drawn_asked": drawn_asked}
    lesson |= {"read_pocket": lambda pipe, drawings: [reading(*one.split()) for one in drawings]}
    lesson["relations_swapped"]("left of", "above")
    assert texts[0] == texts[1] == ["a fox left of an owl", "a fox above an owl"] * 6
    counts = [line.split()[-2:] for line in capsys.readouterr().out.splitlines()[1:]]
    assert counts == [["6", "0"], ["6", "0"], ["0", "6"], ["0", "0"]]
    assert rows == [
        ("left of", ["beside fox owl"] * 6),
        ("above", ["above fox owl"] * 6),
        ("left of, swap", ["above owl cat"] * 6),
        ("above, swap", ["one owl"] * 6),
    ]


@torch.no_grad()
def test_the_words_that_some_boxes_read_are_replaced(lesson, pipe):
    side = pipe.unet.config.sample_size
    inputs = randn(2, 4, side, side), 100, randn(2, 5, WIDTH, seed=1)
    whole = pipe.unet(*inputs).sample
    with lesson["words_in"]([pipe.unet.up_blocks[0]], lesson["partners"]):
        swapped = pipe.unet(*inputs).sample
    with surgery.cut_words(pipe.unet, len(pipe.unet.up_blocks) - 1, put=lesson["partners"]):
        assert_close(pipe.unet(*inputs).sample, swapped, rtol=0, atol=0)
    with lesson["words_in"]([*pipe.unet.down_blocks, pipe.unet.mid_block, *pipe.unet.up_blocks], lesson["partners"]):
        everywhere = pipe.unet(*inputs).sample
    assert_close(everywhere, pipe.unet(*inputs[:2], lesson["partners"](inputs[2])).sample)
    assert not torch.equal(swapped, whole)
    assert_close(pipe.unet(*inputs).sample, whole, rtol=0, atol=0)  # no hook stays behind


@pytest.fixture
def tried(lesson):
    """The lesson's experiment with its table and pictures taken down: what was shown stands in `shown`."""
    shown = []
    lesson |= {
        "asked": ["a fox", "a fox above an owl"],
        "texts": ["a fox", "a fox above an owl"],
        "layouts": ["one", "above"],
        "level_2": ["its parts"],
        "words_in": lambda parts, put: (tuple(parts), put),
        "deeper": {"whole": ["whole"]},
        "drawn_asked": lambda changed, texts: [changed, tuple(texts)],
        "counted": lambda sets, columns, kinds: list(sets),
        "all_shown": lambda sets, found, rows, caption: shown.append((sets, rows)),
    }
    return SimpleNamespace(lesson=lesson, experiment=lesson["experiment"], shown=shown)


def test_an_experiment_shows_the_learners_swap_and_the_guess(tried, capsys):
    own = tried.lesson
    swapped = own["drawn_asked"](own["words_in"](own["level_2"], own["partners"]), own["texts"])
    tried.experiment(4, swapped)
    [(sets, rows)] = tried.shown
    assert sets == {"whole": ["whole"], "words": swapped}
    assert list(rows.values()) == [(name, order) for name in ("whole", "words") for order in (0, 1)]
    assert capsys.readouterr().out.split() == ["words,", "one", "thing:", "your", "guess", "4"]


def test_an_experiment_tells_of_another_swap_and_shows_it(tried, capsys):
    tried.experiment(4, ["another", "swap"])
    assert capsys.readouterr().out.startswith("not right yet: ")
    assert [sets["words"] for sets, _ in tried.shown] == [["another", "swap"]]


def test_an_experiment_says_what_it_wants_of_a_line_that_draws_nothing(tried, capsys):
    tried.experiment(4, nullcontext())
    assert "has to be the 2 pictures that `drawn_asked` draws" in capsys.readouterr().out and not tried.shown


@pytest.mark.parametrize(("guess", "swapped"), [(..., ...), (3, ...), (..., ["drawn"]), (0.5, ["drawn"])])
def test_an_experiment_asks_for_the_guess_and_the_line_first(tried, capsys, guess, swapped):
    tried.experiment(guess, swapped)
    assert "not answered yet: write a whole number and your line" in capsys.readouterr().out and not tried.shown


@pytest.mark.slow
@torch.no_grad()
def test_pocket_does_what_the_folded_solutions_say(capsys, monkeypatch):
    pocket = load_pipeline("pocket", device="cpu")
    side = pocket.unet.config.sample_size
    lesson = definitions(LESSON, pipe=pocket, unet=pocket.unet)
    wanted = "rng", "paintable", "things", "colours", "asked", "noises"
    lesson |= constants(LESSON, *wanted, x0=torch.zeros(1, 4, side, side), **lesson)
    monkeypatch.setattr(lesson["plots"], "show", lambda figure, caption: None)

    exec(cell_with(LESSON, "texts, layouts = [], []").split("\ndeeper = ")[0], lesson)
    exec(cell_with(LESSON, "level_2 = ["), lesson)
    capsys.readouterr()

    def two_or_one(changed):
        """In how many of six the judge reads the partner's layout: prompts for one thing, and for two."""
        columns = lesson["own_and_partners"]("layout", "layout", lesson["layouts"])
        lesson["counted"]({"words": lesson["drawn_asked"](changed, lesson["texts"])}, columns, ["one", "two"])
        return [int(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[1:]]

    partners = lesson["partners"]
    one, two = two_or_one(lesson["words_in"](lesson["level_2"], partners))
    assert 3 <= one <= 5 and two >= 5
    one, _ = two_or_one(surgery.cut_words(pocket.unet, 2, put=partners))
    assert 1 <= one <= 3

    lesson["relations_swapped"]("left of", "above")
    left_of, above = (line.split()[-2:] for line in capsys.readouterr().out.splitlines()[-2:])
    assert int(left_of[1]) >= 4 and int(above[1]) >= 2
