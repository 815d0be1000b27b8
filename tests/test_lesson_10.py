"""Lesson 10: its losses, average, runs and flow are the library's, its training repeats, its states are its own.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch.testing import assert_close

from helpers import schedules
from helpers.checksums import verify_checksums
from helpers.exercises.lesson_10 import ends, guided_sample, min_snr_weight
from helpers.sampling import predict_x0
from helpers.scenes import draw
from tests.lessons import NOTEBOOKS, cell_with, constants, definitions
from tests.pipelines.tiny import randn, tiny_pipeline
from training import train_denoiser
from training.loop import train

LESSON = NOTEBOOKS / "10_train_from_scratch.ipynb"


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
        "latents": randn(32, 4, 16, 16, seed=9),
        "labels": torch.arange(16).repeat(2) // 2,
        "fresh_latents": randn(4, 4, 16, 16, seed=8),
        "fresh_labels": torch.arange(4),
        "LEVELS": [50, 600],
    }
    names = definitions(LESSON, **made)
    latents = made["latents"].reshape(2, 8, 2, -1)  # placings, things, grounds
    names["real"] = latents.transpose(1, 2).flatten(0, 1).var(dim=0).mean()
    return names


class Answering(torch.nn.Module):
    """In place of a network: answers by a function of x, t and y."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, y):
        return type("Output", (), {"sample": self.answer(x, t, y)})


# --- the losses, the batches, the loop


@torch.no_grad()
def test_the_loss_is_the_librarys(lesson):
    network, scheduler = lesson["build_network"](), lesson["pipe"].scheduler
    x0, y, t, eps = lesson["batch"](3)
    by_hand = lesson["errors"](network, x0, y, t, eps)
    expected = F.mse_loss(network(scheduler.add_noise(x0, eps, t), t, class_labels=y).sample, eps, reduction="none")
    assert_close(by_hand, expected.mean(dim=(1, 2, 3)))
    assert_close(lesson["noise_loss"](network, 3), by_hand.mean())
    plain = train_denoiser.PlainLoss(network)
    plain.scheduler = scheduler
    assert_close(plain(x0, eps, t, y), by_hand.mean())


@torch.no_grad()
def test_the_loss_of_the_velocity_is_the_librarys(lesson):
    network, scheduler = lesson["build_network"](), lesson["pipe"].scheduler
    x0, y, t, eps = lesson["batch"](3)
    target = scheduler.get_velocity(x0, eps, t)
    expected = F.mse_loss(network(scheduler.add_noise(x0, eps, t), t, class_labels=y).sample, target)
    assert_close(lesson["velocity_errors"](network, x0, y, t, eps).mean(), expected)
    # What follows from it as the noise is the library's too.
    answer = network(x0, 500, y).sample
    sampler = DDIMScheduler.from_config(scheduler.config, prediction_type="v_prediction")
    sampler.set_timesteps(1000)
    x0_implied = sampler.step(answer, 500, x0).pred_original_sample
    noise = lesson["noise_by_velocity"](network, x0, 500, y)
    assert_close(predict_x0(x0, noise, 500, scheduler.alphas_cumprod), x0_implied, rtol=1e-3, atol=1e-3)


def test_a_batch_depends_on_its_step_and_covers_all_timesteps_and_labels(lesson):
    first, again, other = (lesson["batch"](step) for step in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[3], other[3])
    batches = [lesson["batch"](step) for step in range(300)]
    t, y = (torch.cat([batch[place] for batch in batches]) for place in (2, 1))
    assert int(t.min()) < 20 and int(t.max()) > 980
    assert 0.06 < float((y == lesson["NOTHING"]).float().mean()) < 0.14
    for x0, labels, _, _ in batches[:20]:
        for latent, label in zip(x0, labels, strict=True):
            place = next(i for i, known in enumerate(lesson["latents"]) if torch.equal(known, latent))
            assert int(label) in (int(lesson["labels"][place]), lesson["NOTHING"])
    few = torch.cat([lesson["batch"](step, among=2)[0] for step in range(20)])
    assert len(torch.unique(few, dim=0)) == 2


def test_training_lowers_the_loss_warms_up_and_repeats(lesson, monkeypatch):
    rates, seen = [], []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)

    def same_batch(network, step):
        return lesson["noise_loss"](network, 0)

    runs = [lesson["train"](6, same_batch, lambda step, losses, averaged: seen.append(step)) for _ in range(2)]
    assert seen == [3, 6, 3, 6]
    assert_close(rates[:6], [lesson["RATE"] * (i + 1) / lesson["WARMUP"] for i in range(6)])
    (network, averaged, losses), (again, _, losses_again) = runs
    assert losses == losses_again
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(network.parameters(), averaged.parameters(), strict=True))


@pytest.mark.parametrize(("steps", "moments"), [(7, 2), (8, 3), (9, 4)])
def test_a_training_is_looked_at_half_way_and_at_its_end(lesson, steps, moments):
    lesson |= constants(LESSON, "SHORT", STEPS=steps) | {"MOMENTS": moments}
    assert lesson["SHORT"] == steps // 2
    seen = []
    lesson["train"](steps, watch=lambda step, losses, averaged: seen.append(step))
    assert {steps // 2, steps} <= set(seen)


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_the_average_is_the_librarys(lesson, decay):
    weights = [torch.nn.Parameter(randn(3))]
    mean, library = [weights[0].detach().clone()], EMAModel(weights, decay=decay)
    library.step(weights)
    for step in range(1, 30):
        weights[0].data += randn(3, seed=step)
        library.step(weights)
        lesson["update_average"](mean, weights, step, decay)
        assert_close(mean[0], library.shadow_params[0])


# --- its network and world are those of the longer run


def test_the_longer_run_has_the_lessons_network_and_world(lesson):
    assert dict(lesson["build_network"]().config) == dict(train_denoiser.build_denoiser().config)
    names = ("THINGS", "STYLE", "GROUNDS", "PLACINGS", "NOTHING", "DROPPED")
    assert [lesson[name] for name in names] == [getattr(train_denoiser, name) for name in names]
    scenes = lesson["small_world"](0)
    assert scenes == train_denoiser.small_world(0)
    fresh = lesson["small_world"](1, 4, scenes)
    pictures = [draw(scene).tobytes() for scene in scenes + fresh]
    assert len(fresh) == 64 and len(set(pictures)) == len(pictures)
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
    eps, t = randn(*x0.shape), torch.full_like(y, 600)
    lesson |= {"alpha_bar": train_denoiser.build_scheduler().alphas_cumprod}
    found = []
    for name in names:
        network = train_denoiser.build_denoiser()
        network.load_state_dict({key: value.float() for key, value in load_file(folder / name).items()})
        with torch.no_grad():
            found.append(lesson["errors"](network, x0, y, t, eps).mean().item())
    # At t = 600 the simple guess has alpha_bar = 0.16; every state but the first is far below it.
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

    # Pictures of another world are not gone on with.
    monkeypatch.setattr(train_denoiser, "files_key", lambda files: "of another world")
    with pytest.raises(SystemExit, match="sprites"):
        train_denoiser.main()


# --- what a loss counts


QUESTIONS = {"eps": lambda a: (0.0, 1.0), "v": lambda a: (-((1 - a) ** 0.5), a**0.5), "x0": lambda a: (1.0, 0.0)}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_with_its_weight_every_question_counts_the_same(lesson, question, gamma):
    alpha_bar = lesson["alpha_bar"].double()
    snr = alpha_bar / (1 - alpha_bar)
    weight = min_snr_weight(alpha_bar, gamma, question)
    x0, eps, wrong = (randn(2, 4, 8, 8, seed=seed).double() for seed in (0, 1, 2))
    for t in (0, 100, 500, 999):
        a = float(alpha_bar[t])
        signal, noise = a**0.5, (1 - a) ** 0.5
        x_t = signal * x0 + noise * eps
        p, q = QUESTIONS[question](a)
        # The answer of a network that takes `wrong` for the picture under x_t.
        answer = p * wrong + q * (x_t - signal * wrong) / noise
        loss = weight[t] * (answer - (p * x0 + q * eps)).square().mean()
        assert_close(loss, snr[t].clamp(max=gamma) * (wrong - x0).square().mean())


def test_a_flat_weight_is_the_plain_loss_and_any_weight_has_mean_one(lesson):
    network = lesson["build_network"]()
    plain = lesson["noise_loss"](network, 4)
    errors, weighted = lesson["errors"], lesson["weighted"]
    for constant in (1.0, 7.0):
        weight = torch.full((1000,), constant)
        assert_close(weighted(errors, weight)(network, 4), plain)
    only = torch.zeros(1000)
    t = lesson["batch"](4)[2]
    only[t[0]] = 1.0
    one = errors(network, *lesson["batch"](4))[t == t[0]].sum() / len(t)
    assert_close(weighted(errors, only)(network, 4), 1000 * one)


@torch.no_grad()
def test_a_question_can_be_counted_as_the_other(lesson):
    """Up to a constant, the lesson's losses are errors of x0 times what their names say."""
    losses = [lesson["noise_loss"], lesson["velocity_loss"]]

    def train(steps, loss_of):
        losses.append(loss_of)
        return None, None, None

    snr = schedules.snr(lesson["alpha_bar"])
    made = lesson | {"snr": snr, "train": train, "by_noise": None, "by_velocity": None}
    exec(cell_with(LESSON, "three = {"), made)
    assert list(made["three"]) == ["noise", "weighted noise", "velocity"]
    # The velocity again, with the weight that exercise 2 gives it.
    losses.append(lesson["weighted"](lesson["velocity_errors"], min_snr_weight(lesson["alpha_bar"], 5.0, "v")))
    network = lesson["build_network"]()
    expected = ("eps", snr), ("v", snr + 1), ("eps", snr + 1), ("v", snr.clamp(max=5))
    for loss, (how, counts) in zip(losses, expected, strict=True):
        ratios = []
        for step in (0, 1):
            x0, y, t, eps = lesson["batch"](step)
            total = 0.0
            for one in range(len(t)):
                x_t = schedules.add_noise(x0[one : one + 1], eps[one : one + 1], int(t[one]), lesson["alpha_bar"])
                seen = made["noise_by_velocity"] if how == "v" else lesson["noise_in"]
                noise = seen(network, x_t, int(t[one]), y[one : one + 1])
                implied = predict_x0(x_t, noise, int(t[one]), lesson["alpha_bar"])
                total += counts[t[one]] * (implied - x0[one]).square().mean() / len(t)
            ratios.append(float(loss(network, step) / total))
        assert ratios[0] == pytest.approx(ratios[1], rel=1e-2)  # noise divided by a small root magnifies rounding


# --- runs


# DDIMScheduler.step lands at t - 1000 // calls. That is the next of its timesteps, as Song et al. have it, only where
# calls divides 1000; else the next step takes the latents for noisier or cleaner than they are. DPM-Solver of the first
# order is DDIM too (Lu et al., 2022, arXiv:2206.00927), and steps between its own noise levels.
DDIM = partial(DDIMScheduler.from_config, set_alpha_to_one=True)
FIRST_ORDER = partial(
    DPMSolverMultistepScheduler.from_config,
    algorithm_type="dpmsolver++",
    solver_order=1,
    final_sigmas_type="zero",
)


@pytest.mark.parametrize(("library", "calls"), [(DDIM, 1), (DDIM, 5), (FIRST_ORDER, 5), (FIRST_ORDER, 6)])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_a_run_by_hand_is_the_librarys(lesson, kind, library, calls):
    network = lesson["build_network"]()
    sampler = library(lesson["pipe"].scheduler.config, timestep_spacing="trailing", prediction_type=kind)
    sampler.set_timesteps(calls)
    x, y = lesson["start"](2, seed=3)
    for t in sampler.timesteps:
        x = sampler.step(network(x, t, y).sample, t, x).prev_sample
    how = lesson["noise_in"] if kind == "epsilon" else lesson["noise_by_velocity"]
    assert_close(lesson["sample"]((network, how), rows=2, calls=calls, seed=3), x, rtol=1e-3, atol=1e-3)


def test_rows_of_samples_begin_alike_and_have_all_labels(lesson):
    asked = []

    def answer(x, t, y):
        asked.append((int(t), y.tolist()))
        return torch.zeros_like(x)

    lesson["sample"]((Answering(answer), lesson["noise_in"]), rows=2, calls=4)
    assert asked == [(t, [*range(8), *range(8)]) for t in (999, 749, 499, 249)]
    assert torch.equal(lesson["start"](2)[0], lesson["start"](2)[0])


@torch.no_grad()
def test_one_walk_serves_all_three_questions(lesson):
    """The pairs of the cell after exercise 1, once that is solved."""
    network = lesson["build_network"]()
    made = lesson | {"ends": ends, "by_noise": network, "by_velocity": network, "by_flow": network}
    exec(cell_with(LESSON, "def walk("), made)
    assert list(made["by_ends"]) == list(made["as_above"])
    for name, mine in made["by_ends"].items():
        assert_close(mine, made["as_above"][name], rtol=1e-3, atol=1e-3)


def test_labels_reach_the_network(lesson):
    network, x = lesson["build_network"](), randn(1, 4, 16, 16)
    with torch.no_grad():
        fox, owl = (network(x, 500, torch.tensor([label])).sample for label in (0, 3))
    assert not torch.allclose(fox, owl)


@torch.no_grad()
def test_a_guided_run_by_hand_is_the_librarys(lesson):
    network = lesson["build_network"]()
    x, y = lesson["start"]()
    sampler = DDIMScheduler.from_config(
        lesson["pipe"].scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    sampler.set_timesteps(4)
    expected = x
    for t in sampler.timesteps:
        bare, told = (network(expected, t, labels).sample for labels in (torch.full_like(y, 8), y))
        expected = sampler.step(bare + 3 * (told - bare), t, expected).prev_sample
    times = [*sampler.timesteps.tolist(), -1]
    got = guided_sample(lambda *given: network(*given).sample, x, y, 8, times, lesson["alpha_bar"], 3)
    assert_close(got, expected, rtol=1e-3, atol=1e-3)


# --- errors and copies


def test_a_network_that_knows_the_noise_has_no_error_at_any_level(lesson):
    x0 = lesson["fresh_latents"]
    eps = lesson["normal"](len(x0), 1, x0)
    knowing = Answering(lambda x, t, y: eps)
    assert_close(lesson["errors_at"](knowing, lesson["LEVELS"]), torch.zeros(2, len(x0)))
    assert_close(lesson["x0_errors"](knowing, lesson["noise_in"]), [0.0, 0.0])
    zeros = Answering(lambda x, t, y: torch.zeros_like(x))
    assert_close(lesson["errors_at"](zeros, [300])[0], eps.square().mean(dim=(1, 2, 3)))


def test_the_simple_guess_is_measured_as_a_network_that_guesses_so_would_be(lesson):
    a = lesson["alpha_bar"]
    guessing = Answering(lambda x, t, y: (1 - a[t]).sqrt().reshape(-1, 1, 1, 1) * x)
    assert_close(lesson["guess_errors"](lesson["LEVELS"]), lesson["errors_at"](guessing, lesson["LEVELS"]))


def test_two_networks_that_share_a_drawing_take_turns_as_the_lesson_says(lesson):
    asked = []

    def noise_of(network, x, t, y):
        asked.append((network, int(t)))
        return x

    for switch, expected in ((0, "bbbb"), (1, "abbb"), (3, "aaab"), (4, "aaaa"), (6, "aaaa")):
        asked.clear()
        lesson["sample"](("a", noise_of), ("b", noise_of), switch, calls=4)
        assert asked == list(zip(expected, (999, 749, 499, 249), strict=True))


def test_the_nearest_training_picture_of_one_is_itself(lesson):
    latents = lesson["latents"]
    apart, which = lesson["nearest"](latents[[3, 11]], latents)
    assert which.tolist() == [3, 11]
    # cdist takes differences of large squares.
    assert_close(apart, torch.zeros(2), rtol=0, atol=1e-2)
    moved, _ = lesson["nearest"](latents[:1] + 0.05, latents)
    assert_close(moved, torch.tensor([0.05]), rtol=0.02, atol=0)


def test_variety_is_a_share_of_that_of_real_pictures(lesson):
    # Four rows of the eight things: of each both placings on both grounds, which are all there are.
    rows = lesson["latents"].reshape(2, 8, 2, 4, 16, 16).permute(0, 2, 1, 3, 4, 5).flatten(0, 2)
    assert lesson["variety"](rows) == pytest.approx(1.0)
    assert lesson["variety"](rows[:8].repeat(4, 1, 1, 1)) == pytest.approx(0.0, abs=1e-6)


# --- the flow


def straight(x0):
    """A network that is right: it knows the end of the line."""
    return Answering(lambda x, t, y: (x - x0) / (torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1, 1, 1) / 1000))


def test_a_right_flow_has_no_loss_and_one_call_is_enough(lesson):
    lesson["latents"] = randn(1, 4, 16, 16, seed=3)
    lesson["labels"] = torch.zeros(1, dtype=torch.long)
    network = straight(lesson["latents"])
    # At the smallest s the division magnifies rounding.
    assert float(lesson["flow_loss"](network, 0)) < 1e-5
    for calls in (1, 5):
        x = lesson["sample_flow"](network, calls=calls)
        assert_close(x, lesson["latents"].expand_as(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("calls", [1, 7])
@torch.no_grad()
def test_the_flow_by_hand_is_the_librarys(lesson, calls):
    network = lesson["build_network"]()
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1 - i / calls for i in range(calls)])
    x, y = lesson["start"]()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t, y).sample, t, x).prev_sample
    assert_close(lesson["sample_flow"](network, calls=calls), x, rtol=1e-3, atol=1e-3)
    x0, eps = randn(2, 4, 8, 8), randn(2, 4, 8, 8, seed=1)
    scheduler.set_timesteps(4)
    x_s = scheduler.scale_noise(x0, scheduler.timesteps[1:2], eps)
    s = float(scheduler.sigmas[1])
    assert_close(x_s, (1 - s) * x0 + s * eps)
    for got, expected in zip(ends(x_s, eps - x0, (1 - s, s), (-1.0, 1.0)), (x0, eps), strict=True):
        assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_network_has_the_size_that_the_folder_of_its_states_tells(lesson):
    assert f"{lesson['count'](lesson['build_network']()) / 1e6:.2f} million" in (
        train_denoiser.CHECKPOINTS / "README.md"
    ).read_text(encoding="utf-8")
