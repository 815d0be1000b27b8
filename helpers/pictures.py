"""Drawing pictures with a pipeline in one call, and saving them without ever losing one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from helpers import inputs
from helpers.library_calls import memory_advice, quiet
from helpers.plots import picture_file

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
QUALITY = 95  # of JPEG and WebP, from 0 to 100


def generate(
    pipe: "StableDiffusionPipeline",
    prompt: str | Sequence[str],
    *,
    steps: int = 25,
    guidance: float | None = None,
    seed: int = 0,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
) -> list[Image.Image]:
    """One RGB picture for each prompt; the same seed gives the same pictures, alone or in a list.

    Picture i starts from noise drawn with seed + i on the CPU, so that every device starts from the same noise.

    guidance: s of `uncond + s * (cond - uncond)`, from 1 (off) to 50; None stands for 4.0 with Pocket, else 7.5.
    height, width: in pixels; None stands for the model's own size.

    Everything is checked before any work: ValueError says what is wrong and what would do. What the model will not
    understand of a prompt is printed, once each, and which pictures a safety checker made black. A full GPU raises
    MemoryError with advice.
    """
    if guidance is not None:
        inputs.check_pipeline_guidance(guidance)
    checked = inputs.check_run(
        pipe,
        prompt,
        scheduler=pipe.scheduler,
        steps=steps,
        guidance=guidance,
        seed=seed,
        negative_prompt=negative_prompt,
        height=height,
        width=width,
    )
    prompts = checked.prompts
    for note in checked.notes:
        print(note)
    # The pipeline takes its own size for both sides unless both are given.
    size = pipe.unet.config.sample_size  # of the latents; one number if they are square
    rows, columns = (size, size) if isinstance(size, int) else size
    height, width = height or rows * pipe.vae_scale_factor, width or columns * pipe.vae_scale_factor
    # The library's own warnings, about cut text and black pictures, repeat the notes.
    with quiet(bars=True), memory_advice():
        drawn = pipe(
            prompts,
            num_inference_steps=int(steps),
            guidance_scale=checked.guidance,
            negative_prompt=None if negative_prompt is None else [negative_prompt] * len(prompts),
            height=height,
            width=width,
            generator=[torch.Generator("cpu").manual_seed(int(seed) + i) for i in range(len(prompts))],
        )
    black = [i for i, flagged in enumerate(getattr(drawn, "nsfw_content_detected", None) or []) if flagged]
    if black:
        print(
            f"The safety checker took picture {', '.join(map(str, black))} (counted from 0) for sexual content, and "
            "made it black: try another seed or prompt"
        )
    return drawn.images


def save_pictures(
    pictures: Sequence[Image.Image],
    folder: str | Path = "pictures",
    *,
    stem: str = "picture",
    suffix: str = ".jpg",
) -> list[Path]:
    """Save pictures as picture_0.jpg, picture_1.jpg, ... and return the paths. Nothing is ever overwritten.

    Each takes the first number that is free for this stem and suffix. Raises ValueError for
    an unknown suffix, a stem that is not a plain file name, anything that is not a picture, or a file as `folder`;
    OSError, of which PermissionError is one, if the disk is full or refuses: no half picture is left then.
    """
    if suffix not in FORMATS:
        raise ValueError(f"suffix is {suffix!r}: choose one of {', '.join(FORMATS)}")
    if not stem or Path(stem).name != stem:
        raise ValueError(f"stem is {stem!r}: choose a plain file name without folders, such as 'picture'")
    if isinstance(pictures, Image.Image):
        raise ValueError("pictures is one picture: give a list, such as [picture]")
    pictures = list(pictures)
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise ValueError(f"pictures holds a {type(picture).__name__}: give a list of PIL images")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file: choose a folder to save pictures in")
    encoded = [_encoded(picture, FORMATS[suffix]) for picture in pictures]

    number, paths = 0, []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for data in encoded:
            while not _write_new(folder / f"{stem}_{number}{suffix}", data):
                number += 1
            paths.append(folder / f"{stem}_{number}{suffix}")
    except OSError as error:
        said = f"{error.strerror}: no picture can be saved in {str(folder)!r}; make room there or choose another folder"
        raise OSError(error.errno, said) from error
    return paths


def _write_new(path: Path, data: bytes) -> bool:
    """Write a file that was not there before, whole or not at all; False if there is one by now."""
    try:
        path.touch(exist_ok=False)  # takes the name
    except FileExistsError:
        return False
    try:
        path.write_bytes(data)
    except BaseException:  # a full disk, or an interrupted kernel
        path.unlink()
        raise
    return True


def _encoded(picture: Image.Image, kind: str) -> bytes:
    """A picture as the bytes of a file, made before the file is, so that a failure leaves no empty file."""
    if kind == "JPEG":
        picture = picture.convert("RGB")  # JPEG has no transparency
    return picture_file(picture, kind, **({} if kind == "PNG" else {"quality": QUALITY}))
