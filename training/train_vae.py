"""Stage one: the autoencoder that turns a 128 x 128 picture into a 4 x 16 x 16 latent and back.

    accelerate launch -m training.train_vae --folder runs/vae

Trained on random 64-pixel crops of scenes: the network is convolutional, so it works at any size.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL
from torch import Tensor, nn
from tqdm import tqdm

from helpers.grounds import SIZE
from helpers.scenes import Box, Scene, boxes, random_scene
from training.dataset import Shown, pixels_of, to_tensor, training_scenes
from training.loop import LoopConfig, step_rng, train
from training.own_pictures import pictures_key, read_flags
from training.run_folder import describe, history, write_history

CROP = 64


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What the autoencoder is made of and what it is asked for."""

    channels: tuple[int, ...] = (16, 32, 64, 128)  # three halvings: 8 x 8 pixels become one latent pixel
    scenes: int = 20_000  # drawn once; a crop is some place in one of them
    pairs: float = 0.6  # share of scenes with two small things, which are the hard ones
    mse_weight: float = 4.0  # L1 alone leaves faint errors everywhere, which PSNR counts: more raises the PSNR
    edge_weight: float = 1.0  # L1 of neighbouring differences, so that outlines stay sharp
    # Rombach et al. (2022) have 1e-6 too, but sum their other losses over pixels; these are means, of 12,288 numbers.
    kl_weight: float = 1e-6  # keeps latents near a unit scale
    decoder_only: bool = False  # leave the encoder as it is, so that a trained U-Net keeps its latents
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=8000, batch_size=12, learning_rate=1e-3, decay_from=0.4)
    )


def build_vae(channels: tuple[int, ...]) -> AutoencoderKL:
    """A small AutoencoderKL (Rombach et al., 2022, arXiv:2112.10752) with Stable Diffusion's latent shape."""
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        mid_block_add_attention=False,
        sample_size=SIZE,
    )


class VaeLoss(nn.Module):
    """Reconstruction and KL loss of one batch of crops in [-1, 1]; noise has the latents' shape."""

    def __init__(self, vae: AutoencoderKL, config: VaeConfig):
        super().__init__()
        self.vae, self.config = vae, config

    def forward(self, pixels: Tensor, noise: Tensor) -> Tensor:
        posterior = self.vae.encode(pixels).latent_dist
        error = self.vae.decode(posterior.mean + posterior.std * noise).sample - pixels
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        reconstruction = error.abs().mean() + self.config.mse_weight * error.square().mean()
        return reconstruction + self.config.edge_weight * edges + self.config.kl_weight * posterior.kl().mean()


def draw_all(scenes: list[Shown]) -> np.ndarray:
    """The pictures of scenes: (N, 128, 128, 3) uint8, 49 kB each."""
    pictures = np.empty((len(scenes), SIZE, SIZE, 3), np.uint8)
    for i, scene in enumerate(tqdm(scenes, desc="drawing", mininterval=5)):
        pictures[i] = pixels_of(scene)
    return pictures


def random_crop(rng: np.random.Generator, pictures: np.ndarray, things: list[list[Box]]) -> np.ndarray:
    """A (64, 64, 3) uint8 crop of one of the pictures; where there are two things it shows mostly one of them."""
    index = rng.integers(len(pictures))
    left, top = rng.integers(0, SIZE - CROP + 1, size=2)
    if len(things[index]) == 2:
        box = things[index][rng.integers(2)]
        centre = np.array([(box[0] + box[2]) // 2, (box[1] + box[3]) // 2])
        left, top = np.clip(centre - CROP // 2 + rng.integers(-16, 17, size=2), 0, SIZE - CROP)
    return pictures[index, top : top + CROP, left : left + CROP]


def crop_batch(step: int, pictures: np.ndarray, things: list[list[Box]], config: VaeConfig) -> dict[str, Tensor]:
    """The global batch of one step: crops, and the noise that samples their latents.

    pictures: (N, 128, 128, 3) uint8. things: the boxes of the things in each.
    """
    rng = step_rng(config.loop.seed, step)
    crops = np.stack([random_crop(rng, pictures, things) for _ in range(config.loop.batch_size)])
    noise = rng.standard_normal((len(crops), 4, CROP // 8, CROP // 8), dtype=np.float32)
    return {"pixels": to_tensor(crops), "noise": torch.from_numpy(noise)}


def other_scenes(config: VaeConfig, count: int = 256) -> list[Scene]:
    """Scenes beside the training set."""
    rng = step_rng(config.loop.seed, config.loop.steps)
    return [random_scene(rng, things=1 + i % 2) for i in range(count)]


@torch.no_grad()
def latent_std(vae: AutoencoderKL, scenes: Sequence[Shown]) -> float:
    """Standard deviation of the latents of some scenes; its inverse is the scaling factor."""
    pixels = to_tensor(np.stack([pixels_of(scene) for scene in scenes]))
    latents = torch.cat([vae.encode(part.to(vae.device)).latent_dist.mean for part in pixels.split(16)])
    return latents.std().item()


def freeze_encoder(vae: AutoencoderKL) -> None:
    """Train nothing that decides what a picture's latent is."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/vae"), help="checkpoints, log and the finished VAE")
    parser.add_argument("--start-from", type=Path, help="folder of a trained VAE to begin with, instead of at random")
    args, config, own = read_flags(parser, VaeConfig(), arguments)
    if config.decoder_only and not args.start_from:
        parser.error("--decoder-only needs --start-from: an encoder at random is not worth keeping")

    set_seed(config.loop.seed)
    accelerator = Accelerator()
    inputs = {"start_from": args.start_from, "data": args.data}
    record = describe("train_vae", config, args.folder, accelerator, inputs, {"data": pictures_key(own)})
    vae = AutoencoderKL.from_pretrained(args.start_from) if args.start_from else build_vae(config.channels)
    if config.decoder_only:
        freeze_encoder(vae)
    scenes = own or training_scenes(config)
    pictures, things = draw_all(scenes), [boxes(scene) for scene in scenes]
    vae = train(
        VaeLoss(vae, config),
        lambda step: crop_batch(step, pictures, things, config),
        config.loop,
        args.folder,
        accelerator=accelerator,
        record=record,
    ).vae
    if accelerator.is_main_process:
        if not config.decoder_only:  # the latents are what they were
            measured = own[:: 1 + len(own) // 256] or other_scenes(config)
            vae.register_to_config(scaling_factor=1 / latent_std(vae, measured))
        vae.save_pretrained(args.folder / "vae")
        write_history(args.folder / "vae", [*history(args.start_from), record])
        print(f"scaling factor {vae.config.scaling_factor:.4f}")


if __name__ == "__main__":
    main()
