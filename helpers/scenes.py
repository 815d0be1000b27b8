"""The world of Pocket Diffusion: emoji on plain backgrounds, and the sentences that describe them.

A scene is one large object, or two small ones beside or above each other, in one of four drawing
styles on one of ten plain colours. Everything is drawn from `images/sprites`, so no network is needed.
"""

import csv
import functools
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SPRITES = Path(__file__).resolve().parent.parent / "images" / "sprites"
STYLES = ("flat", "glossy", "noto", "twemoji")
RELATIONS = ("left of", "right of", "above", "below")
SIZE = 128  # pixels, both sides of a scene and of a sprite in the atlas
ATLAS_COLUMNS = 16

# Words that English uses without an article.
PLURALS = frozenset({"cherries", "fries", "grapes", "scissors"})


def _read(name: str) -> list[dict[str, str]]:
    with open(SPRITES / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


WORDS = tuple(row["word"] for row in _read("concepts.tsv"))
BACKGROUNDS = {row["name"]: (int(row["r"]), int(row["g"]), int(row["b"])) for row in _read("backgrounds.tsv")}


@dataclass(frozen=True)
class Scene:
    """What one picture shows; `draw` makes the picture and `caption` the sentence.

    words: one or two of `WORDS`; the first stands where `relation` says, seen from the second.
    sizes: side of each object in pixels. centres: (x, y) of each object in pixels, y downwards.
    """

    words: tuple[str, ...]
    style: str
    background: str
    relation: str | None
    sizes: tuple[int, ...]
    centres: tuple[tuple[int, int], ...]

    def caption(self, *, background: bool = True, style: bool = True) -> str:
        """The sentence for this scene; either phrase can be left out."""
        return caption(
            self.words,
            relation=self.relation,
            background=self.background if background else None,
            style=self.style if style else None,
        )

    def held_out(self) -> bool:
        """True if any of its (word, style) pairs is kept out of U-Net training."""
        return any(held_out(word, self.style) for word in self.words)


def with_article(word: str) -> str:
    """`a fox`, `an owl`, `grapes`."""
    if word in PLURALS:
        return word
    return f"an {word}" if word[0] in "aeiou" and word != "unicorn" else f"a {word}"


def caption(
    words: tuple[str, ...], *, relation: str | None = None, background: str | None = None, style: str | None = None
) -> str:
    """The sentence of the grammar, such as `a fox left of a pizza on a white background, glossy style`."""
    text = f" {relation} ".join(with_article(word) for word in words)
    if background:
        text += f" on {with_article(background)} background"
    if style:
        text += f", {style} style"
    return text


def held_out(word: str, style: str) -> bool:
    """True for the one pair in twenty that U-Net training never sees, so that composing it can be measured."""
    return zlib.crc32(f"{word}|{style}".encode()) % 20 == 0


@functools.cache
def _atlas() -> np.ndarray:
    with Image.open(SPRITES / "sprites.webp") as image:
        return np.asarray(image.convert("RGBA"))


def sprite(word: str, style: str) -> Image.Image:
    """The emoji for a word in a style: RGBA, 128 x 128 pixels, transparent around the object."""
    if word not in WORDS:
        raise ValueError(f"Unknown word {word!r}: choose one of {', '.join(WORDS)}")
    if style not in STYLES:
        raise ValueError(f"Unknown style {style!r}: choose one of {', '.join(STYLES)}")
    row, column = divmod(WORDS.index(word) * len(STYLES) + STYLES.index(style), ATLAS_COLUMNS)
    tile = _atlas()[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]
    return Image.fromarray(tile)


@functools.lru_cache(maxsize=8192)
def _resized(word: str, style: str, size: int) -> Image.Image:
    return sprite(word, style).resize((size, size), Image.Resampling.LANCZOS)


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, 128 x 128 pixels."""
    picture = Image.new("RGB", (SIZE, SIZE), BACKGROUNDS[scene.background])
    for word, size, (x, y) in zip(scene.words, scene.sizes, scene.centres, strict=True):
        item = _resized(word, scene.style, size)
        picture.paste(item, (x - size // 2, y - size // 2), item)
    return picture


def random_scene(rng: np.random.Generator, *, objects: int, allow_held_out: bool = False) -> Scene:
    """A scene with `objects` (1 or 2) objects, everything else drawn from `rng`.

    Two objects always have two different words. Scenes with a held-out (word, style) pair are drawn
    again unless `allow_held_out`. Raises ValueError for any other number of objects.
    """
    if objects not in (1, 2):
        raise ValueError(f"A scene has 1 or 2 objects, not {objects}")
    while True:
        words = tuple(str(word) for word in rng.choice(WORDS, size=objects, replace=False))
        style = str(rng.choice(STYLES))
        if allow_held_out or not any(held_out(word, style) for word in words):
            break
    background = str(rng.choice(list(BACKGROUNDS)))
    return place_scene(words, style, background, str(rng.choice(RELATIONS)) if objects == 2 else None, rng)


def place_scene(
    words: tuple[str, ...], style: str, background: str, relation: str | None, rng: np.random.Generator
) -> Scene:
    """A scene with what it shows given, and sizes and places drawn from `rng`.

    One object is 96 to 104 pixels wide and centred, two are 55 to 59 pixels wide and stand centred in
    the two halves, each a few pixels off.
    """
    middle, near, far = SIZE // 2, SIZE // 4, 3 * SIZE // 4
    if relation is None:
        sizes, jitter, places = rng.integers(96, 105, size=1), 3, [(middle, middle)]
    else:
        first, second = (near, far) if relation in ("left of", "above") else (far, near)
        places = [(first, middle), (second, middle)]
        if relation in ("above", "below"):
            places = [(y, x) for x, y in places]
        sizes, jitter = rng.integers(55, 60, size=2), 2
    shifts = rng.integers(-jitter, jitter + 1, size=(len(places), 2))
    centres = tuple((int(x + dx), int(y + dy)) for (x, y), (dx, dy) in zip(places, shifts, strict=True))
    return Scene(words, style, background, relation, tuple(int(size) for size in sizes), centres)
