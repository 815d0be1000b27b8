"""The finished model as a folder that diffusers loads, with the runs that made it."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from training.losses import DenoisingLoss
from training.run_folder import write_history
from training.unet import build_scheduler


def save_pipeline(
    folder: Path, trainee: DenoisingLoss, vae: AutoencoderKL, tokenizer: CLIPTokenizer, runs: list[dict[str, Any]]
) -> None:
    """A plain Stable Diffusion folder; VAE and U-Net in float16 to halve its size.

    runs: their records, written to `training.json`, where evaluation reads what the model was trained on.
    """
    for part in (vae, trainee.unet):
        part.register_to_config(_name_or_path=None)  # where it was trained says nothing to anybody else
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=trainee.text_encoder,
        tokenizer=tokenizer,
        unet=trainee.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16)
    # transformers loads weights in the dtype they were saved in, diffusers in float32: one folder, one dtype.
    pipe.text_encoder.float()
    pipe.save_pretrained(folder)
    write_history(folder, runs)
    write_history(folder / "vae", [run for run in runs if run["program"] == "train_vae"])  # it may be used alone
