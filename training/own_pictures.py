"""A learner's own pictures and captions, in the place of scenes.

They lie in a folder as `load_dataset("imagefolder", data_dir=...)` of Hugging Face datasets reads it: the pictures, and
`metadata.jsonl` with a line `{"file_name": "00000.png", "text": "a red boat"}` for each. `prepare.py` makes it.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers.grounds import SIZE
from helpers.images import read_picture
from helpers.pictures import FORMATS
from training.flags import add_flags, filled
from training.run_folder import files_key

METADATA = "metadata.jsonl"
FEWEST = 10  # pictures: with fewer there is nothing to tell apart
NONE = {"scenes": 0, "pairs": 0.0, "named": 0.0, "place_weight": 0.0, "grounding_weight": 0.0}  # what only scenes have


@dataclass(frozen=True)
class OwnPicture:
    """What the trainers ask of a scene. Where the things of a picture are nobody has told, so it has none."""

    text: str
    digest: str  # of the pixels, so that `repr` tells two pictures apart
    pixels: np.ndarray = field(repr=False, compare=False)  # (128, 128, 3) uint8
    things: tuple = ()

    def caption(self, *, ground: bool = True, style: bool = True) -> str:
        """The caption, always whole: which of its words could be left out nobody has told."""
        return self.text


def pictures_key(pictures: Sequence[OwnPicture]) -> str:
    """Twelve digits that change with any pixel and any caption."""
    return files_key([], repr(list(pictures)))


def load(folder: Path) -> list[OwnPicture]:
    """The pictures of a folder that `training.prepare` has made. ValueError, one sentence, if it is none."""
    if not (folder / METADATA).is_file():
        raise ValueError(f"{folder} holds no {METADATA}: make such a folder with `python -m training.prepare`")
    pictures = []
    for name, text in captions(folder).items():
        pixels = np.asarray(read_picture((folder / name).read_bytes(), repr(name)))
        if pixels.shape != (SIZE, SIZE, 3):
            raise ValueError(
                f"{name!r} has {pixels.shape[1]} x {pixels.shape[0]} pixels where {SIZE} x {SIZE} are needed: "
                f"let `python -m training.prepare {folder}` make a folder of that size"
            )
        pictures.append(OwnPicture(text, hashlib.sha256(pixels.tobytes()).hexdigest()[:12], pixels))
    return pictures


def captions(folder: Path) -> dict[str, str]:
    """The caption of each picture by the name of its file, spaces and line ends made single spaces.

    They come from `metadata.jsonl` where there is one, else from a .txt file of the same name beside each picture.
    ValueError, one sentence, if one is missing or empty, or if there are too few.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}")
    found = _listed(folder) if (folder / METADATA).is_file() else _beside(folder)
    found = {name: " ".join(text.split()) for name, text in found.items()}
    empty = [name for name, text in found.items() if not text]
    if empty:
        raise ValueError(f"The caption of {empty[0]!r} is empty: write what the picture shows")
    if len(found) < FEWEST:
        raise ValueError(f"{folder} holds {len(found)} pictures with captions: training needs at least {FEWEST}")
    return found


def _listed(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(_text(folder / METADATA).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"]
            path = Path(name)
            if not isinstance(text, str) or path.is_absolute() or ".." in path.parts or name in found:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"Line {number} of {folder / METADATA} is not of the form "
                '{"file_name": "boat.jpg", "text": "a red boat"}, with a file of this folder that no other line names'
            ) from None
        if path.suffix.lower() not in FORMATS or not (folder / path).is_file():
            raise ValueError(
                f"Line {number} of {folder / METADATA} names {name!r}, which is no JPEG, PNG or WebP there"
            )
        found[name] = text
    return found


def _beside(folder: Path) -> dict[str, str]:
    pictures = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in FORMATS)
    if not pictures:
        raise ValueError(f"{folder} holds no pictures: put files ending in {', '.join(FORMATS)} there")
    without = [path for path in pictures if not path.with_suffix(".txt").is_file()]
    if without:
        raise ValueError(
            f"{len(without)} of the {len(pictures)} pictures in {folder} have no caption: write what "
            f"{without[0].name!r} shows into {without[0].with_suffix('.txt').name!r} beside it, and so on"
        )
    return {path.name: _text(path.with_suffix(".txt")) for path in pictures}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8: save it as such in your editor") from None


def read_flags(
    parser: argparse.ArgumentParser, config: Any, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, Any, list[OwnPicture]]:
    """The command line of a trainer that takes scenes or, with --data, own pictures.

    config: the dataclass of its settings. Returns the arguments, the settings, in which with own pictures all that
    scenes alone have is 0, and the pictures, an empty list for scenes. SystemExit, with one sentence, for a folder that
    cannot be used and for flags that only scenes have.
    """
    parser.add_argument("--data", type=Path, help="folder of your own pictures, from training.prepare: no scenes")
    add_flags(parser, config)
    args = parser.parse_args(arguments)
    config = filled(config, vars(args))
    if args.data is None:
        return args, config, []
    parser.set_defaults(**dict.fromkeys(NONE))  # now what is not None was asked for
    asked = vars(parser.parse_args(arguments))
    useless = ["--" + name.replace("_", "-") for name in NONE if asked[name]]
    if useless:
        parser.error(f"with --data there are no scenes, so leave out {', '.join(useless)}")
    try:
        return args, filled(config, NONE), load(args.data)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
