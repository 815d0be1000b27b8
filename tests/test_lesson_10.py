"""Lesson 10: its loss, average and flow are the library's, its training repeats, and the shipped states are its own.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch.testing import assert_close

from helpers.checksums import verify_checksums
from helpers.exercises.lesson_10 import averaged_weights, drop_labels, ends, min_snr_weight
from tests.lessons import NOTEBOOKS, cell_with, definitions
from tests.pipelines.tiny import tiny_pipeline
from training import train_denoiser
from training.loop import train

LESSON = NOTEBOOKS / "10_train_from_scratch.ipynb"


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def set_in_the_lesson():
    """What the lesson sets in its cell of constants."""
    found = {}
    exec(cell_with(LESSON, "THINGS ="), found)
    return {name: value for name, value in found.items() if name.isupper()}


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def lesson(pipe):
    """The lesson's functions, with random latents in the place of the encoded pictures."""
    made = set_in_the_lesson() | {
        "pipe": pipe,
        "device": pipe.device,
        "alpha_bar": pipe.scheduler.alphas_cumprod,
        "BATCH": 3,
        "MOMENTS": 2,
        "latents": normal(16, 4, 16, 16, seed=9),
        "labels": torch.arange(16) % 8,
        "fresh_latents": normal(4, 4, 16, 16, seed=8),
        "fresh_labels": torch.arange(4),
        "LEVELS": [50, 600],
    }
    return definitions(LESSON, **made)


# --- the loss, the batches, the loop


@torch.no_grad()
def test_the_loss_is_the_librarys(lesson):
    network, scheduler = lesson["build_network"](), lesson["pipe"].scheduler
    x0, y, t, eps = lesson["batch"](3)
    by_hand = lesson["errors"](network, x0, y, t, eps)
    expected = F.mse_loss(network(scheduler.add_noise(x0, eps, t), t, class_labels=y).sample, eps, reduction="none")
    assert_close(by_hand, expected.mean(dim=(1, 2, 3)))
    plain = train_denoiser.PlainLoss(network)
    plain.scheduler = scheduler
    assert_close(plain(x0, eps, t, y), by_hand.mean())


def test_a_batch_depends_on_its_step_and_covers_all_timesteps(lesson):
    first, again, other = (lesson["batch"](step) for step in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[3], other[3])
    t = torch.cat([lesson["batch"](step)[2] for step in range(300)])
    assert int(t.min()) < 20
    assert int(t.max()) > 980
    x0, y, _, _ = first
    for latent, label in zip(x0, y, strict=True):
        place = next(i for i, known in enumerate(lesson["latents"]) if torch.equal(known, latent))
        assert int(label) == place % 8


def test_the_simple_guess_is_wrong_by_alpha_bar(lesson):
    t = torch.tensor([50, 300, 900])
    x0, eps = normal(3, 4, 128, 128, seed=1), normal(3, 4, 128, 128, seed=2)
    a = lesson["alpha_bar"][t]
    guess = (1 - a).sqrt().reshape(-1, 1, 1, 1) * lesson["noised"](x0, t, eps)
    # Of 65,536 numbers the mean of squares is off by about 0.6 %.
    assert_close((eps - guess).square().mean(dim=(1, 2, 3)), a, rtol=0.03, atol=0)


def test_training_lowers_the_loss_warms_up_and_repeats(lesson, monkeypatch):
    rates, seen = [], []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)

    def same_batch(network, step):
        return lesson["errors"](network, *lesson["batch"](0)).mean()

    runs = [lesson["train"](6, same_batch, lambda step, losses, averaged: seen.append(step)) for _ in range(2)]
    assert seen == [3, 6, 3, 6]
    assert_close(rates[:6], [lesson["RATE"] * (i + 1) / lesson["WARMUP"] for i in range(6)])
    (network, averaged, losses), (again, _, losses_again) = runs
    assert losses == losses_again
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(network.parameters(), averaged.parameters(), strict=True))


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_the_average_is_the_librarys_and_the_exercises(lesson, decay):
    weights = [torch.nn.Parameter(normal(3))]
    mean, library = [weights[0].detach().clone()], EMAModel(weights, decay=decay)
    library.step(weights)
    for step in range(1, 30):
        weights[0].data += normal(3, seed=step)
        library.step(weights)
        expected = averaged_weights(mean[0], weights[0].detach(), step, decay)
        lesson["update_average"](mean, weights, step, decay)
        assert_close(mean[0], expected)
        assert_close(mean[0], library.shadow_params[0])


# --- its network and world are those of the longer run


def test_the_longer_run_has_the_lessons_network_and_world(lesson):
    assert dict(lesson["build_network"]().config) == dict(train_denoiser.build_denoiser().config)
    names = ("THINGS", "STYLE", "GROUNDS", "PLACINGS")
    assert [lesson[name] for name in names] == [getattr(train_denoiser, name) for name in names]
    assert lesson["small_world"](0) == train_denoiser.small_world(0)
    assert not set(lesson["small_world"](1, 4)) <= set(lesson["small_world"](0))
    assert set_in_the_lesson()["BATCH"] == train_denoiser.LOOP.batch_size


def test_the_shipped_states_are_whole_and_better_the_longer_they_were_trained(lesson):
    folder = train_denoiser.CHECKPOINTS
    verify_checksums(folder)
    names = [f"step-{moment:05}.safetensors" for moment in train_denoiser.MOMENTS]
    assert sorted(path.name for path in folder.glob("*.safetensors")) == names
    config = UNet2DModel.load_config(folder)
    mine = dict(train_denoiser.build_denoiser().config)
    assert {name: config[name] for name in mine if name in config and not name.startswith("_")} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in mine.items() if name in config
    }
    x0, y = train_denoiser.encoded(train_denoiser.small_world(1)[:32])
    eps, t = normal(*x0.shape), torch.full_like(y, 600)
    lesson |= {"alpha_bar": train_denoiser.build_scheduler().alphas_cumprod}
    found = []
    for name in names:
        network = train_denoiser.build_denoiser()
        network.load_state_dict({key: value.float() for key, value in load_file(folder / name).items()})
        with torch.no_grad():
            found.append(lesson["errors"](network, x0, y, t, eps).mean().item())
    # At t = 600 the simple guess has alpha_bar = 0.19; every state but the first is far below it.
    assert found[0] > found[1] > found[2] > found[3]
    assert found[-1] < 0.03


def test_the_longer_run_keeps_the_averaged_weights_of_each_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(train_denoiser, "PLACINGS", 1)  # 16 pictures are quickly encoded
    folders = ["--folder", str(tmp_path / "run"), "--output", str(tmp_path / "kept")]
    monkeypatch.setattr(sys, "argv", ["train_denoiser", "--moments", "1", "3", *folders])
    train_denoiser.main()
    verify_checksums(tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").glob("*.safetensors")) == [
        "step-00001.safetensors",
        "step-00003.safetensors",
    ]

    # The same three steps without a stop between them.
    latents, labels = train_denoiser.encoded(train_denoiser.small_world(seed=0))
    loop = replace(train_denoiser.LOOP, steps=3)
    set_seed(loop.seed)
    trainee = train_denoiser.PlainLoss(train_denoiser.build_denoiser())
    make_batch = partial(train_denoiser.labelled_batch, latents=latents, labels=labels, loop=loop)
    whole = train(trainee, make_batch, loop, tmp_path / "whole").network.state_dict()
    kept = load_file(tmp_path / "kept" / "step-00003.safetensors")
    for name, value in kept.items():
        assert value.dtype == torch.float16
        assert_close(value.float(), whole[name].half().float(), rtol=1e-2, atol=1e-4)  # one rounding in half precision


# --- weights


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_the_weight_is_the_papers(lesson, gamma):
    snr = lesson["alpha_bar"] / (1 - lesson["alpha_bar"])
    weight = min_snr_weight(lesson["alpha_bar"], gamma)
    assert_close(weight[snr <= gamma], torch.ones(int((snr <= gamma).sum())))
    assert_close(weight[snr > gamma], gamma / snr[snr > gamma])
    assert bool((weight.diff() >= -1e-6).all())
    # The error in x0 is the error in eps over the SNR: weighing the one by min(SNR, gamma) is weighing the other by w.
    t = torch.tensor([100, 500])
    x0, eps, wrong = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1), normal(2, 4, 8, 8, seed=2)
    a = lesson["alpha_bar"][t].reshape(-1, 1, 1, 1)
    implied = (lesson["noised"](x0, t, eps) - (1 - a).sqrt() * wrong) / a.sqrt()
    by_x0 = (implied - x0).square().mean(dim=(1, 2, 3)) * snr[t].clamp(max=gamma)
    assert_close(by_x0, (wrong - eps).square().mean(dim=(1, 2, 3)) * weight[t], rtol=1e-3, atol=1e-5)


def test_a_flat_weight_is_the_plain_loss_and_any_weight_has_mean_one(lesson):
    network = lesson["build_network"]()
    plain = lesson["plain_loss"](network, 4)
    for constant in (1.0, 7.0):
        weight = torch.full((1000,), constant)
        assert_close(lesson["weighted"](weight)(network, 4), plain)
    only = torch.zeros(1000)
    t = lesson["batch"](4)[2]
    only[t[0]] = 1.0
    one = lesson["errors"](network, *lesson["batch"](4))[t == t[0]].sum() / len(t)
    assert_close(lesson["weighted"](only)(network, 4), 1000 * one)


# --- copies, labels


def test_the_nearest_training_picture_of_one_is_itself(lesson):
    apart, which = lesson["nearest"](lesson["latents"][[3, 11]])
    assert which.tolist() == [3, 11]
    # cdist takes differences of large squares.
    assert_close(apart, torch.zeros(2), rtol=0, atol=1e-2)
    moved, _ = lesson["nearest"](lesson["latents"][:1] + 0.05)
    assert_close(moved, torch.tensor([0.05]), rtol=0.02, atol=0)


def test_labels_reach_the_network(lesson):
    network, x = lesson["build_network"](), normal(1, 4, 16, 16)
    with torch.no_grad():
        fox, owl = (network(x, 500, torch.tensor([label])).sample for label in (0, 3))
    assert not torch.allclose(fox, owl)


def test_as_many_labels_are_dropped_as_asked():
    labels, dice = torch.arange(8).repeat(1000), torch.rand(8000, generator=torch.Generator().manual_seed(0))
    dropped = drop_labels(labels, dice, 0.1, 8)
    assert 0.08 < (dropped == 8).float().mean() < 0.12
    assert torch.equal(dropped[dropped != 8], labels[dropped != 8])


# --- the flow


class Straight(torch.nn.Module):
    """A network that is right: it knows the end of the line."""

    def __init__(self, x0):
        super().__init__()
        self.x0 = x0

    def forward(self, x, t, y):
        s = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1, 1, 1) / 1000
        return type("Output", (), {"sample": (x - self.x0) / s})


def test_a_right_velocity_has_no_loss_and_one_call_is_enough(lesson):
    lesson["latents"] = normal(1, 4, 16, 16, seed=3)
    lesson["labels"] = torch.zeros(1, dtype=torch.long)
    network = Straight(lesson["latents"])
    # At the smallest s the division magnifies rounding.
    assert float(lesson["flow_loss"](network, 0)) < 1e-5
    for calls in (1, 5):
        x = lesson["sample_flow"](network, calls=calls)
        assert_close(x, lesson["latents"].expand_as(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("calls", [1, 7])
def test_the_flow_by_hand_is_the_librarys(lesson, calls):
    network = lesson["build_network"]()
    by_library = lesson["sample_flow_by_library"](network, calls=calls)
    assert_close(lesson["sample_flow"](network, calls=calls), by_library, rtol=1e-3, atol=1e-3)
    scheduler = FlowMatchEulerDiscreteScheduler()
    x0, eps = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    scheduler.set_timesteps(4)
    x_s = scheduler.scale_noise(x0, scheduler.timesteps[1:2], eps)
    s = float(scheduler.sigmas[1])
    assert_close(x_s, (1 - s) * x0 + s * eps)
    for got, expected in zip(ends(x_s, eps - x0, s), (x0, eps), strict=True):
        assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_rows_of_samples_begin_alike_and_have_all_labels(lesson):
    asked = []

    class Recorder(torch.nn.Module):
        def forward(self, x, t, y):
            asked.append((int(t), y.tolist()))
            return type("Output", (), {"sample": torch.zeros_like(x)})

    lesson["sample"](Recorder(), rows=2, calls=4)
    assert asked == [(t, [*range(8), *range(8)]) for t in (999, 749, 499, 249)]
    assert torch.equal(lesson["start_noise"](2), lesson["start_noise"](2))


def test_the_network_has_the_size_that_the_folder_of_its_states_tells(lesson):
    assert f"{lesson['count'](lesson['build_network']()) / 1e6:.2f} million" in (
        train_denoiser.CHECKPOINTS / "README.md"
    ).read_text(encoding="utf-8")
