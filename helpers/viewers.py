"""Viewers: pictures made beforehand, to step through with a slider or to watch, and one that a long loop renews.

A viewer leaves two things in the notebook: a film (`film`), for pages where no script may run, and a player (`player`),
which takes its place where one may. Neither needs a kernel.
"""

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import get_ipython
from IPython.display import DisplayHandle, display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from helpers.film import FILM_BYTES, Curve, Reel, enlargement, film
from helpers.latents import channel_pictures, decode
from helpers.player import player
from helpers.plots import as_picture, figure_file, picture_file
from helpers.sampling import Run, Step

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

LIMIT = 3.0  # the strongest colour of latents and noise: all but 3 in 1000 numbers of a standard normal lie within
ENLARGED = 10  # times as strong: what the words change in a prediction
GAP = 1  # pixels between the channels of a latent
BETWEEN = 4  # pixels between the pictures of a training
COLOURS = 64  # of a picture that a training shows
DOTS = 80  # pixels of the page to an inch of a figure


class StepViewer:
    """A viewer as `step_viewer` makes it: as the last line of a cell, or given to `display`, it is shown.

    film: the bytes of an animated PNG of `width` x `height` pixels. html: the player. alt: what both show.
    """

    def __init__(self, reel: Reel, film_bytes: int = FILM_BYTES) -> None:
        self.alt = reel.alt
        self.film, self.width, self.height = film(reel, film_bytes)
        self.html = player(reel, self.film, self.width, self.height)

    def __repr__(self) -> str:
        return self.alt

    def _ipython_display_(self) -> None:
        """The film and the player as two outputs: of one with both, a page shows the HTML only, and in a notebook
        that is not trusted yet JupyterLab removes scripts and pictures from that.
        """
        if get_ipython() is None:  # a plain script: there is nowhere to show a picture
            print(self.alt)
            return
        picture = {"image/png": base64.b64encode(self.film).decode(), "text/plain": self.alt}
        display(picture, raw=True, metadata={"image/png": {"alt": self.alt, "width": self.width}})
        display({"text/html": self.html, "text/plain": self.alt}, raw=True)


def step_viewer(
    frames: Sequence[Any],
    labels: Sequence[str],
    *,
    names: Sequence[str] = ("",),
    rows: Sequence[str] = ("",),
    curve: tuple[Figure, Sequence[tuple[float, float] | None]] | None = None,
    side: int = 256,
    alt: str | None = None,
    film_bytes: int = FILM_BYTES,
) -> StepViewer:
    """A slider over the steps of a run, with a play button.

    frames: for each step a picture, or a tuple of as many side by side as there are `names`; with several `rows` a
        tuple of such tuples, one for each. What a picture may be is said in `plots.as_picture`.
    labels: for each step what it is, such as `step 3 of 20, t = 751`; shown beside the slider.
    names: what stands above each of the pictures. rows: what stands to the left of each row.
    curve: a figure of one pair of axes, and for each step the point (x, y) on it that is marked, in the units of its
        axes, or None for none. The figure is closed.
    side: pictures are enlarged by a whole factor up to this many pixels.
    alt: what there is to see, for those who do not see it; by default the labels' ends and the names.

    film_bytes: what the film may take; more keep more colours and frames.

    A film of at most 12 of the steps takes its place where no script may run. Together they take about 120 kB of a
    notebook, for which pictures are compressed as far as it needs; five pictures in each of 20 steps take more.

    Raises ValueError if there are no frames, or labels, names, rows or points do not match them.
    """
    labels, names, rows = list(labels), tuple(names), tuple(rows)
    grids = [_grid(frame, len(rows)) for frame in frames]
    if not grids:
        raise ValueError("There are no frames to step through: give at least one")
    if len(labels) != len(grids):
        raise ValueError(f"There are {len(grids)} frames and {len(labels)} labels: give one label for each")
    if any(len(grid) != len(rows) for grid in grids):
        raise ValueError(f"Every frame needs {len(rows)} tuples of pictures, one for each of the rows {rows}")
    if not names or any(len(row) != len(names) for grid in grids for row in grid):
        raise ValueError(f"Every frame needs {len(names)} pictures, one for each of the names {names}")
    pictures = [[as_picture(picture) for row in grid for picture in row] for grid in grids]
    factors = [enlargement(picture, side) for picture in pictures[0]]
    if alt is None:
        shown = " | ".join(name for name in (*rows, *names) if name)
        alt = f"From {labels[0]} to {labels[-1]}, {len(labels)} frames" + (f": {shown}" if shown else "")
    drawn = None if curve is None else _curve(*curve, len(labels))
    return StepViewer(Reel(pictures, labels, names, rows, factors, drawn, alt), film_bytes)


def _grid(frame: Any, rows: int) -> list[list[Any]]:
    """The pictures of a frame as rows of pictures."""
    whole = list(frame) if isinstance(frame, (list, tuple)) else [frame]
    if rows == 1:
        return [whole]
    return [list(row) if isinstance(row, (list, tuple)) else [row] for row in whole]


def _curve(figure: Figure, points: Sequence[tuple[float, float] | None], count: int) -> Curve:
    """The figure as a picture, and where in it the points are. Closes the figure."""
    if len(points) != count:
        raise ValueError(f"There are {count} frames and {len(points)} points on the curve: give one for each")
    picture = as_picture(_opened(figure_file(figure)))  # drawn first, because a layout moves the axes
    (axes,) = figure.axes
    places = []
    for point in points:
        x, y = (0, 0) if point is None else axes.transAxes.inverted().transform(axes.transData.transform(point))
        box = axes.get_position()
        place = (float(box.x0 + x * box.width), float(1 - box.y0 - y * box.height))
        places.append(None if point is None else place)
    plt.close(figure)
    return Curve(picture, round(figure.get_size_inches()[0] * DOTS), places)


def run_viewer(
    pipe: "StableDiffusionPipeline",
    steps: Sequence[Step],
    *,
    picture: int = 0,
    side: int = 128,
    alt: str | None = None,
    film_bytes: int = FILM_BYTES,
) -> StepViewer:
    """A slider over the steps of a run, with all that is known at each, as in `run(...).steps` or from `denoise`.

    Latents are drawn channel by channel, two in a row, blue below zero, white at zero, red above. From the left:
        "x_t": what the U-Net is shown, on the scale from -3 to 3. Samplers such as Euler, whose own latents are
            larger, divide them before they show them, and so does this column.
        "predicted noise": the guided one, on the same scale.
        "words change × 10": the prediction with words minus that without, ten times as strong as the others, for it is
            small. Left out of a run without guidance.
        "x_t decoded": the VAE's picture of x_t. "x0 estimate": its picture of the clean latents the noise implies.

    steps: in any number, also a part of a run: `result.steps[::2]`. picture: which one of the batch.
    side: of the pictures, in pixels: larger ones are made smaller, smaller ones enlarged by a whole factor.
    alt, film_bytes: as in `step_viewer`.

    Everything is decoded and drawn in this call. Raises ValueError for no steps, or a picture that the batch lacks.
    """
    if isinstance(steps, Run):
        raise ValueError("steps is a Run: give its list of steps, as in run_viewer(pipe, result.steps)")
    steps = list(steps)
    if not steps:
        raise ValueError("There are no steps to look at: give at least one")
    batch = len(steps[0].latents)
    if not 0 <= picture < batch:
        raise ValueError(
            f"picture is {picture!r}: this run has {batch}, so choose a whole number from 0 to {batch - 1}"
        )

    chosen = slice(picture, picture + 1)
    x_t = [_as_shown(step.latents[chosen], step.noise[chosen], step.x0[chosen]) for step in steps]
    columns = {
        "x_t": [_tiles(x, LIMIT) for x in x_t],
        "predicted noise": [_tiles(step.noise[chosen], LIMIT) for step in steps],
    }
    if all(step.noise_uncond is not None for step in steps):
        changes = [(step.noise_text - step.noise_uncond)[chosen].float() for step in steps]
        columns[f"words change × {ENLARGED}"] = [_tiles(change, LIMIT / ENLARGED) for change in changes]
    columns["x_t decoded"] = [_sized(image, side) for image in decode(pipe, torch.cat(x_t))]
    columns["x0 estimate"] = [_sized(image, side) for image in decode(pipe, torch.cat([s.x0[chosen] for s in steps]))]

    whole = [step.index for step in steps] == list(range(len(steps)))  # as far as one can tell
    of = f" of {len(steps)}" if whole else ""
    labels = [f"step {step.index + 1}{of}, t = {step.t:g}" for step in steps]
    frames = list(zip(*columns.values(), strict=True))
    return step_viewer(frames, labels, names=tuple(columns), side=side, alt=alt, film_bytes=film_bytes)


def _as_shown(x: Tensor, eps: Tensor, x0: Tensor) -> Tensor:
    """x in the scale in which the U-Net sees it: p x0 + q eps with p² + q² = 1.

    Every sampler's latents are p x0 + q eps: with Euler p is 1 and q is sigma, so that x is divided by the square
    root of 1 + sigma². A Step does not say which sampler it comes from, so p and q are solved for.
    """
    parts = torch.stack([x0.flatten(), eps.flatten()], dim=1).cpu().double()  # (numbers, 2)
    scale = torch.linalg.lstsq(parts, x.flatten()[:, None].cpu().double()).solution.norm()
    return x / float(scale) if scale > 0 else x  # all zero: any scale will do


def _tiles(latents: Tensor, limit: float) -> np.ndarray:
    """The channels of one picture's latents (1, C, h, w) in one picture, in rows of equal length."""
    channels, _ = channel_pictures(latents, limit=limit)
    across = math.ceil(math.sqrt(len(channels)))
    height, width, _ = channels[0].shape
    rows = math.ceil(len(channels) / across)
    tiles = np.full((rows * (height + GAP) - GAP, across * (width + GAP) - GAP, 3), 255, np.uint8)
    for index, channel in enumerate(channels):
        top, left = (index // across) * (height + GAP), (index % across) * (width + GAP)
        tiles[top : top + height, left : left + width] = channel
    return tiles


def _sized(image: Image.Image, side: int) -> Image.Image:
    """The picture with at most `side` pixels along its longer side: a large model's would not fit beside each other."""
    scale = min(1.0, side / max(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


class LiveViewer:
    """A line of text, a curve and pictures that a long loop renews while it runs: `display` it first, then `renew` it.

    What was shown last stays in the notebook, as a picture with a line above it; it is shown once.

    label: the line before the first `renew`.
    """

    def __init__(self, label: str = "not started"):
        self.label, self.picture = label, Image.new("RGB", (8, 8), "white")
        self._line: DisplayHandle | None = None
        self._place: DisplayHandle | None = None

    def __repr__(self) -> str:
        return self.label

    def _ipython_display_(self) -> None:
        if get_ipython() is None:  # a plain script: there is nowhere to show a picture
            print(self.label)
            return
        line, (picture, metadata) = self._outputs()
        self._line = display(line, raw=True, display_id=True)
        self._place = display(picture, raw=True, metadata=metadata, display_id=True)

    def _outputs(self) -> tuple[dict, tuple[dict, dict]]:
        """What is shown: the line, and the picture with its metadata."""
        # A saved notebook keeps the last picture, so it is made small.
        file = self.picture.quantize(COLOURS, dither=Image.Dither.NONE)
        file = base64.b64encode(picture_file(file)).decode()
        width, height = self.picture.size
        # Both sides are said, so that nothing below jumps while one picture gives way to the next.
        about = {"alt": self.label, "width": width, "height": height}
        return {"text/plain": self.label}, ({"image/png": file, "text/plain": self.label}, {"image/png": about})

    def renew(self, label: str, figure: Figure, pictures: Sequence[Any], *, columns: int = 4) -> None:
        """Show another state, and close the figure.

        pictures: at least one, all of one size; what a picture may be is said in `plots.as_picture`.
        columns: pictures in a row.

        Raises ValueError for no pictures.
        """
        if not pictures:
            raise ValueError("There are no pictures to show: give at least one")
        curve = _opened(figure_file(figure))
        plt.close(figure)
        tiles = [as_picture(picture) for picture in pictures]
        height, width, _ = tiles[0].shape
        left = curve.width + BETWEEN
        rows, across = math.ceil(len(tiles) / columns), min(columns, len(tiles))
        size = (left + across * (width + BETWEEN), max(curve.height, rows * (height + BETWEEN)))
        self.label, self.picture = label, Image.new("RGB", size, "white")
        self.picture.paste(curve)
        for index, tile in enumerate(tiles):
            row, column = divmod(index, columns)
            place = (left + column * (width + BETWEEN), row * (height + BETWEEN))
            self.picture.paste(Image.fromarray(tile), place)
        if self._line is not None:
            line, (picture, metadata) = self._outputs()
            self._line.update(line, raw=True)
            self._place.update(picture, raw=True, metadata=metadata)


def _opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")
