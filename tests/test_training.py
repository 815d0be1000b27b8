"""Training: losses as in their papers, resume that continues the same run, and both stages started as a user would."""

import csv
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.attention import capture
from helpers.scenes import RELATIONS
from training.loop import LoopConfig, local_share, rate_at, train
from training.text import TOKENS, build_text_encoder, build_tokenizer, vocabulary_captions
from training.train_unet import (
    NO_PLACE,
    DenoisingLoss,
    UNetConfig,
    build_scheduler,
    build_unet,
    denoising_batch,
    places,
    random_caption,
    training_scenes,
)
from training.train_vae import CROP, VaeConfig, VaeLoss, build_vae, crop_batch

ROOT = Path(__file__).resolve().parent.parent


class Line(nn.Module):
    """A model of two numbers, to test the loop with."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, x, y):
        return (x @ self.weight - y).square().mean()


def line_batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(4, 2, generator=generator)
    return {"x": x, "y": x @ torch.tensor([2.0, 3.0])}


LINE = LoopConfig(steps=40, batch_size=4, learning_rate=0.1, warmup_steps=5, ema_decay=0.9)


def test_a_stopped_run_continues_as_if_it_had_not_stopped(tmp_path):
    whole = train(Line(), line_batch, LINE, tmp_path / "whole")
    train(Line(), line_batch, LINE, tmp_path / "parts", stop_after=17)
    resumed = train(Line(), line_batch, LINE, tmp_path / "parts")
    torch.testing.assert_close(resumed.weight, whole.weight, rtol=0, atol=0)
    assert not torch.equal(whole.weight, Line().weight)


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


def test_places_are_those_of_the_words_in_the_caption_and_of_the_objects_in_the_picture():
    tokenizer = build_tokenizer()
    seen = set()
    for scene in training_scenes(UNetConfig(scenes=60)):
        text = scene.caption()
        words, masks, place = places(scene, text, tokenizer)
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
        assert masks.shape == (2, 16, 16)
        for i, word in enumerate(scene.words):
            assert word.endswith(tokens[words[i]].removesuffix("</w>"))
            rows, columns = masks[i].nonzero()
            centre = (8 * (columns.mean() + 0.5), 8 * (rows.mean() + 0.5))  # pixels
            assert centre == pytest.approx(scene.centres[i], abs=4)
            assert masks[i].sum() * 64 == pytest.approx(scene.sizes[i] ** 2, rel=0.3)  # cells of 8 pixels
        if scene.relation is None:
            assert words[1] == 0 and not masks[1].any() and place == NO_PLACE
        else:
            seen.add(RELATIONS[place])
            (x0, y0), (x1, y1) = scene.centres
            moved = {"left of": x0 - x1, "right of": x1 - x0, "above": y0 - y1, "below": y1 - y0}
            assert moved[RELATIONS[place]] > 40  # pixels: told from the second object
        nothing = places(scene, "", tokenizer)
        assert nothing[0] == [0, 0] and not nothing[1].any() and nothing[2] == NO_PLACE
    assert seen == set(RELATIONS)


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
    read = trainee.place(text_encoder(inputs[3]).last_hidden_state[0, 2]).log_softmax(0)
    torch.testing.assert_close(trainee(*inputs, **told), plain - 0.5 * read[3] / 2)


@torch.no_grad()
def test_grounding_is_the_formula_and_leaves_the_prediction_alone():
    """TokenCompose (arXiv:2312.03626), section 3.2, on the probabilities that `helpers.attention` records."""
    unet, text_encoder, inputs, told = tiny_tasks()
    plain = DenoisingLoss(unet, text_encoder, 5.0)(*inputs)
    with capture(SimpleNamespace(unet=unet), guided=False) as record:
        DenoisingLoss(unet, text_encoder, 5.0)(*inputs)
    shares = []
    for name, (rows, _) in record.layers.items():
        for i in range(2):
            mask = told["masks"][0, i][:: 16 // rows, :: 16 // rows]
            map = record.calls[0][name][0, :, told["words"][0, i]].unflatten(0, (rows, rows))
            shares.append((map * mask).sum() / map.sum())
    off = (1 - torch.stack(shares)).square().sum() / len(record.layers) / 4  # two of four places hold an object
    trainee = DenoisingLoss(unet, text_encoder, 5.0, grounding_weight=2.0)
    torch.testing.assert_close(trainee(*inputs, **told), plain + 2 * off, rtol=1e-4, atol=1e-6)


def test_vae_loss_is_the_formula():
    torch.manual_seed(0)
    config = VaeConfig(loop=LoopConfig(steps=1, batch_size=2, learning_rate=1e-3))
    vae = build_vae((8, 8, 16, 16)).eval()
    batch = crop_batch(0, config)
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
    rng, scene = np.random.default_rng(0), training_scenes(UNetConfig(scenes=1))[0]
    captions = [random_caption(scene, rng, config) for _ in range(4000)]
    full = [text for text in captions if text]
    assert np.mean([text == "" for text in captions]) == pytest.approx(0.1, abs=0.02)
    assert np.mean(["background" in text for text in full]) == pytest.approx(0.85, abs=0.02)
    assert np.mean(["style" in text for text in full]) == pytest.approx(0.85, abs=0.02)


def launch(module, *arguments, processes=1):
    """Run a training stage as the README says: through `accelerate launch`."""
    # `--cpu` alone starts several processes through MPI only; with `--multi_gpu` accelerate starts them itself.
    how = ["--cpu"] if processes == 1 else ["--multi_gpu"]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *how,
        "--num_processes",
        str(processes),
        "-m",
        module,
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    result = subprocess.run([*command, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_both_stages_run_and_their_model_loads_with_diffusers_alone(tmp_path):
    launch("training.train_vae", "--folder", tmp_path / "vae", "--steps", 2)
    arguments = ("--folder", tmp_path / "unet", "--vae", tmp_path / "vae" / "vae", "--scenes", 32, "--batch-size", 4)
    launch("training.train_unet", *arguments, "--steps", 2)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "unet" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a fox", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert picture.size == (128, 128)
    assert [line.split(",")[0] for line in (tmp_path / "unet" / "log.csv").read_text().splitlines()] == ["step", "2"]


@pytest.mark.slow
def test_a_decoder_trained_alone_reads_the_same_latents(tmp_path):
    launch("training.train_vae", "--folder", tmp_path / "first", "--steps", 1)
    first = tmp_path / "first" / "vae"
    launch("training.train_vae", "--folder", tmp_path / "more", "--start-from", first, "--decoder-only", "--steps", 2)
    before, after = (AutoencoderKL.from_pretrained(folder) for folder in (first, tmp_path / "more" / "vae"))
    assert after.config.scaling_factor == before.config.scaling_factor
    changed = {name for name, x in after.state_dict().items() if not torch.equal(x, before.state_dict()[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_go_on_from_each_others_checkpoints(tmp_path):
    launch("training.train_vae", "--folder", tmp_path / "vae", "--steps", 1)

    def run(folder, processes, steps):
        arguments = ("--folder", folder, "--vae", tmp_path / "vae" / "vae", "--scenes", 16, "--batch-size", 4)
        launch("training.train_unet", *arguments, "--steps", steps, processes=processes)
        with open(folder / "log.csv", encoding="utf-8", newline="") as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
        return losses, load_file(folder / "checkpoint" / "model.safetensors")

    alone, weights_alone = run(tmp_path / "alone", 1, 3)
    first, weights_first = run(tmp_path / "shared", 2, 2)  # still in the warm-up, whose rates do not depend on the end
    shared, weights_shared = run(tmp_path / "shared", 1, 3)
    # Sums over the batch are made in another order: float32 rounding, nothing else.
    assert np.average(shared, weights=[2, 1]) == pytest.approx(alone[0], rel=1e-4)
    assert len(first) == 1 and len(shared) == 2
    moved = {name: (weights_alone[name] - weights_first[name]).abs().max() for name in weights_alone}
    assert max(moved.values()) > 1e-6  # the third step did something
    for name, value in weights_alone.items():
        torch.testing.assert_close(weights_shared[name], value, rtol=0, atol=1e-6)


def test_the_cost_in_the_readme_is_counted():
    config = UNetConfig(scenes=4, loop=replace(UNetConfig().loop, batch_size=2))
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer, width=config.text_width, layers=config.text_layers)
    loss = DenoisingLoss(build_unet(config), text_encoder, 5.0, 0.0, config.place_weight, config.grounding_weight)
    batch = denoising_batch(0, training_scenes(config), torch.zeros(4, 4, 16, 16), tokenizer, config)
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
