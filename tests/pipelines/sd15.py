"""Random pipelines with the shapes of Stable Diffusion 1.5: one at full size, and one as narrow as it goes.

The configurations are those of `stable-diffusion-v1-5/stable-diffusion-v1-5`, its odd token numbers included. Only
the tokenizer is another one, of the same size: the words it has learnt are pairs of letters.
"""

from itertools import islice, product

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.text import BYTES, LAST_BYTES, clip_tokenizer

TOKENS = 77  # what the text encoder reads, both ends included
VOCABULARY = 49_408
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": TOKENS,
    "projection_dim": 768,
    # Not those of the tokenizer, where the start is 49,406, and the end and the padding 49,407.
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
VAE = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,  # nothing to PNDM, but other samplers made from its settings find it there
}
# Nothing here is as in Pocket Diffusion: neither widths, levels, heads nor layers, nor the VAE's factor of 8. Each call
# has to be cheap, as the lessons make thousands; so there are two levels only, the lower one, as always, without text,
# and latents 16 times smaller than pictures, since attention's cost grows with the square of their area. Half of a
# picture's side still has to be one that can be drawn, and the decoder has to be what takes most memory.
NARROW_TEXT = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
NARROW_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 48,
}
NARROW_VAE = {
    "sample_size": 128,
    "block_out_channels": (16, 32, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 5,
    "up_block_types": ("UpDecoderBlock2D",) * 5,
}


def tokenizer() -> CLIPTokenizer:
    """A tokenizer of CLIP's kind and size: 512 bytes, 48,894 merges and two special tokens; it pads with the end."""
    return clip_tokenizer(islice(product(BYTES, LAST_BYTES), VOCABULARY - 2 * len(BYTES) - 2), TOKENS)


def full_size(seed: int = 0) -> StableDiffusionPipeline:
    """The real sizes with random weights drawn from `seed`: 4.3 GB in float32, on the CPU."""
    return _pipeline(TEXT, UNET, VAE, seed)


def narrow(seed: int = 0) -> StableDiffusionPipeline:
    """The same tokens, layers and heads, with two levels and few channels, for pictures of 128 pixels; float32."""
    unet = {**UNET, **NARROW_UNET, "norm_num_groups": 4}
    return _pipeline({**TEXT, **NARROW_TEXT}, unet, {**VAE, **NARROW_VAE, "norm_num_groups": 4}, seed)


def _pipeline(text: dict, unet: dict, vae: dict, seed: int) -> StableDiffusionPipeline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text)).eval(),
            "unet": UNet2DConditionModel(**unet).eval(),
            "vae": AutoencoderKL(**vae).eval(),
        }
    return StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer(),
        scheduler=PNDMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
