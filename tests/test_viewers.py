"""The step viewer: the slider shows the frame and the label of its step."""

import io

import numpy as np
import pytest
from PIL import Image

from helpers.viewers import step_viewer

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
FRAMES = [Image.new("RGB", (8, 8), colour) for colour in COLOURS]
LABELS = ["t = 3", "t = 2", "t = 1"]


def shown(viewer, column=0):
    """The colour of a viewer's picture, its size, and the label beside the slider."""
    controls, columns = viewer.children
    picture = Image.open(io.BytesIO(columns.children[column].children[1].value))
    return tuple(np.asarray(picture)[0, 0]), picture.size, controls.children[2].value


def test_slider_shows_each_step():
    viewer = step_viewer(FRAMES, LABELS, side=20)
    slider = viewer.children[0].children[1]
    assert shown(viewer) == ((255, 0, 0), (16, 16), "t = 3")
    for step in (2, 1, 0):
        slider.value = step
        assert shown(viewer) == (COLOURS[step], (16, 16), LABELS[step])


def test_pictures_side_by_side_change_together():
    viewer = step_viewer(list(zip(FRAMES, FRAMES[::-1], strict=True)), LABELS, names=("x_t", "x0"))
    viewer.children[0].children[1].value = 2
    assert (shown(viewer, 0)[0], shown(viewer, 1)[0]) == (COLOURS[2], COLOURS[0])
    assert [column.children[0].value for column in viewer.children[1].children] == ["x_t", "x0"]


@pytest.mark.parametrize(
    ("frames", "labels", "names", "sentence"),
    [
        ([], [], ("",), "no frames"),
        (FRAMES, LABELS[:2], ("",), "3 frames and 2 labels"),
        (FRAMES, LABELS, ("x_t", "x0"), "needs 2 pictures"),
    ],
)
def test_refuses_what_does_not_match(frames, labels, names, sentence):
    with pytest.raises(ValueError, match=sentence):
        step_viewer(frames, labels, names=names)
