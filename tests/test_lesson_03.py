"""What lesson 03 computes by hand is what diffusers computes: the solutions of its exercises, and its own functions."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn
from torch.testing import assert_close

from helpers import surgery
from helpers.exercises.lesson_03 import read_clock, sees, waves
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


@pytest.mark.parametrize("half", [4, 32, 160])
def test_the_clock_that_is_read_is_the_librarys(half):
    t = torch.arange(0, 1000, 37)
    code = get_timestep_embedding(t, 2 * half, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert_close(waves(t, half), code, rtol=0, atol=1e-3)
    assert torch.equal(read_clock(code), t)


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


def test_a_skip_made_flat_keeps_its_means_and_loses_its_pattern(lesson):
    skip = normal(2, 3, 4, 4)
    flat = lesson["flat"](skip)
    assert flat.shape == skip.shape
    assert_close(flat[0, :, 0, 0], skip.mean(dim=(0, 2, 3)))
    assert flat.flatten(2).std(dim=2).max() < 1e-6


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
    by_hand, shares = lesson["attend"](layer, goes_in, torch.eye(goes_in.shape[1], dtype=torch.bool))
    assert_close(by_hand, comes_out, rtol=0, atol=1e-5)
    assert_close(shares[0, 0], torch.eye(goes_in.shape[1]))


@pytest.mark.parametrize("block", [1, 2])
def test_noise_is_read_from_a_wire_that_holds_it_and_from_no_other(lesson, block):
    noise, other = normal(64, 4, 8, 8), normal(64, 4 * block**2 + 3, 8 // block, 8 // block, seed=1)
    turn = torch.linalg.qr(normal(4 * block**2, 4 * block**2, seed=2)).Q
    held = torch.einsum("ij,bjhw->bihw", turn, F.pixel_unshuffle(noise, block)) + 5
    assert lesson["unread"](torch.cat([held, other], dim=1), noise) < 0.02
    assert lesson["unread"](other, noise) > 0.95
    assert abs(lesson["unread"](held + normal(*held.shape, seed=3), noise) - 0.5) < 0.1
