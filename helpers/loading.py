"""Loading a Stable Diffusion pipeline: the one in this repository, the real one, or any other in its format."""

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from helpers import hub, model_folder
from helpers.library_calls import memory_advice, quiet
from helpers.model_folder import CHOICES, POCKET, ROOT

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

KNOWN = {"sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
ARTICLE_MODEL = "dreamlike-art/dreamlike-photoreal-2.0"  # the fine-tune that the article behind this course uses
# The commits that the lessons were written for: what is downloaded does not change under them. Others are taken as
# they are today.
REVISIONS = {
    KNOWN["sd15"]: "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    ARTICLE_MODEL: "d9e27ac81cfa72def39d74ca673219c349f0a0d5",
}
CHOICE = "SDSS_MODEL"  # the environment variable that says what "auto" stands for
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DOWNLOADED = ("*.json", "*.txt", "model.safetensors", "diffusion_pytorch_model.safetensors")  # of each part
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def best_device() -> torch.device:
    """The fastest device this machine has: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_pipeline(
    name: str | Path = "auto",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    safety_checker: bool = True,
) -> "StableDiffusionPipeline":
    """A Stable Diffusion pipeline, ready to draw, with every part on one device and in one dtype.

    name: "pocket", the model in this repository, needs no network; "sd15" is Stable Diffusion 1.5. A folder, seen from
    here or from the repository, or a hub id (`owner/name`) loads another model in the same format. "auto" takes Stable
    Diffusion 1.5 on a CUDA GPU if it can be had, else Pocket, and says so in one sentence when it falls back. The
    environment variable SDSS_MODEL, set to one of the other names before Python starts, says what "auto" is instead.
    device, dtype: by default `best_device()`, and float16 on CUDA, where it halves memory and time, else float32.
    safety_checker: load the one that the model brings (Pocket has none), and say so in one sentence. The pipeline shows
    it every finished picture, and it blackens those that it takes for sexual content; `sampling.denoise` and
    `latents.decode` never use it. False leaves it out: then what is drawn is for you to judge.

    Weights are read from safetensors only, never from pickle, and no code of a model is imported or run.

    Raises ValueError for a name, folder or dtype that cannot work, and for files that are missing or damaged;
    ConnectionError if the hub cannot be reached; PermissionError if it wants a login; OSError if the disk is full or
    refuses; MemoryError if the device's memory is full; torch's own errors for a device that is not there.
    """
    device = best_device() if device is None else torch.device(device)
    if dtype is None:  # CPUs compute slowly in float16, and on Apple's MPS it has overflowed into black pictures
        dtype = torch.float16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:  # of another the library says nothing, and loads float32
        raise ValueError(f"Unknown dtype {dtype!r}: choose one of {', '.join(map(str, DTYPES))}")
    chosen = os.environ.get(CHOICE) or "auto"
    if name == "auto" and chosen != "auto":
        print(f"{CHOICE} is set, so this is {chosen}.")
        name = chosen
    if name == "auto" and device.type == "cuda":
        try:
            return _loaded("sd15", device, dtype, safety_checker)
        except (OSError, ValueError, MemoryError) as error:
            print(f"Stable Diffusion 1.5 could not be had, so this is Pocket Diffusion instead: {error}")
    return _loaded("pocket" if name == "auto" else name, device, dtype, safety_checker)


def is_pocket(pipe: "DiffusionPipeline") -> bool:
    """True if a pipeline, or the U-Net in it, was loaded from the Pocket Diffusion folder.

    The U-Net counts because a pipeline put together from components has no name of its own.
    """
    unet = getattr(pipe, "unet", None)
    unet_name = unet.config.get("_name_or_path") if unet is not None else None
    places = [Path(pipe.name_or_path)] if pipe.name_or_path else []
    places += [Path(unet_name).parent] if unet_name else []
    return POCKET.resolve() in {place.resolve() for place in places}


def _loaded(name: str | Path, device: torch.device, dtype: torch.dtype, checker: bool) -> "StableDiffusionPipeline":
    with memory_advice():
        return _read(name, dtype, checker).to(device)


def _read(name: str | Path, dtype: torch.dtype, checker: bool) -> "StableDiffusionPipeline":
    """The pipeline of this name, in main memory."""
    if name == "pocket":
        return _from_folder(POCKET, dtype, checker)
    text = KNOWN.get(name, name) if isinstance(name, str) else str(name)
    for start in (Path(), ROOT):
        folder = start / os.path.expanduser(text)
        if text and os.path.exists(folder):
            return _from_folder(folder, dtype, checker)
    if isinstance(name, str) and HUB_ID.fullmatch(text):
        return _from_hub(text, dtype, checker)
    if isinstance(name, Path) or "/" in text or "\\" in text:
        raise ValueError(f"There is no folder {text!r} that can be read: choose {CHOICES}")
    near = difflib.get_close_matches(text.lower(), ["auto", "pocket", *KNOWN], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"Unknown model {text!r}{hint}: choose {CHOICES}")


def _from_hub(name: str, dtype: torch.dtype, checker: bool) -> "StableDiffusionPipeline":
    with quiet():  # the list of parts alone first: what it says is looked at before anything else comes
        folder = hub.fetch(name, ["model_index.json"], revision=REVISIONS.get(name), choices=CHOICES)
        files = [f"{part}/{file}" for part in model_folder.parts(folder, name, checker) for file in DOWNLOADED]
        hub.fetch(name, files, revision=folder.name, choices=CHOICES)
    return _from_folder(folder, dtype, checker, name)  # rather than a folder deep in the cache


def _from_folder(folder: Path, dtype: torch.dtype, checker: bool, name: str | None = None) -> "StableDiffusionPipeline":
    """name: what to call the pipeline, if not by its folder."""
    from safetensors import SafetensorError

    model_folder.check(folder, checker)
    without = {} if checker else {"safety_checker": None, "requires_safety_checker": False}
    try:
        with quiet():
            from diffusers import StableDiffusionPipeline  # here, because importing it prints advice on torchvision

            pipe = StableDiffusionPipeline.from_pretrained(str(folder), use_safetensors=True, dtype=dtype, **without)
            pipe.to("cpu")  # where it is, but a weight that no file had has no values, and cannot be put anywhere
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if getattr(error, "errno", None) in hub.DISK:
            raise
        raise ValueError(
            f"The weights in {folder} are damaged or do not fit its configuration: {model_folder.cure(folder)}"
        ) from error
    if name is not None:
        pipe.register_to_config(_name_or_path=name)
    if pipe.safety_checker is not None:
        print(
            f"{pipe.name_or_path} brings a safety checker, and it is on: pictures that it takes for sexual content "
            "come out black. It errs both ways. safety_checker=False leaves it out, and you judge what is drawn."
        )
    return pipe
