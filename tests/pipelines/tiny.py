"""A tiny random Stable Diffusion: the real classes at the smallest size, made in a moment and with no files."""

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.text import clip_tokenizer
from training.unet import build_scheduler

TOKENS = 32  # what the text encoder reads, both ends included
SIDE = 64  # pixels of a picture: latents of 32 x 32 at a downscale factor of 2
WIDTH = 16  # of the text embeddings


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers of a shape, from a generator of their own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with bytes only and no merges: each letter is one token."""
    return clip_tokenizer([], TOKENS)


def tiny_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """A pipeline with random weights drawn from `seed`, in float32 on the CPU; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                projection_dim=WIDTH,
            )
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=SIDE,
            scaling_factor=0.5,
        )
        unet = UNet2DConditionModel(
            sample_size=SIDE // 2,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            attention_head_dim=2,
            cross_attention_dim=WIDTH,
            norm_num_groups=4,
        )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe
