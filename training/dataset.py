"""What the networks are shown: scenes or own pictures, their latents, and the batch of each step of the U-Net."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from helpers import grounds, scenes
from helpers.scenes import Scene, boxes, draw, random_scene
from training.extra_tasks import targets
from training.loop import step_rng
from training.own_pictures import OwnPicture
from training.run_folder import files_key
from training.unet import LATENT, UNetConfig

if TYPE_CHECKING:
    from training.train_vae import VaeConfig

Shown = Scene | OwnPicture

# What pictures are made of: the code that draws them, the emoji and the colours. Any change makes other latents.
CODE = [Path(module.__file__) for module in (grounds, scenes)]
WORLD = [*CODE, *sorted(scenes.SPRITES.glob("*.webp")), *sorted(scenes.SPRITES.glob("*.tsv"))]


def to_tensor(picture: np.ndarray) -> Tensor:
    """(..., H, W, 3) uint8 to (..., 3, H, W) float in [-1, 1], as the autoencoder takes it."""
    return torch.from_numpy(np.moveaxis(picture, -1, -3).astype(np.float32) / 127.5 - 1)


def training_scenes(config: "UNetConfig | VaeConfig") -> list[Scene]:
    """The scenes of the training set, none with a held-out pair."""
    rng = np.random.default_rng(config.loop.seed)
    return [random_scene(rng, things=1 + int(rng.random() < config.pairs)) for _ in range(config.scenes)]


def pixels_of(scene: Shown) -> np.ndarray:
    """The picture of a scene, or a picture itself: (128, 128, 3) uint8."""
    return scene.pixels if isinstance(scene, OwnPicture) else np.asarray(draw(scene))


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, scenes: list[Shown], batch_size: int = 32) -> Tensor:
    """Latents (N, 4, 16, 16) of all scenes, scaled to unit variance, as float16 on the CPU."""
    parts = []
    for start in tqdm(range(0, len(scenes), batch_size), desc="encoding scenes", mininterval=10):
        pixels = to_tensor(np.stack([pixels_of(scene) for scene in scenes[start : start + batch_size]]))
        latents = vae.encode(pixels.to(vae.device)).latent_dist.mean * vae.config.scaling_factor
        parts.append(latents.half().cpu().contiguous())
    return torch.cat(parts)


def all_boxes(scenes: list[Shown]) -> Tensor:
    """Where the things of all scenes are seen: (N, 2, 4) int16 left, top, right, bottom in pixels, 0 for none."""
    found = torch.zeros(len(scenes), 2, 4, dtype=torch.int16)
    for i, scene in enumerate(scenes):
        found[i, : len(scene.things)] = torch.tensor(boxes(scene)).reshape(-1, 4)
    return found


def cached_latents(
    folder: Path, vae: AutoencoderKL, vae_key: str, scenes: list[Shown], accelerator: Accelerator
) -> dict[str, Tensor]:
    """`latents` (N, 4, 16, 16) and `boxes` (N, 2, 4) of the scenes, made once by the first process and read by all.

    vae_key: changes with the autoencoder, as from `folder_key`. `latents.safetensors` in the run's folder carries a key
    of all that made it; latents of another key are made anew.
    """
    path = folder / "latents.safetensors"
    key = files_key(WORLD, vae_key + repr(scenes))
    with accelerator.main_process_first():
        if accelerator.is_main_process and _key_of(path) != key:
            if path.exists():
                print(f"{path} is of other pictures or another autoencoder: encoding anew")
            folder.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(path.name + ".new")
            latents = encode_scenes(vae.to(accelerator.device), scenes)
            save_file({"latents": latents, "boxes": all_boxes(scenes)}, fresh, {"key": key})
            fresh.replace(path)
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in ("latents", "boxes")}


def _key_of(path: Path) -> str | None:
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("key")


def random_caption(scene: Shown, rng: np.random.Generator, config: UNetConfig) -> str:
    """A caption of the scene with phrases left out at random, or none at all."""
    if rng.random() < config.empty:
        return ""
    return scene.caption(ground=rng.random() < config.named, style=rng.random() < config.named)


def denoising_batch(
    step: int, scenes: list[Shown], cached: dict[str, Tensor], tokenizer: CLIPTokenizer, config: UNetConfig
) -> dict[str, Tensor]:
    """The global batch of one step: clean latents, noise, timesteps, captions, and what the extra tasks need, if any.

    cached: of the scenes, as from `cached_latents`. Only NumPy computes here, for torch would start threads of its own.
    """
    rng = step_rng(config.loop.seed, step)
    chosen = rng.integers(len(scenes), size=config.loop.batch_size)
    shown = [scenes[i] for i in chosen]
    captions = [random_caption(scene, rng, config) for scene in shown]
    noise = rng.standard_normal((len(chosen), 4, LATENT, LATENT), dtype=np.float32)
    tokens = tokenizer(
        captions, padding="max_length", truncation=True, return_offsets_mapping=True, return_tensors="np"
    )
    batch = {
        "latents": cached["latents"].numpy()[chosen].astype(np.float32),
        "noise": noise,
        "timesteps": rng.integers(1000, size=len(chosen)),
        "input_ids": tokens.input_ids,
    }
    if config.place_weight or config.grounding_weight:
        batch |= targets(shown, captions, tokens.offset_mapping[:, :, 1].tolist(), cached["boxes"].numpy()[chosen])
    return {name: torch.from_numpy(array) for name, array in batch.items()}
