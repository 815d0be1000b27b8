"""Widgets for stepping through a run: a slider and a play button over pictures that were made beforehand.

Built from `widgets.Image`, a slider and `observe`, so that a notebook stores no picture twice and every frame is
ready before the slider moves.
"""

import io
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
from PIL import Image

from helpers.plots import as_picture

INTERVAL = 250  # milliseconds between frames while playing


def _png(picture: Any, side: int) -> bytes:
    image = Image.fromarray(as_picture(picture))
    scale = max(1, side // max(image.size))
    enlarged = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    enlarged.save(buffer, format="PNG")
    return buffer.getvalue()


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
    play = widgets.Play(value=0, min=0, max=len(rows) - 1, interval=INTERVAL)
    label = widgets.Label(value=labels[0])
    images = [widgets.Image(value=data, format="png") for data in pictures[0]]

    def show(change: dict) -> None:
        for image, data in zip(images, pictures[change["new"]], strict=True):
            image.value = data
        label.value = labels[change["new"]]

    slider.observe(show, names="value")
    widgets.jslink((play, "value"), (slider, "value"))
    columns = [widgets.VBox([widgets.Label(value=name), image]) for name, image in zip(names, images, strict=True)]
    viewer = widgets.VBox([widgets.HBox([play, slider, label]), widgets.HBox(columns)])
    viewer.add_class("step-viewer")
    return viewer
