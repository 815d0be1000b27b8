"""What lesson 03 computes by hand is what diffusers computes: the solutions of its exercises, and its own functions."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from helpers import surgery
from helpers.exercises.lesson_03 import head, swap
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import WIDTH, tiny_pipeline

LESSON = NOTEBOOKS / "03_inside_the_unet.ipynb"


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    return definitions(LESSON, pipe=pipe, unet=pipe.unet, width=pipe.unet.config.block_out_channels[0], one_head=head)


@pytest.mark.parametrize("layers", [["conv"] * 3, ["conv", "halve", "conv"], ["halve", "conv", "halve", "conv"]])
def test_the_receptive_field_is_where_the_gradient_is(lesson, layers):
    chain = nn.Sequential(*(nn.Conv2d(1, 1, 3, stride=2 if layer == "halve" else 1, padding=1) for layer in layers))
    for part in chain:
        nn.init.ones_(part.weight)
    x = torch.zeros(1, 1, 65, 65, requires_grad=True)
    out = chain(x)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    assert int((x.grad[0, 0].sum(dim=0) > 0).sum()) == lesson["sees"](layers)


def test_the_lessons_time_code_is_the_unets(lesson, pipe):
    t = torch.arange(1000)
    assert_close(lesson["waves"](t), pipe.unet.time_proj(t), rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_resnet_by_hand_is_the_librarys_with_its_clock(lesson, pipe):
    code = lesson["waves"](torch.tensor([0, 400, 999]))
    clock = pipe.unet.time_embedding.linear_2(F.silu(pipe.unet.time_embedding.linear_1(code)))
    for block in (*pipe.unet.down_blocks, pipe.unet.mid_block, *pipe.unet.up_blocks):
        for resnet in block.resnets:
            x = normal(3, resnet.in_channels, 4, 4)
            assert_close(lesson["resnet_by_hand"](resnet, x, clock), resnet(x, clock), rtol=0, atol=1e-5)


def test_an_answer_is_taken_apart_into_what_it_was_made_of(lesson):
    one, two, rest = normal(4, 4, 16, 16), normal(1, 4, 16, 16, seed=1), normal(4, 4, 16, 16, seed=2)
    first, second, left = lesson["made_of"](0.9 * one - 0.2 * two + 0.3 * rest, one, two)
    assert abs(first - 0.9) < 0.02 and abs(second + 0.2) < 0.02 and abs(left - 0.09) < 0.01


def test_a_latent_gets_what_belongs_to_the_one_before(lesson):
    assert lesson["from_before"](torch.arange(4.0).reshape(4, 1, 1, 1)).flatten().tolist() == [3, 0, 1, 2]


@torch.no_grad()
def test_the_lessons_own_hook_cuts_the_skips_of_level_0(lesson, pipe):
    side = pipe.unet.config.sample_size
    inputs = normal(1, 4, side, side), 100, normal(1, 5, WIDTH, seed=1)
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


def test_neighbours_change_places_in_both_halves_of_a_guided_batch():
    guided = torch.arange(8.0).reshape(8, 1, 1, 1)
    assert swap(guided).flatten().tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert guided.flatten().tolist() == list(range(8))


def test_an_experiment_draws_a_part_cut_and_swapped_and_counts_beside_what_was_expected(lesson, capsys):
    fox, owl = (SimpleNamespace(words=(word,), colours=("red",)) for word in ("fox", "owl"))
    shown = []
    lesson |= {
        "pictures": {"nothing swapped": "whole"},
        "things": ["fox", "owl"],
        "partners": swap,
        "drawn_asked": lambda changed: changed,
        "read": lambda sets: {"whole": [fox, owl], "cut": [fox, fox], "swapped": [owl, fox]},
        "pairs_shown": lambda sets, found, caption: shown.append(sets),
    }
    experiment = lesson["experiment"]
    puts = []
    experiment(lambda put: puts.append(put) or len(puts), {"cut": 2, "swapped": 0})
    assert swap in puts and torch.zeros_like in puts and list(shown[0]) == ["whole", "cut", "swapped"]
    told = capsys.readouterr().out
    assert "cut: 2 of 2 expected, 1 read" in told and "swapped: 0 of 2 expected, 0 read" in told
    for part, expected in [(lambda put: None, {"cut": 1, "swapped": 1}), (lambda put: 1, {"cut": ..., "swapped": 1})]:
        experiment(part, expected)
        assert "not answered yet" in capsys.readouterr().out and len(shown) == 1


@torch.no_grad()
def test_self_attention_by_hand_is_the_layers_own(lesson, pipe):
    layer = list(surgery.self_attention(pipe.unet).values())[-1]
    side = pipe.unet.config.sample_size
    inputs = normal(1, 4, side, side), 100, normal(1, 5, WIDTH, seed=1)
    ((goes_in, comes_out),) = surgery.passing(pipe.unet, [layer], *inputs)
    by_hand, shares = lesson["attend"](layer, goes_in)
    assert_close(by_hand, comes_out, rtol=0, atol=1e-5)
    assert_close(shares.sum(dim=-1), torch.ones_like(shares[..., 0]))


def test_a_head_that_is_sure_copies_one_value_and_one_that_is_not_takes_the_mean():
    eye, v = torch.eye(4), normal(4, 3)
    answer, shares = head(100 * eye, eye, v)
    assert_close(answer, v)
    assert_close(shares, eye)
    answer, shares = head(0 * eye, eye, v)
    assert_close(answer, v.mean(dim=0).expand(4, 3))
