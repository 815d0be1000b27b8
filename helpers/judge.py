"""Read what a picture of Pocket's world shows, so that a lesson can measure a model instead of praising it.

The judge is a small classifier trained on real scenes only (`training/train_judge.py`). It never sees the diffusion
model. It reads how many things stand where, and on which ground; and of each thing its word, its style and, among the
seven, its colour.
"""

import functools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.grounds import SIZE
from helpers.loading import is_pocket
from helpers.scenes import COLOURS, GROUNDS, STYLES, WORDS

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

JUDGE = Path(__file__).resolve().parent.parent / "models" / "scene-judge"
VIEW = 80  # pixels, both sides of what the network looks at
LAYOUTS = ("one", "beside", "above")

# Where the two things of a pair stand: left, top, right, bottom of each view, in pixels.
_QUARTER, _HALF = SIZE // 4, SIZE // 2
PLACES = {
    "beside": ((0, _QUARTER, _HALF, 3 * _QUARTER), (_HALF, _QUARTER, SIZE, 3 * _QUARTER)),
    "above": ((_QUARTER, 0, 3 * _QUARTER, _HALF), (_QUARTER, _HALF, 3 * _QUARTER, SIZE)),
}
# What each head tells apart. A layout and a ground are read in whole pictures, the rest in views of single things.
HEADS: dict[str, tuple[str, ...]] = {
    "layout": LAYOUTS,
    "ground": tuple(GROUNDS),
    "word": WORDS,
    "style": STYLES,
    "colour": tuple(COLOURS),
}


@dataclass(frozen=True)
class Reading:
    """What the judge reads in one picture.

    layout: "one", "beside" or "above". words, colours: of one thing, or of two: left then right, or top then bottom. A
    colour is the likeliest of the seven, also for a thing that was given none.
    """

    layout: str
    words: tuple[str, ...]
    colours: tuple[str, ...]
    style: str
    ground: str


NOTHING = Reading(layout="", words=(), colours=(), style="", ground="")


class Judge(nn.Module):
    """A small convolutional network on 80 x 80 pictures in [-1, 1], with a linear head for each of `HEADS`."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 224)):
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after in zip((3, *widths[:-1]), widths, strict=True):
            blocks += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
            blocks += [nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
        self.widths = tuple(widths)
        self.features = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.heads = nn.ModuleDict({name: nn.Linear(widths[-1], len(choices)) for name, choices in HEADS.items()})

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """(B, 3, 80, 80) to the logits of each head, (B, its number of choices)."""
        features = self.features(views)  # (B, widths[-1])
        return {name: head(features) for name, head in self.heads.items()}


def to_views(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures as the network's input: (B, 3, 80, 80) in [-1, 1]. Raises ValueError if there are none."""
    if not len(pictures):
        raise ValueError("There are no pictures to read: give at least one")
    scaled = [
        np.asarray(picture.convert("RGB").resize((VIEW, VIEW), Image.Resampling.BILINEAR)) for picture in pictures
    ]
    return torch.from_numpy(np.stack(scaled)).movedim(-1, 1).float() / 127.5 - 1


def things_of(picture: Image.Image, layout: str) -> list[Image.Image]:
    """The view of each thing: the whole picture for one, else the two squares in which they stand, in reading order."""
    return [picture] if layout == "one" else [picture.crop(place) for place in PLACES[layout]]


@functools.cache
def load_judge() -> Judge:
    """The judge that the course ships, from `models/scene-judge`. ValueError if it was trained for another world."""
    config = json.loads((JUDGE / "config.json").read_text(encoding="utf-8"))
    if {name: tuple(choices) for name, choices in config["heads"].items()} != HEADS:
        raise ValueError(f"The judge in {JUDGE.name} was trained for other words: train it again")
    net = Judge(config["widths"])
    net.load_state_dict({name: value.float() for name, value in load_file(JUDGE / "model.safetensors").items()})
    return net.eval()


@torch.no_grad()
def read(pictures: Sequence[Image.Image], net: Judge | None = None) -> list[Reading]:
    """Read pictures: one `Reading` each. Raises ValueError for none, and for another size than 128 x 128 pixels."""
    for picture in pictures:
        if picture.size != (SIZE, SIZE):
            raise ValueError(
                f"The judge reads pictures of {SIZE} x {SIZE} pixels, not {picture.width} x {picture.height}"
            )
    net = net or load_judge()
    whole = net(to_views(pictures))
    readings = []
    for i, picture in enumerate(pictures):
        layout = LAYOUTS[whole["layout"][i].argmax()]
        seen = net(to_views(things_of(picture, layout)))
        readings.append(
            Reading(
                layout=layout,
                words=tuple(WORDS[k] for k in seen["word"].argmax(dim=1)),
                colours=tuple(HEADS["colour"][k] for k in seen["colour"].argmax(dim=1)),
                style=STYLES[seen["style"].log_softmax(dim=1).sum(dim=0).argmax()],
                ground=HEADS["ground"][whole["ground"][i].argmax()],
            )
        )
    return readings


def read_pocket(pipe: "StableDiffusionPipeline", pictures: Sequence[Image.Image]) -> list[Reading]:
    """`read` for pictures that Pocket drew; of another model it says so and reads nothing in any of them."""
    if is_pocket(pipe):
        return read(pictures)
    print("Skipped: the judge reads Pocket's pictures only.")
    return [NOTHING] * len(pictures)


@torch.no_grad()
def features(pictures: Sequence[Image.Image], net: Judge | None = None) -> Tensor:
    """What the judge sees before it decides: the input of its heads, (B, 224), for the Frechet distance."""
    return (net or load_judge()).features(to_views(pictures))


def tally(pipe: "StableDiffusionPipeline", pictures: Sequence[Image.Image]) -> str:
    """How often the judge reads which words in pictures that `pipe` drew, the commonest first: `3 fox, 1 pizza`.

    Of another model than Pocket it says that it was skipped: the judge knows Pocket's world alone.
    """
    if not is_pocket(pipe):
        return "skipped: the judge knows Pocket's world alone"
    words = Counter(" and ".join(reading.words) for reading in read(pictures))
    return ", ".join(f"{count} {word}" for word, count in words.most_common())
