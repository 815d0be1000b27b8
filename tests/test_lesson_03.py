"""What lesson 03 computes by hand is what diffusers computes: the solutions of its exercises, and its own functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from helpers import surgery
from helpers.exercises.lesson_03 import sees
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
    return definitions(LESSON, pipe=pipe, unet=pipe.unet, width=pipe.unet.config.block_out_channels[0])


@pytest.mark.parametrize("layers", [["conv"] * 3, ["conv", "halve", "conv"], ["halve", "conv", "halve", "conv"]])
def test_the_receptive_field_is_where_the_gradient_is(layers):
    chain = nn.Sequential(*(nn.Conv2d(1, 1, 3, stride=2 if layer == "halve" else 1, padding=1) for layer in layers))
    for part in chain:
        nn.init.ones_(part.weight)
    x = torch.zeros(1, 1, 65, 65, requires_grad=True)
    out = chain(x)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    assert int((x.grad[0, 0].sum(dim=0) > 0).sum()) == sees(layers)


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


def test_neighbours_exchange_what_comes_from_below_in_both_halves_of_a_guided_batch(lesson):
    guided = torch.arange(8.0).reshape(8, 1, 1, 1)
    assert lesson["exchange"](guided).flatten().tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


@torch.no_grad()
def test_self_attention_by_hand_is_the_layers_own(lesson, pipe):
    layer = list(surgery.self_attention(pipe.unet).values())[-1]
    side = pipe.unet.config.sample_size
    inputs = normal(1, 4, side, side), 100, normal(1, 5, WIDTH, seed=1)
    ((goes_in, comes_out),) = surgery.passing(pipe.unet, [layer], *inputs)
    by_hand, shares = lesson["attend"](layer, goes_in)
    assert_close(by_hand, comes_out, rtol=0, atol=1e-5)
    assert_close(shares.sum(dim=-1), torch.ones_like(shares[..., 0]))


@torch.no_grad()
def test_self_attention_that_may_look_at_itself_only_is_alone(lesson, pipe):
    layer = list(surgery.self_attention(pipe.unet).values())[-1]
    side = pipe.unet.config.sample_size
    inputs = normal(1, 4, side, side), 100, normal(1, 5, WIDTH, seed=1)
    with surgery.alone(layer):
        ((goes_in, comes_out),) = surgery.passing(pipe.unet, [layer], *inputs)
    itself = torch.eye(goes_in.shape[1], dtype=torch.bool)
    by_hand, shares = lesson["attend"](layer, goes_in, lesson["only"](lambda scores: itself))
    assert_close(by_hand, comes_out, rtol=0, atol=1e-5)
    assert_close(shares[0, 0], torch.eye(goes_in.shape[1]))


@torch.no_grad()
def test_equal_scores_are_a_plain_mean_and_the_largest_are_as_many_as_asked(lesson):
    scores = normal(2, 3, 8, 8)
    assert_close(torch.zeros_like(scores).softmax(dim=-1), torch.full_like(scores, 1 / 8))
    largest = lesson["first"](3)(scores)
    assert (largest.sum(dim=-1) == 3).all()
    assert (
        scores.masked_fill(~largest, torch.inf).amin(dim=-1) > scores.masked_fill(largest, -torch.inf).amax(-1)
    ).all()
    shares = lesson["only"](lesson["first"](3))(scores).softmax(dim=-1)
    assert ((shares > 0).sum(dim=-1) == 3).all()
    lots, others = (lesson["lot"](normal(1, 2, 32, 32), seed=seed) for seed in (4, 5))
    assert (lots.sum(dim=-1) == 9).all() and not torch.equal(lots, others) and not torch.equal(lots[0], lots[1])


def test_scores_dealt_to_other_places_keep_their_sizes(lesson):
    scores = normal(2, 3, 8, 8)
    dealt = lesson["dealt"](scores, seed=0)
    assert not torch.equal(dealt, scores)
    assert_close(dealt.sort(dim=-1).values, scores.sort(dim=-1).values, rtol=0, atol=0)


def test_noise_is_read_from_a_skip_that_holds_it_and_from_no_other(lesson):
    noise, other = normal(96, 4, 8, 8), normal(96, 7, 8, 8, seed=1)
    turn = torch.linalg.qr(normal(4, 4, seed=2)).Q
    held = torch.einsum("ij,bjhw->bihw", turn, noise) + 5
    assert lesson["read"](torch.cat([held, other], dim=1), noise) < 0.02
    assert lesson["read"](other, noise) > 0.95
    assert abs(lesson["read"](held + normal(*held.shape, seed=3), noise) - 0.5) < 0.1


def test_who_knows_the_picture_reads_the_noise_from_what_mixes_the_two(lesson):
    noise, picture = normal(96, 4, 8, 8), 3 * normal(1, 4, 8, 8, seed=1)
    assert lesson["read"](noise + picture, noise) > 0.8
    assert lesson["read"](noise + picture, noise, knowing=True) < 0.02
