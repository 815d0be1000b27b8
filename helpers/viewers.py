"""Widgets for stepping through a run: a slider and a play button over pictures that were made beforehand.

Built from `widgets.Image`, a slider and `observe`, so that a notebook stores no picture twice and every frame is
ready before the slider moves.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from helpers.latents import channel_pictures, decode
from helpers.plots import as_picture, figure_file, picture_file
from helpers.sampling import Run, Step

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

INTERVAL = 250  # milliseconds between frames while playing
LIMIT = 3.0  # the strongest colour of latents and noise: all but 3 in 1000 numbers of a standard normal lie within
GAP = 2  # pixels between the channels of a latent


def _png(picture: Any, side: int) -> bytes:
    image = Image.fromarray(as_picture(picture))
    scale = max(1, side // max(image.size))
    return picture_file(image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST))


def step_viewer(
    frames: Sequence[Any],
    labels: Sequence[str],
    *,
    names: Sequence[str] = ("",),
    side: int = 256,
) -> widgets.VBox:
    """A slider over the steps of a run.

    frames: for each step a picture, or a tuple of as many side by side as there are `names`; what a picture may be is
        said in `plots.as_picture`.
    labels: for each step what it is, such as `step 3, t = 751`; shown beside the slider.
    names: what stands above each of the pictures.
    side: pictures are enlarged by a whole factor up to this many pixels.

    Raises ValueError if there are no frames, or labels or names do not match them.
    """
    rows = [list(frame) if isinstance(frame, (list, tuple)) else [frame] for frame in frames]
    if not rows:
        raise ValueError("There are no frames to step through: give at least one")
    if len(labels) != len(rows):
        raise ValueError(f"There are {len(rows)} frames and {len(labels)} labels: give one label for each")
    if any(len(row) != len(names) for row in rows):
        raise ValueError(f"Every frame needs {len(names)} pictures, one for each of the names {tuple(names)}")
    pictures = [[_png(picture, side) for picture in row] for row in rows]

    slider = widgets.IntSlider(
        value=0, min=0, max=len(rows) - 1, description="step", readout=False, layout=widgets.Layout(width="60%")
    )
    # Play's own buttons are icons without a name, which a screen reader cannot say: it is hidden behind one that has.
    play = widgets.Play(value=0, min=0, max=len(rows) - 1, interval=INTERVAL, layout=widgets.Layout(display="none"))
    button = widgets.ToggleButton(description="Play", icon="play", layout=widgets.Layout(width="auto"))
    label = widgets.Label(value=labels[0])
    images = [widgets.Image(value=data, format="png") for data in pictures[0]]

    def show(change: dict) -> None:
        for image, data in zip(images, pictures[change["new"]], strict=True):
            image.value = data
        label.value = labels[change["new"]]

    slider.observe(show, names="value")
    widgets.jslink((play, "value"), (slider, "value"))
    # ipywidgets 7, which Google Colab's page draws, keeps the trait under a private name.
    playing = "playing" if play.has_trait("playing") else "_playing"
    widgets.jslink((button, "value"), (play, playing))
    columns = [widgets.VBox([widgets.Label(value=name), image]) for name, image in zip(names, images, strict=True)]
    controls = [widgets.HBox([button, play]), slider, label]
    # In a narrow window both rows go on in a new line.
    viewer = widgets.VBox(
        [widgets.HBox(row, layout=widgets.Layout(flex_flow="row wrap")) for row in (controls, columns)]
    )
    viewer.add_class("step-viewer")
    return viewer


def run_viewer(
    pipe: "StableDiffusionPipeline", steps: Sequence[Step], *, picture: int = 0, side: int = 160
) -> widgets.VBox:
    """A slider over the steps of a run, with all that is known at each, as in `run(...).steps` or from `denoise`.

    Latents are drawn channel by channel, two in a row, blue below zero, white at zero, red above. From the left:
        "x_t": what the U-Net is shown, on the scale from -3 to 3. Samplers such as Euler, whose own latents are
            larger, divide them before they show them, and so does this column.
        "predicted noise": the guided one, on the same scale.
        "text - uncond": what the prompt changes in the prediction, on a scale that fits the largest change of the
            whole run, so that steps can be compared. Left out of a run without guidance.
        "x_t decoded": the VAE's picture of x_t. "x0 estimate": its picture of the clean latents the noise implies.

    steps: in any number, also a part of a run. picture: which one of the batch.
    side: of the pictures, in pixels; latents are enlarged by a whole factor up to it.

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
        "x_t": [_tiles(x, LIMIT, side) for x in x_t],
        "predicted noise": [_tiles(step.noise[chosen], LIMIT, side) for step in steps],
    }
    if all(step.noise_uncond is not None for step in steps):
        changes = [(step.noise_text - step.noise_uncond)[chosen].float() for step in steps]
        largest = max(float(change.abs().max()) for change in changes) or 1.0
        columns["text - uncond"] = [_tiles(change, largest, side) for change in changes]
    columns["x_t decoded"] = [_sized(image, side) for image in decode(pipe, torch.cat(x_t))]
    columns["x0 estimate"] = [_sized(image, side) for image in decode(pipe, torch.cat([s.x0[chosen] for s in steps]))]

    labels = [f"step {i} of {len(steps)}, t = {step.t:g}" for i, step in enumerate(steps, start=1)]
    return step_viewer(list(zip(*columns.values(), strict=True)), labels, names=tuple(columns), side=side)


def _as_shown(x: Tensor, eps: Tensor, x0: Tensor) -> Tensor:
    """x in the scale in which the U-Net sees it: p x0 + q eps with p² + q² = 1.

    Every sampler's latents are p x0 + q eps: with Euler p is 1 and q is sigma, so that x is divided by the square
    root of 1 + sigma². A Step does not say which sampler it comes from, so p and q are solved for.
    """
    parts = torch.stack([x0.flatten(), eps.flatten()], dim=1).cpu().double()  # (numbers, 2)
    scale = torch.linalg.lstsq(parts, x.flatten()[:, None].cpu().double()).solution.norm()
    return x / float(scale) if scale > 0 else x  # all zero: any scale will do


def _tiles(latents: Tensor, limit: float, side: int) -> np.ndarray:
    """The channels of one picture's latents (1, C, h, w) in one picture, in rows of equal length."""
    channels, _ = channel_pictures(latents, limit=limit)
    across = math.ceil(math.sqrt(len(channels)))
    height, width, _ = channels[0].shape
    rows = math.ceil(len(channels) / across)
    factor = max(1, side // max(across * width, rows * height))
    high, wide = height * factor, width * factor
    tiles = np.full((rows * (high + GAP) - GAP, across * (wide + GAP) - GAP, 3), 255, np.uint8)
    for index, channel in enumerate(channels):
        top, left = (index // across) * (high + GAP), (index % across) * (wide + GAP)
        tiles[top : top + high, left : left + wide] = channel.repeat(factor, axis=0).repeat(factor, axis=1)
    return tiles


def _sized(image: Image.Image, side: int) -> Image.Image:
    """The picture with `side` pixels along its longer side: those of a large model would not fit beside each other."""
    scale = side / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


class LiveViewer(widgets.VBox):
    """A line of text, a curve and pictures that a long loop renews while it runs: `display` it first, then `renew` it.

    Only the widgets change, so the cell's output stays the same, and a saved notebook keeps nothing of what was shown:
    draw a figure of the result after the loop.

    label: the line before the first `renew`.
    """

    def __init__(self, label: str = "not started"):
        self._label = widgets.Label(value=label)
        self._curve, self._pictures = (
            # In a narrow window a picture is as wide as the cell, and a margin would push it beyond.
            widgets.Image(
                value=_png(Image.new("RGB", (8, 8), "white"), 8), format="png", layout=widgets.Layout(margin="0")
            )
            for _ in range(2)
        )
        row = widgets.HBox([self._curve, self._pictures], layout=widgets.Layout(flex_flow="row wrap"))
        super().__init__([self._label, row])
        self.add_class("live-viewer")

    def renew(self, label: str, figure: Figure, pictures: Sequence[Any], *, columns: int = 4) -> None:
        """Show another state, and close the figure.

        pictures: at least one, all of one size; what a picture may be is said in `plots.as_picture`.
        columns: pictures in a row.

        Raises ValueError for no pictures.
        """
        if not pictures:
            raise ValueError("There are no pictures to show: give at least one")
        curve = figure_file(figure)
        plt.close(figure)
        tiles = [as_picture(picture) for picture in pictures]
        height, width, _ = tiles[0].shape
        sheet = Image.new("RGB", (columns * (width + GAP), math.ceil(len(tiles) / columns) * (height + GAP)), "white")
        for index, tile in enumerate(tiles):
            row, column = divmod(index, columns)
            sheet.paste(Image.fromarray(tile), (column * (width + GAP), row * (height + GAP)))
        self._curve.value = curve
        self._pictures.value = _png(sheet, max(sheet.size))
        self._label.value = label
