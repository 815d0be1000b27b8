"""Figures, tested by their numbers: sizes, pixels, colours, and what a notebook would store."""

import base64
import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from helpers import plots, scenes


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [scenes.draw(scenes.random_scene(rng, objects=1 + index % 2)) for index in range(12)]


@pytest.fixture
def shown(monkeypatch):
    """What `show` hands to the notebook."""
    outputs = []
    monkeypatch.setattr(plots, "get_ipython", lambda: object())
    monkeypatch.setattr(plots, "display", lambda data, **options: outputs.append((data, options)))
    return outputs


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def test_the_three_kinds_of_picture_agree():
    colours = np.array([[[255, 0, 51], [0, 102, 255]]], np.uint8)  # (1, 2, 3)
    tensor = torch.from_numpy(colours).permute(2, 0, 1).float() / 127.5 - 1
    for same in (Image.fromarray(colours), colours, colours / 255.0, (colours / 255).astype(np.float32), tensor):
        np.testing.assert_array_equal(plots.as_picture(same), colours)


def test_transparent_becomes_white_and_noise_is_clipped():
    assert (plots.as_picture(Image.new("RGBA", (2, 2), (0, 0, 0, 0))) == 255).all()
    assert plots.as_picture(torch.tensor([-4.0, 0.0, 4.0]).view(3, 1, 1)).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_sixteen_bits_become_eight_and_nothing_is_clipped(kind):
    gray = np.array([[0, 100 * 257, 65535]], kind)
    assert plots.as_picture(Image.fromarray(gray)).tolist() == [[[0] * 3, [100] * 3, [255] * 3]]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_a_pillow_picture_of_unknown_range_is_refused(mode):
    with pytest.raises(ValueError, match=f"mode '{mode}' does not say what white is"):
        plots.as_picture(Image.new(mode, (2, 2)))


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((3, 8, 8)), r"\(height, width, 3\), not \(3, 8, 8\)"),
        (np.zeros((0, 8, 3)), r"\(height, width, 3\), not \(0, 8, 3\)"),
        (np.zeros((8, 8, 3), np.int64), "not int64"),
        (np.full((8, 8, 3), -0.5), "holds 0 to 1, not -0.5 to -0.5"),
        (np.full((8, 8, 3), np.nan), "holds 0 to 1"),
        (torch.zeros(1, 3, 8, 8), r"not \(1, 3, 8, 8\); show a batch one by one"),
        (torch.zeros(3, 8, 0), r"\(3, height, width\), not \(3, 8, 0\)"),
        (torch.zeros(8, 8, 3), r"\(3, height, width\), not \(8, 8, 3\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "not torch.uint8"),
        (torch.full((3, 8, 8), 200.0), "about -1 to 1, not 200 to 200"),
        (torch.full((3, 8, 8), float("nan")), "about -1 to 1"),
    ],
)
def test_other_pictures_are_refused(x, says):
    with pytest.raises(ValueError, match=says):
        plots.as_picture(x)


def test_what_is_no_picture_is_refused():
    with pytest.raises(TypeError, match="not str"):
        plots.as_picture("picture.png")


def test_a_grid_draws_pictures_dot_for_dot(pictures):
    figure = plots.picture_grid(pictures[:3])
    drawn = pixels(figure)
    box = figure.axes[1].get_window_extent()
    left, top = round(box.x0), round(drawn.shape[0] - box.y1)
    inside = drawn[top : top + 128, left : left + 128].astype(int)
    assert (round(box.width), round(box.height)) == (128, 128)
    assert np.abs(inside - np.asarray(pictures[1], int)).max() <= 1


@pytest.mark.parametrize(("count", "columns", "shape"), [(3, None, (1, 3)), (12, None, (2, 6)), (5, 2, (3, 2))])
def test_a_grid_has_the_columns_asked_for(pictures, count, columns, shape):
    figure = plots.picture_grid(pictures[:count], columns=columns)
    places = [axis.get_position() for axis in figure.axes]
    assert len({round(place.y0, 4) for place in places}) == shape[0]
    assert len({round(place.x0, 4) for place in places}) == shape[1]
    assert sum(len(axis.images) for axis in figure.axes) == count


def test_long_titles_are_wrapped_and_stay_in_the_figure(pictures):
    title = "a fox left of a pizza on a white background, glossy style"
    figure = plots.picture_grid(pictures[:2], [title, "short"])
    assert figure.axes[0].get_title().replace("\n", " ") == title
    figure.canvas.draw()
    for axis in figure.axes:
        box = axis.title.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (([],), {}, "no pictures"),
        (([Image.new("RGB", (8, 8))], ["a", "b"]), {}, "1 pictures and 2 titles"),
        (([Image.new("RGB", (8, 8))],), {"columns": 0}, "at least 1 column, not 0"),
        (([Image.new("RGB", (8, 8))],), {"size": 0}, "above 0, not 0"),
    ],
)
def test_a_grid_that_cannot_be_drawn_is_refused(arguments, options, says):
    with pytest.raises(ValueError, match=says):
        plots.picture_grid(*arguments, **options)


def test_a_film_strip_is_one_row_with_labels_and_a_title(pictures):
    figure = plots.film_strip(pictures[:6], [f"t = {t}" for t in range(6)], "From noise to picture")
    assert [axis.get_title() for axis in figure.axes] == [f"t = {t}" for t in range(6)]
    assert len({round(axis.get_position().y0, 4) for axis in figure.axes}) == 1
    figure.canvas.draw()
    title, frame = figure.texts[0].get_window_extent(), figure.axes[0].title.get_window_extent()
    assert title.y1 <= figure.bbox.y1
    assert title.y0 >= frame.y1
    assert round(figure.axes[0].get_window_extent().height) == 128


def test_curves_have_labels_and_distinct_lines():
    lines = {f"line {index}": torch.linspace(1, 2 + index, 10) for index in range(9)}
    figure = plots.curves(range(10), lines, xlabel="step t", ylabel="time (s)", logy=True)
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_yscale()) == ("step t", "time (s)", "log")
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == 9
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(lines)


def test_one_line_without_a_label_has_no_legend():
    figure = plots.curves([0, 1], {"": [1, 2]}, xlabel="x", ylabel="y")
    assert figure.axes[0].get_legend() is None


def test_lines_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"'loss' has the shape \(3,\), but x has \(2,\)"):
        plots.curves([0, 1], {"loss": [1, 2, 3]}, xlabel="x", ylabel="y")
    with pytest.raises(ValueError, match="no lines"):
        plots.curves([0, 1], {}, xlabel="x", ylabel="y")


def test_figures_are_white_with_black_text_whatever_the_style():
    with plt.style.context("dark_background"):
        figure = plots.curves([0, 1], {"a": [1, 2]}, xlabel="x", ylabel="y")
        drawn = pixels(figure)
        grid = plots.picture_grid([Image.new("RGB", (8, 8))], ["title"])
    assert drawn[0, 0].tolist() == [255, 255, 255]
    assert drawn.min() == 0
    assert figure.axes[0].xaxis.label.get_color() == "black"
    assert grid.axes[0].title.get_color() == "black"


def test_show_stores_the_picture_with_its_description_and_closes(pictures, shown):
    figure = plots.picture_grid(pictures, [f"picture {index}" for index in range(12)])
    plots.show(figure, "Twelve scenes < of emoji.")
    assert not plt.get_fignums()

    (data, options), (text, _) = shown
    (kind,) = data.keys() - {"text/plain"}
    assert data["text/plain"] == "Twelve scenes < of emoji."
    assert options["metadata"][kind]["alt"] == "Twelve scenes < of emoji."
    assert "Twelve scenes &lt; of emoji." in text["text/html"]
    file = base64.b64decode(data[kind])
    assert len(file) < 100_000
    with Image.open(io.BytesIO(file)) as image:
        assert image.width == options["metadata"][kind]["width"]


@pytest.mark.parametrize("noise", [False, True])
def test_what_is_stored_looks_like_the_figure(pictures, shown, noise):
    if noise:
        torch.manual_seed(0)
        pictures = [torch.randn(3, 128, 128) for _ in range(12)]
    figure = plots.picture_grid(pictures)
    drawn = pixels(figure).astype(float)
    plots.show(figure, "A test.")
    data = shown[0][0]
    (kind,) = data.keys() & {"image/png", "image/jpeg"}
    with Image.open(io.BytesIO(base64.b64decode(data[kind]))) as image:
        stored = np.asarray(image.convert("RGB"), float)
    psnr = 10 * np.log10(255**2 / (np.mean((stored - drawn) ** 2) + 1e-9))
    assert psnr > (20 if noise else 38)
    assert len(data[kind]) < 500_000


def test_show_needs_a_description(pictures):
    with pytest.raises(ValueError, match="needs a description"):
        plots.show(plots.picture_grid(pictures[:1]), " ")


def test_outside_a_notebook_the_description_is_printed(pictures, capsys):
    plots.show(plots.picture_grid(pictures[:1]), "One scene.")
    assert capsys.readouterr().out == "One scene.\n"
