"""Pipelines as Stable Diffusion is published, with a safety checker; and as someone would publish one to run code."""

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
# What a model_index.json could say to have code run or imported: the changes, and the files that come with them.
UNSAFE = {
    "a community pipeline": ({"_class_name": ["one_step_unet", "OneStepUNetPipeline"]}, ()),
    "a pipeline of its own": ({"_class_name": ["mine", "MyPipeline"]}, ("mine.py", "pipeline.py")),
    "a custom pipeline": ({"custom_pipeline": "one_step_unet"}, ()),
    "a part of its own": ({"unet": ["mine", "MyUNet"]}, ("unet/mine.py",)),
    "one part too many": ({"extra": ["mine", "MyPart"]}, ("extra/mine.py",)),
    "a module of this machine": ({"unet": ["module_of_this_machine", "MyUNet"]}, ()),
    "a module of the standard library": ({"vae": ["subprocess", "Popen"]}, ()),
    "a class that asks for code": ({"text_encoder": ["transformers", "AutoModel"]}, ()),
    "another pipeline as a part": ({"unet": ["stable_diffusion", "StableDiffusionPipeline"]}, ()),
    "no library at all": ({"unet": "mine"}, ()),
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


def make_unsafe(folder: Path, changes: dict, files: tuple[str, ...], ran: Path) -> None:
    """Change a saved pipeline as a row of `UNSAFE` says; its code, if it is ever run, makes the file `ran`."""
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"open({str(ran)!r}, 'w')\n")
