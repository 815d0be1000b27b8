"""The diagram of a U-Net: a box for every tensor, as high and wide as its shape says, an arrow for every skip."""

import itertools

import matplotlib.pyplot as plt
import pytest

from helpers.diagrams import unet_diagram

DOWN = [(64, 16, 16), (64, 16, 16), (64, 8, 8), (128, 8, 8)]
MIDDLE = (128, 8, 8)
UP = [(128, 8, 8), (128, 8, 8), (64, 16, 16), (64, 16, 16)]


@pytest.fixture
def figure():
    figure = unet_diagram(DOWN, MIDDLE, UP)
    yield figure
    plt.close(figure)


def test_boxes_have_the_proportions_of_the_shapes(figure):
    boxes = figure.axes[0].patches[:9]
    for box, (channels, rows, _) in zip(boxes, [*DOWN, MIDDLE, *UP], strict=True):
        assert box.get_height() / boxes[0].get_height() == pytest.approx(rows / 16)
        assert box.get_width() / boxes[0].get_width() == pytest.approx(channels / 64)


def test_boxes_stand_beside_each_other_and_on_one_line_for_each_resolution(figure):
    boxes = figure.axes[0].patches[:9]
    for one, other in itertools.pairwise(boxes):
        assert one.get_x() + one.get_width() < other.get_x()
    feet = [box.get_y() for box in boxes]
    assert feet[0] == feet[1] == feet[7] == feet[8] > feet[2]
    assert len(set(feet[2:7])) == 1
    left, right = figure.axes[0].get_xlim()
    assert left < boxes[0].get_x()
    assert boxes[-1].get_x() + boxes[-1].get_width() <= right


def test_every_skip_has_an_arrow_to_its_partner(figure):
    boxes = figure.axes[0].patches[:9]
    centres = [box.get_x() + box.get_width() / 2 for box in boxes]
    ends = sorted((line.get_xdata()[0], line.get_xdata()[-1]) for line in figure.axes[0].lines)
    expected = [(centres[n], centres[8 - n]) for n in range(4)]
    assert [pytest.approx(pair) for pair in expected] == ends


def test_channels_and_resolutions_are_written(figure):
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in texts if text.isdigit()] == [str(shape[0]) for shape in [*DOWN, MIDDLE, *UP]]
    assert {"16 × 16", "8 × 8"} <= set(texts)


def test_four_levels_fit():
    """The shapes of Stable Diffusion 1.5."""
    levels = [(320, 64), (640, 32), (1280, 16), (1280, 8)]
    down = [(320, 64, 64)]
    for (channels, rows), (_, below) in zip(levels, [*levels[1:], (0, 0)], strict=True):
        down += [(channels, rows, rows)] * 2 + ([(channels, below, below)] if below else [])
    up = [(channels, rows, rows) for channels, rows in reversed(levels) for _ in range(3)]
    figure = unet_diagram(down, (1280, 8, 8), up)
    boxes = figure.axes[0].patches[:25]
    assert all(a.get_x() + a.get_width() < b.get_x() for a, b in itertools.pairwise(boxes))
    assert len(figure.axes[0].lines) == 12
    plt.close(figure)


@pytest.mark.parametrize(
    ("down", "up", "sentence"),
    [
        ([], [], "0 skips and 0 parts"),
        (DOWN, UP[:3], "4 skips and 3 parts"),
        (DOWN[:1], [(64, 8, 8)], r"Skip 0 joins \(64, 16, 16\) with \(64, 8, 8\)"),
    ],
)
def test_refuses_what_does_not_fit(down, up, sentence):
    with pytest.raises(ValueError, match=sentence):
        unet_diagram(down, MIDDLE, up)
