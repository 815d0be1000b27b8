"""The world of Pocket Diffusion: emoji in seven colours, on plain grounds and in eight places, and their sentences.

A scene is one large thing, or two small ones beside or above each other, in one of four drawing styles. What a caption
can say is its word, colour, ground, style and relation; how a thing is tilted, mirrored, sized and where exactly it
stands, it never says. Everything is drawn from `images/sprites`, so no network is needed.
"""

import csv
import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.grounds import PLACES, SIZE, VARIANTS, place

SPRITES = Path(__file__).resolve().parent.parent / "images" / "sprites"
ATLAS_COLUMNS = 16  # sprites in a row
STYLES = ("flat", "glossy", "noto", "twemoji")
RELATIONS = ("left of", "right of", "above", "below")
PLURALS = frozenset({"cherries", "fries", "grapes", "scissors"})  # words that English uses without an article


def with_article(word: str) -> str:
    """`a fox`, `an owl`, `grapes`."""
    if word in PLURALS:
        return word
    return f"an {word}" if word[0] in "aeiou" and word != "unicorn" else f"a {word}"


def table(name: str) -> list[dict[str, str]]:
    """The rows of a table beside the sprites."""
    with open(SPRITES / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


WORDS = tuple(row["word"] for row in table("concepts.tsv"))
PLAIN = {row["name"]: (int(row["r"]), int(row["g"]), int(row["b"])) for row in table("backgrounds.tsv")}
# What the pixels of a coloured thing are drawn towards: hue, saturation, value, each from 0 to 1.
COLOURS = {
    "red": (0.00, 0.92, 0.92),
    "orange": (0.075, 0.95, 1.00),
    "yellow": (0.142, 0.90, 1.00),
    "green": (0.36, 0.80, 0.75),
    "blue": (0.60, 0.85, 0.95),
    "purple": (0.77, 0.70, 0.80),
    "pink": (0.92, 0.45, 1.00),
}
# Every ground, and how a caption says it.
GROUNDS = {name: f"on {with_article(name)} background" for name in PLAIN} | {
    name: phrase for name, (phrase, _) in PLACES.items()
}
COLOURED = 0.4  # share of the things that can take a colour and are given one
TILT = 10  # degrees, largest, either way
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
EDGE = 3  # pixels that stay free between a thing and the edge of the picture, or of its half


@dataclass(frozen=True)
class Thing:
    """One thing of a scene.

    word: one of `WORDS`. colour: one of `COLOURS`, or None as the emoji comes. side: the longer one of what is seen, in
    pixels. centre: (x, y) in pixels, y downwards. tilt: degrees, anticlockwise. mirrored: left and right exchanged.
    """

    word: str
    colour: str | None = None
    side: int = 100
    centre: tuple[int, int] = (SIZE // 2, SIZE // 2)
    tilt: int = 0
    mirrored: bool = False

    @property
    def phrase(self) -> str:
        """`a fox`, `an orange owl`, `blue grapes`."""
        if self.colour is None:
            return with_article(self.word)
        return f"{self.colour if self.word in PLURALS else with_article(self.colour)} {self.word}"


@dataclass(frozen=True)
class Scene:
    """What one picture shows; `draw` makes the picture and `caption` the sentence.

    things: one or two; the first stands where `relation` says, seen from the second. ground: one of `GROUNDS`. variant:
    which of the eight pictures of a place; without effect on a plain ground.
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    ground: str = "white"
    style: str = "flat"
    variant: int = 0

    def caption(self, *, ground: bool = True, style: bool = True) -> str:
        """The sentence for this scene; either phrase can be left out."""
        text = f" {self.relation} ".join(thing.phrase for thing in self.things)
        if ground:
            text += f" {GROUNDS[self.ground]}"
        if style:
            text += f", {self.style} style"
        return text

    @property
    def words(self) -> tuple[str, ...]:
        """The words of its things, in the order of the caption."""
        return tuple(thing.word for thing in self.things)

    @property
    def held_out(self) -> bool:
        """True if U-Net training never sees one of its (word, style) or (word, colour) pairs."""
        return any(
            held_out_style(thing.word, self.style) or held_out_colour(thing.word, thing.colour) for thing in self.things
        )


def held_out_style(word: str, style: str) -> bool:
    """True for the one (word, style) pair in twenty that U-Net training never sees, so that composing is measured."""
    return zlib.crc32(f"{word}|{style}".encode()) % 20 == 0


def held_out_colour(word: str, colour: str | None) -> bool:
    """True for the one (word, colour) pair in ten that U-Net training never sees."""
    return colour is not None and zlib.crc32(f"{word}|{colour}".encode()) % 10 == 0


@functools.cache
def _atlas() -> np.ndarray:
    with Image.open(SPRITES / "sprites.webp") as image:
        return np.asarray(image.convert("RGBA"))


def sprite(word: str, style: str) -> Image.Image:
    """The emoji for a word in a style: RGBA, 128 x 128 pixels, transparent around the thing."""
    if word not in WORDS:
        raise ValueError(f"Unknown word {word!r}: choose one of {', '.join(WORDS)}")
    if style not in STYLES:
        raise ValueError(f"Unknown style {style!r}: choose one of {', '.join(STYLES)}")
    row, column = divmod(WORDS.index(word) * len(STYLES) + STYLES.index(style), ATLAS_COLUMNS)
    return Image.fromarray(_atlas()[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE])


def _hsva(image: Image.Image) -> np.ndarray:
    """(H, W, 4) hue, saturation, value and alpha, each from 0 to 1."""
    hsv = np.asarray(image.convert("RGB").convert("HSV"))
    return np.concatenate([hsv, np.asarray(image)[..., 3:]], axis=-1) / 255


@functools.cache
def _paintable(word: str, style: str) -> np.ndarray:
    """(128, 128) how much of each pixel takes a colour, from 0 to 1: those of the sprite's commonest hue, or near it.

    White, grey and black stay, and so do the leaves of a strawberry and the windows of a bus.
    """
    hue, saturation, _, alpha = np.moveaxis(_hsva(sprite(word, style)), -1, 0)
    counts, edges = np.histogram(hue, bins=24, range=(0, 1), weights=saturation * (saturation > 0.35) * alpha)
    around = counts + np.roll(counts, 1) + np.roll(counts, -1)  # red lies at both ends of the circle of hues
    commonest = edges[around.argmax()] + 1 / 48
    distance = np.abs((hue - commonest + 0.5) % 1 - 0.5)
    return np.clip((saturation - 0.15) / 0.20, 0, 1) * np.clip((0.17 - distance) / 0.06, 0, 1)


@functools.cache
def takes_colours(word: str, style: str) -> bool:
    """True if at least 45 % of the sprite's opaque pixels take a colour: any other would still look as before.

    A rainbow of one colour would be none.
    """
    opaque = np.asarray(sprite(word, style))[..., 3] > 127
    return word != "rainbow" and bool((_paintable(word, style)[opaque] > 0.5).mean() >= 0.45)


@functools.lru_cache(maxsize=4096)
def coloured(word: str, style: str, colour: str | None) -> Image.Image:
    """The sprite with the pixels of its commonest hue drawn towards a colour, light and shade kept."""
    drawn = sprite(word, style)
    if colour is None:
        return drawn
    if colour not in COLOURS:
        raise ValueError(f"Unknown colour {colour!r}: choose one of {', '.join(COLOURS)}")
    hue, saturation, value = COLOURS[colour]
    old = _hsva(drawn)
    new = [np.full_like(old[..., 0], hue), 0.35 * old[..., 1] + 0.65 * saturation, value * (0.3 + 0.7 * old[..., 2])]
    painted = np.asarray(Image.fromarray((np.stack(new, axis=-1) * 255).round().astype(np.uint8), "HSV").convert("RGB"))
    pixels = np.asarray(drawn)
    share = _paintable(word, style)[..., None]
    rgb = (pixels[..., :3] * (1 - share) + painted * share).round().astype(np.uint8)
    return Image.fromarray(np.concatenate([rgb, pixels[..., 3:]], axis=-1))


@functools.lru_cache(maxsize=2048)
def _turned(word: str, style: str, colour: str | None, tilt: int, mirrored: bool) -> Image.Image:
    """The coloured sprite, mirrored and tilted about its middle, cut to what is visible of it."""
    image = coloured(word, style, colour)
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if tilt:
        # Bilinear here and where it is made smaller: sharper filters overshoot at a sprite's edge, as bright dots.
        image = image.rotate(tilt, Image.Resampling.BILINEAR, expand=True)
    return image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())


def frame(scene: Scene, index: int) -> Box:
    """Where a thing may be. The whole picture but its edge, or for one of two its half."""
    low, middle, high = EDGE, SIZE // 2, SIZE - EDGE
    if scene.relation is None:
        return low, low, high, high
    first = (index == 0) == (scene.relation in ("left of", "above"))
    near, far = (low, middle - 1) if first else (middle + 1, high)
    return (near, low, far, high) if scene.relation in ("left of", "right of") else (low, near, high, far)


def _visible(scene: Scene, thing: Thing) -> Image.Image:
    return _turned(thing.word, scene.style, thing.colour, thing.tilt, thing.mirrored)


def boxes(scene: Scene) -> list[Box]:
    """Where each thing is seen in the picture: in the size and place that is asked for, if its frame has the room."""
    found = []
    for index, thing in enumerate(scene.things):
        image = _visible(scene, thing)
        left, top, right, bottom = frame(scene, index)
        scale = min(thing.side / max(image.size), (right - left) / image.width, (bottom - top) / image.height)
        width, height = max(1, round(scale * image.width)), max(1, round(scale * image.height))
        x = min(max(round(thing.centre[0] - width / 2), left), right - width)
        y = min(max(round(thing.centre[1] - height / 2), top), bottom - height)
        found.append((x, y, x + width, y + height))
    return found


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, 128 x 128 pixels."""
    if scene.ground in PLAIN:
        picture = Image.new("RGB", (SIZE, SIZE), PLAIN[scene.ground])
    else:
        picture = place(scene.ground, scene.variant).copy()
    for thing, (left, top, right, bottom) in zip(scene.things, boxes(scene), strict=True):
        image = _visible(scene, thing).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        picture.paste(image, (left, top), image)
    return picture


def vary(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene with the same caption, and everything that captions never say drawn anew.

    The longer side of one thing is 80 to 108 pixels and it stands within 6 pixels of the middle; that of
    two is 44 to 57, and each stands within 3 pixels of the middle of its half.
    """
    one = scene.relation is None
    low, high, shift = (80, 108, 6) if one else (44, 57, 3)
    things = []
    for index, thing in enumerate(scene.things):
        left, top, right, bottom = frame(scene, index)
        x, y = (left + right) // 2, (top + bottom) // 2
        dx, dy = rng.integers(-shift, shift + 1, size=2)
        things.append(
            replace(
                thing,
                side=int(rng.integers(low, high + 1)),
                centre=(int(x + dx), int(y + dy)),
                tilt=int(rng.integers(-TILT, TILT + 1)),
                mirrored=bool(rng.random() < 0.5),
            )
        )
    return replace(scene, things=tuple(things), variant=int(rng.integers(VARIANTS)))


def random_scene(rng: np.random.Generator, *, things: int, allow_held_out: bool = False) -> Scene:
    """A scene with `things` (1 or 2) things, everything else drawn from `rng`.

    Half of the grounds are plain. Two things always have two different words. Scenes with a held-out pair are drawn
    again unless `allow_held_out`. Raises ValueError for any other number of things.
    """
    if things not in (1, 2):
        raise ValueError(f"A scene has 1 or 2 things, not {things}")
    while True:
        style = _choice(rng, STYLES)
        words = [str(word) for word in rng.choice(WORDS, size=things, replace=False)]
        colours = [
            _choice(rng, list(COLOURS)) if takes_colours(word, style) and rng.random() < COLOURED else None
            for word in words
        ]
        scene = Scene(
            things=tuple(Thing(word, colour) for word, colour in zip(words, colours, strict=True)),
            relation=_choice(rng, RELATIONS) if things == 2 else None,
            ground=_choice(rng, list(PLAIN if rng.random() < 0.5 else PLACES)),
            style=style,
        )
        if allow_held_out or not scene.held_out:
            return vary(scene, rng)


def _choice(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]
