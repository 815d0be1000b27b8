"""Training: losses as in their papers, resume that continues the same run, and both stages started as a user would."""

import argparse
import csv
import json
import math
import subprocess
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.attention import capture
from helpers.judge import HEADS, Judge
from helpers.scenes import RELATIONS, STYLES, WORDS, boxes, held_out_colour, held_out_style
from tests.accelerated import launch
from tests.killed_runs import LINE, SHORT, Line, line_batch
from training import dataset, train_judge, train_unet, train_vae
from training.dataset import all_boxes, cached_latents, denoising_batch, random_caption, training_scenes
from training.extra_tasks import NO_PLACE, targets
from training.flags import add_flags, as_flags, filled, flat
from training.loop import LoopConfig, local_share, rate_at, train
from training.losses import DenoisingLoss
from training.run_folder import history
from training.text import TOKENS, build_text_encoder, build_tokenizer, clip_tokenizer, reading, vocabulary_captions
from training.train_vae import CROP, VaeConfig, VaeLoss, build_vae, crop_batch
from training.unet import UNetConfig, build_scheduler, build_unet

ROOT = Path(__file__).resolve().parent.parent


def test_a_stopped_run_continues_as_if_it_had_not_stopped(tmp_path):
    whole = train(Line(), line_batch, LINE, tmp_path / "whole")
    train(Line(), line_batch, replace(LINE, stop_after=17), tmp_path / "parts")
    resumed = train(Line(), line_batch, replace(LINE, checkpoint_minutes=1.0), tmp_path / "parts")
    torch.testing.assert_close(resumed.weight, whole.weight, rtol=0, atol=0)
    assert not torch.equal(whole.weight, Line().weight)


def steps_of(log: Path) -> list[int]:
    with open(log, encoding="utf-8", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_weights(tmp_path):
    command = [sys.executable, "-m", "tests.killed_runs", tmp_path / "killed"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    *left, last = json.loads(result.stdout)
    assert left == sorted(left), "a run that was killed has lost a checkpoint"
    assert len(left) > 15 and len(set(left)) > 5 and last == SHORT.steps
    killed = train(Line(), line_batch, SHORT, tmp_path / "killed")  # reads the last checkpoint, there is no step left
    whole = train(Line(), line_batch, SHORT, tmp_path / "whole")
    torch.testing.assert_close(killed.weight, whole.weight, rtol=0, atol=0)
    assert steps_of(tmp_path / "killed" / "log.csv") == steps_of(tmp_path / "whole" / "log.csv") == [SHORT.steps]


@pytest.mark.parametrize("left", ["old and new", "old, new and half of a newer one"])
def test_what_a_stop_leaves_of_checkpoints_is_put_right(tmp_path, left):
    whole = train(Line(), line_batch, LINE, tmp_path / "whole")
    for steps in (10, 20):
        train(Line(), line_batch, replace(LINE, stop_after=steps), tmp_path / "run")
        (tmp_path / "run" / "checkpoint").rename(tmp_path / f"after {steps}")
        if steps == 10:  # the second part begins there
            (tmp_path / "run" / "checkpoint").mkdir()
            for file in (tmp_path / "after 10").iterdir():
                (tmp_path / "run" / "checkpoint" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "after 10").rename(tmp_path / "run" / "checkpoint.old")
    if left == "old and new":  # between the two renames: the new one is whole
        (tmp_path / "after 20").rename(tmp_path / "run" / "checkpoint.new")
    else:
        (tmp_path / "after 20").rename(tmp_path / "run" / "checkpoint")
        (tmp_path / "run" / "checkpoint.new").mkdir()
        (tmp_path / "run" / "checkpoint.new" / "model.safetensors").write_bytes(b"half")
    asked = []
    resumed = train(Line(), lambda step: asked.append(step) or line_batch(step), LINE, tmp_path / "run")
    assert asked == list(range(20, 40))
    torch.testing.assert_close(resumed.weight, whole.weight, rtol=0, atol=0)
    assert not list((tmp_path / "run").glob("checkpoint.*"))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 0.2}, r"learning_rate 0\.1 \(now 0\.2\)"),
        ({"steps": 50, "seed": 3}, r"steps 40 \(now 50\), seed 0 \(now 3\)"),
    ],
)
def test_a_run_is_not_resumed_under_other_settings(tmp_path, changed, named):
    train(Line(), line_batch, replace(LINE, stop_after=3), tmp_path)
    with pytest.raises(SystemExit, match=named) as refused:
        train(Line(), line_batch, replace(LINE, **changed), tmp_path)
    assert "\n" not in str(refused.value)
    (tmp_path / "config.json").unlink()
    with pytest.raises(SystemExit, match=r"no config\.json"):
        train(Line(), line_batch, LINE, tmp_path)


def test_the_next_batch_is_made_while_a_step_is_computed(tmp_path):
    made = [threading.Event() for _ in range(4)]

    class Waiting(Line):
        step = 0

        def forward(self, x, y):
            self.step += 1
            assert self.step == 4 or made[self.step].wait(20), "the next batch is made after the step"
            return super().forward(x, y)

    def make_batch(step):
        made[step].set()
        return line_batch(step)

    train(Waiting(), make_batch, replace(LINE, steps=4), tmp_path)


def test_the_log_holds_the_mean_loss_of_the_steps_since_the_row_before(tmp_path):
    losses = []

    class Told(Line):
        def forward(self, x, y):
            loss = super().forward(x, y)
            losses.append(loss.item())
            return loss

    train(Told(), line_batch, replace(LINE, steps=120), tmp_path)
    with open(tmp_path / "log.csv", encoding="utf-8", newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    expected = [
        (b, pytest.approx(np.mean(losses[a:b]), rel=1e-3, abs=1e-6)) for a, b in ((0, 50), (50, 100), (100, 120))
    ]
    assert rows == expected


@dataclass(frozen=True, kw_only=True)
class Settings:
    """For the test below."""

    widths: tuple[int, ...] = (1, 2)  # of 100 % of the layers
    weight: float = 5.0
    kept: bool = False  # off at first
    end: int | None = None  # nowhere
    loop: LoopConfig = field(default_factory=lambda: LINE)


def test_flags_are_the_fields_of_the_dataclass_with_their_comments(capsys):
    parser = argparse.ArgumentParser()
    add_flags(parser, Settings(), without=["seed"])
    assert filled(Settings(), vars(parser.parse_args([]))) == Settings()
    line = "--widths 3 4 5 --weight inf --kept --end 7 --betas 0.5 0.25 --learning-rate 0.0009"
    config = filled(Settings(), vars(parser.parse_args(line.split())))
    loop = replace(LINE, betas=(0.5, 0.25), learning_rate=9e-4)
    assert config == Settings(widths=(3, 4, 5), weight=math.inf, kept=True, end=7, loop=loop)
    written = as_flags(json.loads(json.dumps(flat(config))), Settings())
    assert sorted(written.split()) == sorted(line.split())
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "of 100 % of the layers (default: 1 2)" in shown
    assert "share of the run at the full rate; most visible quality comes after it (default: 0.5)" in shown
    assert "--seed" not in shown


def test_the_loop_learns(tmp_path):
    trained = train(Line(), line_batch, replace(LINE, steps=400), tmp_path)
    torch.testing.assert_close(trained.weight.detach(), torch.tensor([2.0, 3.0]), rtol=0, atol=0.1)


def test_the_kept_weights_are_the_averaged_ones(tmp_path):
    """EMA with the warm-up of diffusers: decay min(0.9, (1 + k) / (10 + k)) in update k + 1."""
    config = replace(LINE, steps=6)
    averaged = Line().weight.detach()
    line, optimizer = Line(), None
    optimizer = torch.optim.AdamW(line.parameters(), config.learning_rate, betas=config.betas, weight_decay=0.01)
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = config.learning_rate * rate_at(step, config)
        optimizer.zero_grad()
        line(**line_batch(step)).backward()
        nn.utils.clip_grad_norm_(line.parameters(), config.clip)
        optimizer.step()
        decay = min(config.ema_decay, (1 + step) / (10 + step)) if step else 0.0
        averaged = decay * averaged + (1 - decay) * line.weight.detach()
    trained = train(Line(), line_batch, config, tmp_path)
    torch.testing.assert_close(trained.weight.detach(), averaged)


def test_learning_rate_warms_up_holds_and_decays():
    config = LoopConfig(steps=1000, batch_size=1, learning_rate=1.0, warmup_steps=100, decay_from=0.5, final_rate=0.02)
    assert rate_at(0, config) == 0.01
    assert rate_at(99, config) == rate_at(300, config) == 1.0
    assert rate_at(750, config) == pytest.approx(0.51)
    assert rate_at(1000, config) == pytest.approx(0.02)
    assert rate_at(1000, replace(config, decay_from=1.0)) == 1.0  # asked for after the last step; no decay at all


def test_a_batch_that_cannot_be_shared_is_refused():
    class TwoProcesses:
        num_processes, process_index, device = 2, 0, "cpu"

    with pytest.raises(ValueError, match="Batch size 3 does not divide by 2"):
        local_share({"x": torch.zeros(3)}, TwoProcesses())


def test_every_word_of_the_grammar_is_one_token():
    tokenizer = build_tokenizer()
    for text in vocabulary_captions():
        words = text.replace(",", " ,").split()
        assert len(tokenizer(text).input_ids) == len(words) + 2 <= TOKENS
    assert tokenizer.decode(tokenizer("a dragon?").input_ids, skip_special_tokens=True).split() == ["a", "dragon", "?"]


@torch.no_grad()
def test_a_text_encoder_keeps_the_words_that_two_tokenizers_share_and_begins_the_others_with_their_pieces():
    old = clip_tokenizer([("a", "n</w>")], TOKENS)  # knows `an` and single letters
    new = clip_tokenizer([("i", "n</w>"), ("a", "n</w>"), ("o", "w"), ("ow", "l</w>")], TOKENS)
    before = build_text_encoder(old, width=16, layers=1).eval()
    after = reading(before, old, new)
    vectors = [model.get_input_embeddings().weight for model in (before, after)]
    assert after.config.eos_token_id == new.eos_token_id and len(vectors[1]) == len(new)
    for token, pieces in (("an</w>", ["an</w>"]), ("owl</w>", ["o", "w", "l</w>"]), ("ow", ["o", "w</w>"])):
        expected = torch.stack([vectors[0][i] for i in old.convert_tokens_to_ids(pieces)]).mean(dim=0)
        torch.testing.assert_close(vectors[1][new.convert_tokens_to_ids(token)], expected)
    told = [
        model(tokenizer("an a", return_tensors="pt").input_ids) for model, tokenizer in ((before, old), (after, new))
    ]
    torch.testing.assert_close(told[0].last_hidden_state, told[1].last_hidden_state, rtol=0, atol=0)


def small_unet():
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=16,
        norm_num_groups=8,
    )


def test_every_tokenizer_is_the_same():
    """A resumed run and every process make their own; equally frequent pairs were once joined in an order of chance."""
    first, *others = (build_tokenizer().get_vocab() for _ in range(4))
    assert all(vocabulary == first for vocabulary in others)


def test_the_training_set_has_no_held_out_pair_and_every_other_style():
    scenes = training_scenes(UNetConfig(scenes=5000))
    things = [(thing, scene.style) for scene in scenes for thing in scene.things]
    assert not any(scene.held_out for scene in scenes)
    assert not any(
        held_out_style(thing.word, style) or held_out_colour(thing.word, thing.colour) for thing, style in things
    )
    pairs = {(word, style) for word in WORDS for style in STYLES if not held_out_style(word, style)}
    assert {(thing.word, style) for thing, style in things} == pairs


@pytest.mark.parametrize(("gamma", "floor"), [(math.inf, 0.0), (5.0, 0.0), (5.0, 0.1)])
def test_denoising_loss_is_the_formula(gamma, floor):
    """Ho et al. (2020), eq. 14, with the weight min(SNR, gamma) / SNR of arXiv:2303.09556, and a floor under it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer, width=16, layers=1).eval()
    unet = small_unet().eval()
    x0, eps = torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16)
    t = torch.tensor([10, 400, 900])
    ids = tokenizer(["a fox", "", "an owl"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        loss = DenoisingLoss(unet, text_encoder, gamma, floor)(x0, eps, t, ids)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        alpha_bar = (1 - betas).cumprod(0)[t].view(3, 1, 1, 1)
        x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
        error = (unet(x_t, t, text_encoder(ids).last_hidden_state).sample - eps).square().mean(dim=(1, 2, 3))
        snr = (alpha_bar / (1 - alpha_bar)).flatten()
        assert snr.min() < 0.1 and snr.max() > 5  # so that both bounds are at work
        bounded = [max(min(float(ratio), gamma), floor) for ratio in snr]
        weight = torch.ones(3) if gamma == math.inf else torch.tensor(bounded) / snr
    torch.testing.assert_close(loss, (weight * error).mean(), rtol=1e-4, atol=1e-6)


def test_targets_are_the_words_in_the_caption_and_the_things_in_the_picture():
    tokenizer = build_tokenizer()
    seen = set()
    scenes = training_scenes(UNetConfig(scenes=60))
    texts = [scene.caption() for scene in scenes]
    told = tokenizer(texts, padding="max_length", return_offsets_mapping=True, return_tensors="np")
    ends = told.offset_mapping[:, :, 1].tolist()
    seen_in = all_boxes(scenes).numpy()
    found = targets(scenes, texts, ends, seen_in)
    assert found["masks"].shape == (60, 2, 16, 16)
    for scene, ids, words, masks, place in zip(
        scenes, told.input_ids, found["words"], found["masks"], found["place"], strict=True
    ):
        tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
        for i, word in enumerate(scene.words):
            assert word.endswith(tokens[words[i]].removesuffix("</w>"))
            left, top, right, bottom = boxes(scene)[i]
            rows, columns = masks[i].nonzero()
            # Cells of 8 pixels whose middle is in the box: off by half a cell at most.
            assert (8 * columns.min(), 8 * rows.min()) == pytest.approx((left, top), abs=4)
            assert (8 * (columns.max() + 1), 8 * (rows.max() + 1)) == pytest.approx((right, bottom), abs=4)
            assert masks[i].sum() == (1 + np.ptp(rows)) * (1 + np.ptp(columns))
        if scene.relation is None:
            assert words[1] == 0 and not masks[1].any() and place == NO_PLACE
        else:
            seen.add(RELATIONS[place])
            (x0, y0), (x1, y1) = (((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in boxes(scene))
            moved = {"left of": x0 - x1, "right of": x1 - x0, "above": y0 - y1, "below": y1 - y0}
            assert moved[RELATIONS[place]] > 40  # pixels: told from the second object
    assert seen == set(RELATIONS)
    nothing = targets(scenes[:1], [""], [[0] * TOKENS], seen_in[:1])
    assert not nothing["words"].any() and not nothing["masks"].any() and nothing["place"].tolist() == [NO_PLACE]


def tiny_tasks():
    """Models, a batch of two (two objects, then none) and what the tasks need of it."""
    torch.manual_seed(0)
    text_encoder = build_text_encoder(build_tokenizer(), width=16, layers=1).eval()
    inputs = (
        torch.randn(2, 4, 16, 16),
        torch.randn(2, 4, 16, 16),
        torch.tensor([10, 900]),
        torch.tensor([[1, 2, 3]] * 2),
    )
    masks = torch.zeros(2, 2, 16, 16)
    masks[0, 0, 4:12, :8] = masks[0, 1, 4:12, 8:] = 1
    told = {"words": torch.tensor([[1, 2], [0, 0]]), "masks": masks, "place": torch.tensor([3, NO_PLACE])}
    return small_unet().eval(), text_encoder, inputs, told


@torch.no_grad()
def test_place_task_adds_its_weighted_cross_entropy_where_there_is_a_second_object():
    unet, text_encoder, inputs, told = tiny_tasks()
    trainee = DenoisingLoss(unet, text_encoder, 5.0, place_weight=0.5)
    plain = DenoisingLoss(unet, text_encoder, 5.0)(*inputs)
    read = trainee.place.read(text_encoder(inputs[3]).last_hidden_state[0, 2]).log_softmax(0)
    torch.testing.assert_close(trainee(*inputs, **told), plain - 0.5 * read[3] / 2)


@torch.no_grad()
def test_grounding_is_the_formula_and_leaves_the_prediction_alone():
    """TokenCompose (arXiv:2312.03626), section 3.2, on the probabilities that `helpers.attention` records."""
    unet, text_encoder, inputs, told = tiny_tasks()
    denoising = DenoisingLoss(unet, text_encoder, 5.0)
    with capture(SimpleNamespace(unet=unet), guided=False) as record:
        plain = denoising(*inputs)
    shares = []
    for name, (rows, _) in record.layers.items():
        for i in range(2):
            mask = told["masks"][0, i][:: 16 // rows, :: 16 // rows]
            map = record.calls[0][name][0, :, told["words"][0, i]].unflatten(0, (rows, rows))
            shares.append((map * mask).sum() / map.sum())
    off = (1 - torch.stack(shares)).square().sum() / len(record.layers) / 4  # two of four places hold an object
    trainee = DenoisingLoss(unet, text_encoder, 5.0, grounding_weight=2.0)
    torch.testing.assert_close(trainee(*inputs, **told), plain + 2 * off, rtol=1e-4, atol=1e-6)


def test_tasks_of_weight_zero_do_not_exist():
    unet, text_encoder, inputs, _ = tiny_tasks()
    config = UNetConfig(scenes=4, place_weight=0.0, grounding_weight=0.0, loop=replace(UNetConfig().loop, batch_size=2))
    cached = {"latents": torch.zeros(4, 4, 16, 16)}
    batch = denoising_batch(0, training_scenes(config), cached, build_tokenizer(), config)
    assert batch.keys() == {"latents", "noise", "timesteps", "input_ids"}
    trainee = DenoisingLoss(unet, text_encoder, 5.0, 0.0, config.place_weight, config.grounding_weight)
    parts = [*unet.parameters(), *text_encoder.parameters()]
    assert sum(x.numel() for x in trainee.parameters()) == sum(x.numel() for x in parts)
    assert {type(processor) for processor in unet.attn_processors.values()} == {AttnProcessor}
    trainee(*inputs)


def test_latents_are_encoded_anew_when_anything_that_made_them_changes(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    accelerator, vae = Accelerator(cpu=True), build_vae((8, 8, 8, 8))
    few = UNetConfig(scenes=3)
    first = cached_latents(tmp_path, vae, "one", training_scenes(few), accelerator)
    encoded = []

    def counted(vae, scenes):
        encoded.append(scenes)
        return torch.zeros(len(scenes), 4, 16, 16)

    monkeypatch.setattr(dataset, "encode_scenes", counted)
    again = cached_latents(tmp_path, vae, "one", training_scenes(few), accelerator)
    assert all(torch.equal(again[name], first[name]) for name in ("latents", "boxes")) and not encoded
    other_world = tmp_path / "scenes.py"
    other_world.write_text("drawn in another way")
    others = [replace(few, loop=replace(few.loop, seed=1)), replace(few, pairs=0.0), replace(few, scenes=4)]
    changes = [("one", training_scenes(config), None) for config in others]
    changes += [("another", training_scenes(few), None), ("one", training_scenes(few), [other_world])]
    for number, (key, scenes, world) in enumerate(changes, 1):
        monkeypatch.setattr(dataset, "WORLD", world or dataset.WORLD)
        cached = cached_latents(tmp_path, vae, key, scenes, accelerator)
        assert {name: len(rows) for name, rows in cached.items()} == {"latents": len(scenes), "boxes": len(scenes)}
        assert len(encoded) == number and encoded[-1] == scenes
        assert "encoding anew" in capsys.readouterr().out


def test_vae_loss_is_the_formula():
    torch.manual_seed(0)
    config = VaeConfig(loop=LoopConfig(steps=1, batch_size=2, learning_rate=1e-3))
    vae = build_vae((8, 8, 16, 16)).eval()
    scenes = training_scenes(replace(config, scenes=6))
    batch = crop_batch(0, train_vae.draw_all(scenes), [boxes(scene) for scene in scenes], config)
    assert batch["pixels"].shape == (2, 3, 64, 64) and batch["pixels"].abs().max() <= 1
    with torch.no_grad():
        loss = VaeLoss(vae, config)(**batch)
        mean, logvar = vae.quant_conv(vae.encoder(batch["pixels"])).chunk(2, dim=1)
        x = vae.decoder(vae.post_quant_conv(mean + (0.5 * logvar).exp() * batch["noise"]))
        error = x - batch["pixels"]
        edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        expected = error.abs().mean() + 4 * error.square().mean() + edges + 1e-6 * kl
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_schedule_is_that_of_stable_diffusion():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(build_scheduler().alphas_cumprod.double(), (1 - betas).cumprod(0), rtol=1e-4, atol=1e-7)


def test_captions_leave_phrases_out_as_often_as_stated():
    config = UNetConfig()
    rng, scene = np.random.default_rng(0), replace(training_scenes(UNetConfig(scenes=1))[0], ground="blue")
    captions = [random_caption(scene, rng, config) for _ in range(4000)]
    full = [text for text in captions if text]
    assert np.mean([text == "" for text in captions]) == pytest.approx(0.1, abs=0.02)
    assert np.mean(["background" in text for text in full]) == pytest.approx(0.85, abs=0.02)
    assert np.mean(["style" in text for text in full]) == pytest.approx(0.85, abs=0.02)


TINY_VAE = ("--channels", 8, 8, 8, 16, "--scenes", 8, "--batch-size", 2)
TINY_UNET = ("--channels", 16, 32, "--text-width", 16, "--text-layers", 1, "--scenes", 16, "--batch-size", 4)


def run(program, *arguments):
    """A training stage in this process."""
    program.main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_both_stages_run_in_two_processes_as_in_one_and_their_model_loads_with_diffusers_alone(tmp_path):
    run(train_vae, "--folder", tmp_path / "vae", "--steps", 2, *TINY_VAE)
    vae = ("--vae", tmp_path / "vae" / "vae")
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    launch(*("training.train_unet", "--folder", shared, *vae, *TINY_UNET, "--steps", 3, "--stop-after", 2), processes=2)
    weights = [load_file(shared / "checkpoint" / "model.safetensors")]
    for folder in (shared, alone):  # the one goes on where two processes have stopped
        run(train_unet, "--folder", folder, *vae, *TINY_UNET, "--steps", 3)
        weights.append(load_file(folder / "checkpoint" / "model.safetensors"))
    with pytest.raises(SystemExit, match=r"place_weight 0\.015 \(now 0\.0\)"):
        run(train_unet, "--folder", shared, *vae, *TINY_UNET, "--steps", 3, "--place-weight", 0)

    losses = []
    for folder in (shared, alone):
        with open(folder / "log.csv", encoding="utf-8", newline="") as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)])
    # Sums over the batch are made in another order: float32 rounding, nothing else.
    assert np.average(losses[0], weights=[2, 1]) == pytest.approx(losses[1][0], rel=1e-4)
    first, continued, single = weights

    def apart(a, b):
        return math.sqrt(sum(float((a[name] - b[name]).square().sum()) for name in a))

    assert apart(continued, single) < 0.01 * apart(first, single)  # as against the third step alone

    pipe = StableDiffusionPipeline.from_pretrained(shared / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a fox", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert picture.size == (128, 128)
    made = [(run["program"], run["folder"]) for run in history(shared / "pipeline")]
    assert made == [("train_vae", (tmp_path / "vae").as_posix()), ("train_unet", shared.as_posix())]


@pytest.mark.slow
def test_a_decoder_trained_alone_reads_the_same_latents(tmp_path):
    run(train_vae, "--folder", tmp_path / "first", "--steps", 1, *TINY_VAE)
    first = tmp_path / "first" / "vae"
    more = tmp_path / "more"
    run(train_vae, "--folder", more, "--start-from", first, "--decoder-only", "--steps", 2, *TINY_VAE)
    before, after = (AutoencoderKL.from_pretrained(folder) for folder in (first, more / "vae"))
    assert after.config.scaling_factor == before.config.scaling_factor
    changed = {name for name, x in after.state_dict().items() if not torch.equal(x, before.state_dict()[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    # Other weights to begin with make another run.
    run(train_vae, "--folder", tmp_path / "second", "--steps", 2, *TINY_VAE)
    with pytest.raises(SystemExit, match=r"start_from [0-9a-f]{12} \(now [0-9a-f]{12}\)"):
        second = tmp_path / "second" / "vae"
        run(train_vae, "--folder", more, "--start-from", second, "--decoder-only", "--steps", 2, *TINY_VAE)


def test_a_view_of_the_judge_is_told_what_it_shows():
    config = train_judge.JudgeConfig(scenes=60)
    scenes = train_judge.judged_scenes(config)
    pictures = train_vae.draw_all(scenes)
    rng, seen = np.random.default_rng(0), set()
    for scene, pixels in zip(scenes, pictures, strict=True):
        view, numbers = train_judge.random_view(rng, scene, pixels, config)
        said = {name: HEADS[name][number] for name, number in numbers.items() if number != train_judge.NOTHING}
        assert said["style"] == scene.style
        whole = view.size == (128, 128)
        assert ("ground" in said) == ("layout" in said) == whole
        assert not whole or said["ground"] == scene.ground
        assert ("word" in said) == (not whole or len(scene.things) == 1)
        if "word" in said:
            (thing,) = [thing for thing in scene.things if thing.word == said["word"]]
            assert said.get("colour") == thing.colour
        seen |= set(said)
    assert seen == set(HEADS)


@pytest.mark.slow
def test_a_judge_is_trained_where_it_is_told_to(tmp_path):
    small = ("--scenes", 16, "--steps", 1, "--batch-size", 4)
    run(train_judge, "--folder", tmp_path / "run", "--output", tmp_path / "judge", *small)
    weights = load_file(tmp_path / "judge" / "model.safetensors")
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in Judge().state_dict().items()
    }


def test_the_cost_in_the_readme_is_counted():
    config = UNetConfig(scenes=4, loop=replace(UNetConfig().loop, batch_size=2))
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer, width=config.text_width, layers=config.text_layers)
    loss = DenoisingLoss(build_unet(config), text_encoder, 5.0, 0.0, config.place_weight, config.grounding_weight)
    scenes = training_scenes(config)
    cached = {"latents": torch.zeros(4, 4, 16, 16), "boxes": all_boxes(scenes)}
    batch = denoising_batch(0, scenes, cached, tokenizer, config)
    with FlopCounterMode(display=False) as unet:
        loss(**batch).backward()
    autoencoder = VaeLoss(build_vae(VaeConfig().channels), VaeConfig())
    with FlopCounterMode(display=False) as vae:
        autoencoder(torch.zeros(1, 3, CROP, CROP), torch.zeros(1, 4, CROP // 8, CROP // 8)).backward()
    readme = " ".join((ROOT / "training" / "README.md").read_text(encoding="utf-8").split())
    gflop = [counter.get_total_flops() / samples / 1e9 for counter, samples in ((unet, 2), (vae, 1))]
    assert "training takes {:.1f} GFLOP and a crop of the autoencoder's {:.1f}".format(*gflop) in readme
    trained = sum(x.numel() for x in loss.parameters())
    assert f"{4 * trained / 1e6:.0f} MB of gradients" in readme
