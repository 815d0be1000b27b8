"""The small denoiser of lesson 10, trained longer than a lesson can wait, with its weights kept on the way.

    accelerate launch -m training.train_denoiser

Writes `models/denoiser-checkpoints`: a file for each of `MOMENTS`, which the lesson puts under a slider, their
network's config.json and their hashes. It took 17 minutes on one core; no network is needed.
"""

import argparse
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import UNet2DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.checksums import write_checksums
from helpers.grounds import SIZE
from helpers.latents import encode
from helpers.loading import POCKET, load_pipeline
from helpers.scenes import SPRITES, Scene, Thing, draw
from training.dataset import WORLD
from training.flags import add_flags, filled
from training.loop import LoopConfig, step_rng, train
from training.run_folder import describe, files_key
from training.unet import LATENT, build_scheduler

CHECKPOINTS = Path(__file__).resolve().parent.parent / "models" / "denoiser-checkpoints"
MOMENTS = (50, 150, 500, 1500, 3000, 5000, 8000)  # steps, about even on a logarithmic axis

# The lesson's world: few things in one style, upright, so that minutes are enough, on two plain grounds that nobody
# tells the network, nor how large a thing is and where exactly it stands. The lesson sets the same values; a test holds
# the two equal.
THINGS = ("fox", "pizza", "castle", "owl", "rocket", "cactus", "fish", "house")
STYLE, GROUNDS, PLACINGS = "flat", ("white", "blue"), 32
# The label that tells nothing, and the share of pictures that get it: what classifier-free guidance needs.
NOTHING, DROPPED = len(THINGS), 0.1

LOOP = LoopConfig(
    steps=MOMENTS[-1],
    batch_size=16,
    learning_rate=2e-3,
    weight_decay=0.0,  # the lesson's loop has none
    warmup_steps=30,
)


def build_denoiser() -> UNet2DModel:
    """The lesson's network: 1 M weights, no text; one learned vector for each label joins the time embedding."""
    return UNet2DModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        add_attention=False,
        norm_num_groups=8,
        num_class_embeds=len(THINGS) + 1,
    )


def placed(thing: str, ground: str, rng: np.random.Generator) -> Scene:
    """A scene of one upright thing, 96 to 104 pixels large and up to 3 pixels off the middle.

    Less than Pocket's own scenes vary, which are tilted and mirrored too (`helpers.scenes.vary`): on those, a thousand
    steps leave this small network with a third of its things recognisable.
    """
    dx, dy = rng.integers(-3, 4, size=2)
    centre = (int(SIZE // 2 + dx), int(SIZE // 2 + dy))
    return Scene((Thing(thing, side=int(rng.integers(96, 105)), centre=centre),), ground=ground, style=STYLE)


def small_world(seed: int, known: Iterable[Scene] = ()) -> list[Scene]:
    """Every thing on both grounds, `PLACINGS` times, placed anew; no picture twice, and none of those of `known`.

    known: scenes that a network was trained on, where these are to be new to it.
    """
    rng = np.random.default_rng(seed)
    # Pictures are compared, not scenes: half a pixel of shift may make no difference.
    pictures = {draw(scene).tobytes() for scene in known}
    scenes = []
    for thing, ground in list(itertools.product(THINGS, GROUNDS)) * PLACINGS:
        scene = placed(thing, ground, rng)
        while (picture := draw(scene).tobytes()) in pictures:
            scene = placed(thing, ground, rng)
        pictures.add(picture)
        scenes.append(scene)
    return scenes


def encoded(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """The scenes' latents by Pocket's autoencoder, (N, 4, 16, 16), and their labels, (N,), on the CPU."""
    latents = encode(load_pipeline("pocket"), [draw(scene) for scene in scenes]).float().cpu()
    return latents, torch.tensor([THINGS.index(scene.words[0]) for scene in scenes])


class PlainLoss(nn.Module):
    """The mean squared error of the predicted noise: the loss of Ho et al. (2020), arXiv:2006.11239, equation 14."""

    def __init__(self, network: UNet2DModel):
        super().__init__()
        self.network = network
        self.scheduler = build_scheduler()

    def forward(self, latents: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """latents, noise: (B, 4, 16, 16); timesteps, labels: (B,) whole numbers, labels of `THINGS` or `NOTHING`."""
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        return (self.network(noisy, timesteps, labels).sample - noise).square().mean()


def labelled_batch(step: int, latents: Tensor, labels: Tensor, loop: LoopConfig) -> dict[str, Tensor]:
    """The global batch of one step."""
    rng = step_rng(loop.seed, step)
    chosen = torch.from_numpy(rng.integers(len(latents), size=loop.batch_size))
    noise = rng.standard_normal((len(chosen), *latents.shape[1:]), dtype=np.float32)
    timesteps = rng.integers(1000, size=len(chosen))
    dropped = torch.from_numpy(rng.random(len(chosen)) < DROPPED)
    return {
        "latents": latents[chosen],
        "noise": torch.from_numpy(noise),
        "timesteps": torch.from_numpy(timesteps),
        "labels": labels[chosen].masked_fill(dropped, NOTHING),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/denoiser"), help="the run's own checkpoint and log")
    parser.add_argument("--output", type=Path, default=CHECKPOINTS, help="where the kept weights go")
    parser.add_argument("--moments", type=int, nargs="+", default=MOMENTS, help="steps whose weights are kept")
    add_flags(parser, LOOP, without=("steps", "stop_after"))  # the moments tell both
    args = parser.parse_args(arguments)
    moments = sorted(set(args.moments))
    loop = replace(filled(LOOP, vars(args)), steps=moments[-1])

    set_seed(loop.seed)
    latents, labels = encoded(small_world(seed=0))
    trainee = PlainLoss(build_denoiser())
    args.output.mkdir(parents=True, exist_ok=True)
    # A run on other latents, of another autoencoder or another world, is not gone on with.
    inputs, keys = {"vae": POCKET / "vae", "sprites": SPRITES}, {"sprites": files_key(WORLD)}
    for moment in moments:
        accelerator = Accelerator()
        # Each call goes on from the run's checkpoint, which holds the raw weights; it returns the averaged ones.
        trainee = train(
            trainee,
            lambda step: labelled_batch(step, latents, labels, loop),
            replace(loop, stop_after=moment),
            args.folder,
            accelerator=accelerator,
            record=describe("train_denoiser", loop, args.folder, accelerator, inputs, keys),
        )
        if accelerator.is_main_process:
            weights = {name: value.half().cpu().contiguous() for name, value in trainee.network.state_dict().items()}
            save_file(weights, args.output / f"step-{moment:05}.safetensors")
    if accelerator.is_main_process:
        trainee.network.save_config(args.output)
        write_checksums(args.output)


if __name__ == "__main__":
    main()
