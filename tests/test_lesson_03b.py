"""What lesson 03b computes by hand is what diffusers computes: the solution of its exercise, and its own functions."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from helpers import surgery
from helpers.exercises.lesson_03b import head
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import WIDTH, randn, tiny_pipeline

LESSON = NOTEBOOKS / "03b_self_attention.ipynb"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def lesson(pipe):
    """The functions of the lesson and its imports, with the tiny pipeline where the lesson has loaded one."""
    return definitions(LESSON, pipe=pipe, unet=pipe.unet, width=pipe.unet.config.block_out_channels[0], one_head=head)


def test_the_lessons_time_code_is_the_unets(lesson, pipe):
    t = torch.arange(1000)
    assert_close(lesson["waves"](t), pipe.unet.time_proj(t), rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_resnet_by_hand_is_the_librarys_with_its_clock(lesson, pipe):
    code = lesson["waves"](torch.tensor([0, 400, 999]))
    clock = pipe.unet.time_embedding.linear_2(F.silu(pipe.unet.time_embedding.linear_1(code)))
    for block in (*pipe.unet.down_blocks, pipe.unet.mid_block, *pipe.unet.up_blocks):
        for resnet in block.resnets:
            x = randn(3, resnet.in_channels, 4, 4)
            assert_close(lesson["resnet_by_hand"](resnet, x, clock), resnet(x, clock), rtol=0, atol=1e-5)


@torch.no_grad()
def test_self_attention_by_hand_is_the_layers_own(lesson, pipe):
    layer = list(surgery.self_attention(pipe.unet).values())[-1]
    side = pipe.unet.config.sample_size
    inputs = randn(1, 4, side, side), 100, randn(1, 5, WIDTH, seed=1)
    ((goes_in, comes_out),) = surgery.passing(pipe.unet, [layer], *inputs)
    by_hand, shares = lesson["attend"](layer, goes_in)
    assert_close(by_hand, comes_out, rtol=0, atol=1e-5)
    assert_close(shares.sum(dim=-1), torch.ones_like(shares[..., 0]))


def test_a_head_that_is_sure_copies_one_value_and_one_that_is_not_takes_the_mean():
    eye, v = torch.eye(4), randn(4, 3)
    answer, shares = head(100 * eye, eye, v)
    assert_close(answer, v)
    assert_close(shares, eye)
    answer, shares = head(0 * eye, eye, v)
    assert_close(answer, v.mean(dim=0).expand(4, 3))


def test_a_head_knows_no_places():
    """Shuffled places give the same answer, shuffled in the same way."""
    q, k, v, order = randn(9, 4), randn(9, 4, seed=1), randn(9, 4, seed=2), torch.randperm(9)
    answer, shares = head(q[order], k[order], v[order])
    assert_close(answer, head(q, k, v)[0][order])
    assert_close(shares, head(q, k, v)[1][order][:, order])


@torch.no_grad()
def test_a_poke_reaches_no_place_past_what_is_held(pipe):
    """With all of the U-Net's last layer held nothing changes; with nothing held the poked place changes most."""
    side, unet = pipe.unet.config.sample_size, pipe.unet
    x_t, words = randn(1, 4, side, side), randn(1, 5, WIDTH, seed=1)
    poke = definitions(LESSON, pipe=pipe, words=words)["poke"]
    poke.__globals__["noisy"] = lambda t: x_t.clone()  # the lesson's own stands on its fox
    assert poke(1, 2, unet.conv_out).max() == 0
    change = poke(1, 2)
    assert change.shape == (side, side)
    assert divmod(change.argmax().item(), side) == (1, 2)
