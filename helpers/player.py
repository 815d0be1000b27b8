"""The player of a viewer: one piece of HTML with all frames, a slider and a play button, that needs no kernel.

`player.html` beside this file holds its looks and its script. Where no script may run it shows nothing, and the film
of `film` stands there; where one may, the player takes the film's place.
"""

import base64
import html
import json
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.film import Reel
from helpers.plots import picture_file

PLAYER_BYTES = 45_000  # a third more as text in a notebook
# Pictures are stored without loss if all of them fit. Else photograph-like ones at the first of these qualities that
# fits, or the last, and small ones, such as latents, with colours in steps of the number beside it.
# Measured on Pocket's run of "a fox on a blue background" over 20 steps: decoded pictures differ by 31 dB at
# 80 and by 29 dB at 40 (noise by 30 and 27 dB), mostly in the finest colours; latents by 41 dB at 6 and 37 dB at 12.
QUALITIES = ((90, 4), (80, 6), (65, 8), (50, 10), (40, 12), (30, 16))
SMALL = 64  # pixels of the shorter side: lossy WebP halves the resolution of colours, which shows in large dots
END = 48  # characters at the end of the film's file, its checksum among them, by which the player finds it
TEMPLATE = Path(__file__).with_name("player.html")


def player(reel: Reel, film: bytes, width: int, height: int) -> str:
    """The HTML of a reel's player. film, width, height: of the film above it, which it hides."""
    unique: dict[tuple, int] = {}
    pictures: list[np.ndarray] = []
    frames: list[list[int]] = []
    for row in reel.pictures:
        frames.append([])
        for picture in row:
            number = unique.setdefault((picture.shape, picture.tobytes()), len(pictures))
            if number == len(pictures):
                pictures.append(picture)
            frames[-1].append(number)
    data = {
        "labels": reel.labels,
        "names": reel.names,
        "rows": reel.rows,
        "sizes": reel.sizes,
        "smooth": [factor == 1 for factor in reel.factors],
        "frames": frames,
        "pictures": [_address(file) for file in compressed(pictures)],
        "film": {"end": f"base64,{base64.b64encode(film).decode()[-END:]}", "width": width, "height": height},
        "alt": reel.alt,
    }
    if (curve := reel.curve) is not None:
        source = _address(_lossless(curve.picture))
        data["curve"] = {"source": source, "width": curve.width, "height": curve.height, "points": curve.points}
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # a label may say </script>
    return TEMPLATE.read_text(encoding="utf-8").replace("DATA", text, 1).replace("ALT", html.escape(reel.alt), 1)


def compressed(pictures: list[np.ndarray]) -> list[bytes]:
    """The files of pictures, uint8 (height, width, 3), as WebP: without loss, or in about `PLAYER_BYTES`."""
    exact = files = [_lossless(picture) for picture in pictures]
    for quality, step in QUALITIES:
        if sum(map(len, files)) <= PLAYER_BYTES:
            break
        smaller = [
            _lossless(_stepped(picture, step))
            if min(picture.shape[:2]) <= SMALL
            else picture_file(Image.fromarray(picture), "WEBP", quality=quality)
            for picture in pictures
        ]
        files = [min(pair, key=len) for pair in zip(exact, smaller, strict=True)]
    return files


def _stepped(picture: np.ndarray, step: int) -> np.ndarray:
    """The picture in fewer colours, counted from white, so that a white ground stays white."""
    return (255 - np.rint((255 - picture) / step) * step).clip(0).astype(np.uint8)


def _lossless(picture: np.ndarray) -> bytes:
    """A WebP file that holds every pixel."""
    return picture_file(Image.fromarray(picture), "WEBP", lossless=True, quality=30, method=2)


def _address(file: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(file).decode()}"
