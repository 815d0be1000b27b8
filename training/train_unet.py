"""Stage two: the U-Net that predicts noise in latents, and the text encoder that steers it.

    accelerate launch -m training.train_unet --folder runs/unet --vae runs/vae/vae

Writes the finished pipeline, all four components, to `<folder>/pipeline`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from helpers.inputs import cut_text
from training.dataset import cached_latents, denoising_batch, training_scenes
from training.export import save_pipeline
from training.loop import train
from training.losses import DenoisingLoss
from training.own_pictures import pictures_key, read_flags
from training.run_folder import claim, describe, history
from training.text import TOKENS, build_text_encoder, build_tokenizer, reading
from training.unet import UNetConfig, build_unet


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/unet"), help="checkpoints, log and the pipeline")
    parser.add_argument("--vae", type=Path, default=Path("runs/vae/vae"), help="folder of the trained VAE")
    parser.add_argument("--start-from", type=Path, help="folder of a trained pipeline to begin with")
    args, config, own = read_flags(parser, UNetConfig(), arguments)

    set_seed(config.loop.seed)
    accelerator = Accelerator()
    inputs = {"vae": args.vae, "start_from": args.start_from, "data": args.data}
    record = describe("train_unet", config, args.folder, accelerator, inputs, {"data": pictures_key(own)})
    claim(args.folder, record, accelerator)  # before minutes of encoding
    vae = AutoencoderKL.from_pretrained(args.vae).requires_grad_(False).eval()
    tokenizer = build_tokenizer([picture.text for picture in own])
    cut = [picture.text for picture in own if cut_text(tokenizer, picture.text)]
    if cut and accelerator.is_main_process:
        print(
            f"Of {len(own)} captions {len(cut)} have more than {TOKENS - 2} tokens; the ends are never read: {cut[0]!r}"
        )
    if args.start_from:
        text_encoder = CLIPTextModel.from_pretrained(args.start_from / "text_encoder", dtype=torch.float32)
        text_encoder = reading(text_encoder, CLIPTokenizer.from_pretrained(args.start_from / "tokenizer"), tokenizer)
        unet = UNet2DConditionModel.from_pretrained(args.start_from / "unet")
    else:
        text_encoder = build_text_encoder(tokenizer, width=config.text_width, layers=config.text_layers)
        unet = build_unet(config)
    scenes = own or training_scenes(config)
    cached = cached_latents(args.folder, vae, record["inputs"]["vae"]["key"], scenes, accelerator)
    trainee = train(
        DenoisingLoss(
            unet,
            text_encoder,
            config.min_snr_gamma,
            config.snr_floor,
            config.place_weight,
            config.grounding_weight,
        ),
        lambda step: denoising_batch(step, scenes, cached, tokenizer, config),
        config.loop,
        args.folder,
        accelerator=accelerator,
        record=record,
    )
    if accelerator.is_main_process:
        runs = [*history(args.vae), *history(args.start_from), record]
        save_pipeline(args.folder / "pipeline", trainee, vae, tokenizer, runs)


if __name__ == "__main__":
    main()
