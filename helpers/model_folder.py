"""Whether a folder holds a Stable Diffusion that can be loaded, and nothing that would run code of its own."""

import json
import os
import re
from pathlib import Path

from helpers.checksums import CHECKSUMS, verify_checksums

ROOT = Path(__file__).resolve().parent.parent
POCKET = ROOT / "models" / "pocket-diffusion"
CHOICES = "'auto', 'pocket', 'sd15', a hub id such as 'owner/name', or a folder"
# The parts of Stable Diffusion 1 and what they may be, as `library.class`. diffusers imports whatever a model's list of
# parts names, so nothing else may stand there.
PARTS = {
    "unet": r"diffusers\.UNet2DConditionModel",
    "vae": r"diffusers\.AutoencoderKL",
    "text_encoder": r"transformers\.CLIPTextModel",
    "tokenizer": r"transformers\.CLIPTokenizer(Fast)?",
    "scheduler": r"diffusers\.\w+Scheduler",
    "safety_checker": r"stable_diffusion\.StableDiffusionSafetyChecker",
    "feature_extractor": r"transformers\.CLIP(FeatureExtractor|ImageProcessor|ImageProcessorPil)",
}
WEIGHTS = ("unet", "vae", "text_encoder", "safety_checker")  # the parts that have some


def check(folder: Path, checker: bool) -> None:
    """Raise ValueError unless a folder holds a whole Stable Diffusion in safetensors, OSError if it may not be read."""
    if folder.is_file():
        raise ValueError(f"{folder} is one file, and only whole folders are loaded: choose {CHOICES}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: {cure(folder)}")
    if (folder / CHECKSUMS).is_file():
        try:
            verify_checksums(folder)
        except ValueError as error:
            raise ValueError(f"{error}: {cure(folder)}") from None
    for part in parts(folder, str(folder), checker):
        needed = "*.safetensors" if part in WEIGHTS else "*.json"
        files = [folder / part / name for name in os.listdir(folder / part)] if (folder / part).is_dir() else []
        if any(path.suffix == ".py" for path in files):  # it could stand in for a library of its name
            raise ValueError(f"{folder / part} brings its own code, which is never run: choose another model")
        if not any(path.match(needed) for path in files):
            raise ValueError(
                f"{folder / part} has no {needed}, and a pickle, which can run code when loaded, is never read: "
                f"{cure(folder)}, or choose another model"
            )
        for path in filter(Path.is_file, files):
            with open(path, "rb"):  # of a file that may not be read, safetensors says that it is not there
                pass


def parts(folder: Path, called: str, checker: bool) -> list[str]:
    """The parts of the model in a folder, as its model_index.json lists them; a safety checker only if it is wanted.

    Raises ValueError unless it is a Stable Diffusion 1, all of whose parts are of the libraries' own classes.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{called} is not a pipeline: it has no model_index.json; choose {CHOICES}")
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))
        kind = listed["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{index} is damaged: {cure(folder)}") from None
    if kind != "StableDiffusionPipeline":
        # diffusers loads another kind, such as Stable Diffusion XL, without a word and draws rubbish with it.
        raise ValueError(f"{called} holds a {kind!r}: the course needs a StableDiffusionPipeline")
    found = []
    for part, value in listed.items():
        if part.startswith("_") or isinstance(value, (bool, int, float)) or value in (None, [None, None]):
            continue
        if not (isinstance(value, list) and re.fullmatch(PARTS.get(part, "-"), ".".join(map(str, value)))):
            raise ValueError(
                f"{called} says that its {part!r} is {value!r}, which is no part of Stable Diffusion 1 and could bring "
                "its own code, which is never run: choose another model"
            )
        if part != "safety_checker" or checker:
            found.append(part)
    return found


def cure(folder: Path) -> str:
    """What to do about a folder that is damaged: the end of a sentence."""
    if folder.resolve() == POCKET.resolve():
        return "restore it with `git checkout -- models/pocket-diffusion`, or clone the course again"
    if folder.parent.name == "snapshots":  # of the hub's cache: repository / snapshots / commit
        return f"delete {folder.parent.parent} and load it again"
    return "copy or download the folder again"
