"""Read what a picture shows, so that a lesson can measure a model instead of praising it.

The judge is a small classifier trained on the real sprites only (`training/train_judge.py`). It never
sees the diffusion model, and reads three things: how many objects stand where, which words they are, and
in which style they are drawn. The background needs no network: it is the colour of the border.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.scenes import BACKGROUNDS, SIZE, STYLES, WORDS

JUDGE = Path(__file__).resolve().parent.parent / "models" / "sprite-judge"
VIEW = 64  # pixels, both sides of what the network looks at
LAYOUTS = ("one", "beside", "above")

# Where the two objects of a pair stand: left, top, right, bottom of each view, in pixels.
_QUARTER, _HALF = SIZE // 4, SIZE // 2
PLACES = {
    "beside": ((0, _QUARTER, _HALF, 3 * _QUARTER), (_HALF, _QUARTER, SIZE, 3 * _QUARTER)),
    "above": ((_QUARTER, 0, 3 * _QUARTER, _HALF), (_QUARTER, _HALF, 3 * _QUARTER, SIZE)),
}


@dataclass(frozen=True)
class Reading:
    """What the judge reads in one picture.

    layout: "one", "beside" or "above". words: one word, or two: left then right, or top then bottom.
    """

    layout: str
    words: tuple[str, ...]
    style: str
    background: str


class JudgeNet(nn.Module):
    """A residual CNN on 64 x 64 pictures in [-1, 1] with one head each for word, style and layout."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 192)):
        super().__init__()
        blocks = []
        for before, after in zip((3, *widths[:-1]), widths, strict=True):
            blocks += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
            blocks += [nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
        self.widths = tuple(widths)
        self.features = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.word = nn.Linear(widths[-1], len(WORDS))
        self.style = nn.Linear(widths[-1], len(STYLES))
        self.layout = nn.Linear(widths[-1], len(LAYOUTS))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, 64, 64) to logits (B, 124), (B, 4), (B, 3)."""
        features = self.features(views)  # (B, widths[-1])
        return self.word(features), self.style(features), self.layout(features)


def to_views(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of any one size as the network's input: (B, 3, 64, 64) in [-1, 1]. ValueError if there are none."""
    if not len(pictures):
        raise ValueError("There are no pictures to read: give at least one")
    small = [np.asarray(picture.convert("RGB").resize((VIEW, VIEW), Image.Resampling.BOX)) for picture in pictures]
    return torch.from_numpy(np.stack(small)).movedim(-1, 1).float() / 127.5 - 1


def read_background(picture: Image.Image) -> str:
    """The background whose colour is nearest to the median colour of the picture's outermost pixels."""
    pixels = np.asarray(picture.convert("RGB")).astype(float)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border, axis=0)
    return min(BACKGROUNDS, key=lambda name: float(np.square(colour - BACKGROUNDS[name]).sum()))


@functools.cache
def load_judge() -> JudgeNet:
    """The judge that the course ships, from `models/sprite-judge`."""
    config = json.loads((JUDGE / "config.json").read_text(encoding="utf-8"))
    if tuple(config["words"]) != WORDS:
        raise ValueError(f"The judge in {JUDGE.name} was trained for other words: train it again")
    net = JudgeNet(config["widths"])
    net.load_state_dict({name: value.float() for name, value in load_file(JUDGE / "model.safetensors").items()})
    return net.eval()


@torch.no_grad()
def read(pictures: Sequence[Image.Image], net: JudgeNet | None = None) -> list[Reading]:
    """Read pictures: one `Reading` each. Raises ValueError for none, and for another size than 128 x 128 pixels."""
    for picture in pictures:
        if picture.size != (SIZE, SIZE):
            raise ValueError(
                f"The judge reads pictures of {SIZE} x {SIZE} pixels, not {picture.width} x {picture.height}"
            )
    net = net or load_judge()
    layouts = [LAYOUTS[i] for i in net(to_views(pictures))[2].argmax(dim=1)]
    readings = []
    for picture, layout in zip(pictures, layouts, strict=True):
        views = [picture] if layout == "one" else [picture.crop(place) for place in PLACES[layout]]
        word, style, _ = net(to_views(views))
        readings.append(
            Reading(
                layout=layout,
                words=tuple(WORDS[i] for i in word.argmax(dim=1)),
                style=STYLES[F.log_softmax(style, dim=1).sum(dim=0).argmax()],
                background=read_background(picture),
            )
        )
    return readings


@torch.no_grad()
def features(pictures: Sequence[Image.Image], net: JudgeNet | None = None) -> Tensor:
    """What the judge sees before it decides: the input of its three heads, (B, 192), for the Frechet distance."""
    return (net or load_judge()).features(to_views(pictures))
