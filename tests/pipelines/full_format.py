"""Pipelines in every form in which Stable Diffusion is published: with a safety checker, and as one file."""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from transformers import logging as transformers_logging

from tests.pipelines.tiny import tiny_pipeline

EYE = 32  # pixels of what the safety checker sees
# Names of the original Stable Diffusion for those of diffusers, applied in this order.
BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def full_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """The tiny pipeline with a safety checker."""
    return with_checker(tiny_pipeline(seed), seed)


def with_checker(pipe: StableDiffusionPipeline, seed: int = 0) -> StableDiffusionPipeline:
    """The pipeline with a safety checker that finds nothing: every threshold is 2, above any cosine."""
    from transformers import CLIPImageProcessor

    size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        checker = StableDiffusionSafetyChecker(
            CLIPConfig(
                text_config=CLIPTextConfig(**size, vocab_size=8).to_dict(),
                vision_config=CLIPVisionConfig(**size, image_size=EYE, patch_size=16).to_dict(),
                projection_dim=8,
            )
        )
    for name, value in checker.named_parameters():
        if name.endswith("embeds_weights"):
            value.data.fill_(2)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it advises torchvision, which Stable Diffusion does not need
    processor = CLIPImageProcessor(size={"shortest_edge": EYE}, crop_size={"height": EYE, "width": EYE})
    transformers_logging.set_verbosity(verbosity)
    return StableDiffusionPipeline(
        **{**pipe.components, "safety_checker": checker.eval(), "feature_extractor": processor}
    )


def save_full(
    folder: Path, seed: int = 0, *, pipe: StableDiffusionPipeline | None = None, old_names: bool = True
) -> Path:
    """A folder as the hub has it, of `pipe`, which has a safety checker, or of the tiny pipeline.

    old_names: the weights have the names of before transformers 5.6, as those of Stable Diffusion 1.5 do.
    """
    (pipe or full_pipeline(seed)).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]  # and not its stand-in without torchvision
    (folder / "model_index.json").write_text(json.dumps(index))
    if old_names:
        for part, old, first in (
            ("text_encoder", "text_model.", ("embeddings", "encoder", "final_layer_norm")),
            ("safety_checker", "vision_model.", ("vision_model.",)),
        ):
            path = folder / part / "model.safetensors"
            tensors = {
                (old + name if name.startswith(first) and not name.startswith(old * 2) else name): tensor
                for name, tensor in load_file(path).items()
            }
            save_file(tensors, path, metadata={"format": "pt"})
    return folder


def save_single_file(pipe: StableDiffusionPipeline, path: Path) -> Path:
    """All weights of a pipeline in one file, by the names of the original code."""
    tensors = {f"model.diffusion_model.{_unet_name(pipe, name)}": x for name, x in pipe.unet.state_dict().items()}
    levels = len(pipe.vae.config.block_out_channels)
    for name, x in pipe.vae.state_dict().items():
        name = _vae_name(name, levels)
        if ".attn_1." in name and ".norm." not in name and name.endswith("weight"):
            x = x[:, :, None, None]  # a convolution of one pixel
        tensors[f"first_stage_model.{name}"] = x
    for name, x in pipe.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = x
    save_file({name: x.contiguous() for name, x in tensors.items()}, path)
    return path


def _unet_name(pipe: StableDiffusionPipeline, name: str) -> str:
    layers = pipe.unet.config.layers_per_block
    way, _, rest = name.partition("_blocks.")
    if way in ("down", "up"):
        block, kind, index, tail = rest.split(".", 3)
        each = layers + 1  # a resampler follows the layers down; up, there is one layer more
        number = int(block) * each + int(index) + (way == "down")
        if kind == "downsamplers":
            name = f"input_blocks.{(int(block) + 1) * each}.0.{tail.replace('conv', 'op', 1)}"
        elif kind == "upsamplers":
            attends = hasattr(pipe.unet.up_blocks[int(block)], "attentions")
            name = f"output_blocks.{int(block) * each + layers}.{2 if attends else 1}.{tail}"
        else:
            side = "input" if way == "down" else "output"
            name = f"{side}_blocks.{number}.{0 if kind == 'resnets' else 1}.{tail}"
        inner = kind == "resnets"
    else:
        inner = "resnets" in name
        name = _renamed(name, {ours: theirs for ours, theirs in UNET.items() if name.startswith(ours + ".")})
    return _renamed(name, BLOCK) if inner else name


def _vae_name(name: str, levels: int) -> str:
    parts = name.split(".")
    if len(parts) > 2 and parts[1] in ("down_blocks", "up_blocks"):
        way = parts[1].removesuffix("_blocks")
        level = int(parts[2]) if way == "down" else levels - 1 - int(parts[2])
        if parts[3] == "resnets":
            name = ".".join([parts[0], way, str(level), "block", *parts[4:]])
        else:
            name = ".".join([parts[0], way, str(level), f"{way}sample", *parts[5:]])
    return _renamed(name, VAE)


def _renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        name = f".{name}.".replace(f".{ours}.", f".{theirs}.").strip(".")
    return name
