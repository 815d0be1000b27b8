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
from helpers.palette import INK, ROLES
from helpers.picture_grids import WIDEST


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [scenes.draw(scenes.random_scene(rng, things=1 + index % 2)) for index in range(12)]


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


def test_figures_are_light_with_dark_text_whatever_the_style(pictures):
    with plt.style.context("dark_background"):
        figure = plots.lines([0, 1], {"a": [1, 2]}, xlabel="x", ylabel="y")
        drawn = pixels(figure)
        grid = pixels(plots.grid([pictures[:1]], heads=["title"]))
    assert drawn[4, 4].min() > 240 and grid[4, 4].min() > 240
    assert figure.axes[0].xaxis.label.get_color() == INK


def test_show_stores_the_picture_with_its_caption_and_closes(pictures, shown):
    figure = plots.grid([pictures[:6], pictures[6:]], heads=[f"picture {index}" for index in range(6)])
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
    figure = plots.grid([pictures[:6], pictures[6:]])
    drawn = Image.fromarray(pixels(figure))
    plots.show(figure, "A test.")
    data = shown[0][0]
    (kind,) = data.keys() & {"image/png", "image/jpeg"}
    with Image.open(io.BytesIO(base64.b64decode(data[kind]))) as image:
        drawn = np.asarray(drawn.reduce(drawn.width // image.width), float)
        stored = np.asarray(image.convert("RGB"), float)
    psnr = 10 * np.log10(255**2 / (np.mean((stored - drawn) ** 2) + 1e-9))
    assert psnr > (17 if noise else 38), psnr
    assert len(data[kind]) < 500_000


def test_a_figure_that_may_take_more_keeps_twice_the_pixels_of_the_page(shown):
    torch.manual_seed(0)
    noise = torch.randn(3, 128, 128)
    plots.show(plots.grid([[noise]]), "At its usual size.")
    plots.show(plots.grid([[noise]]), "As sharp as it is drawn.", png_bytes=200_000)
    sizes = []
    for data, options in shown[::2]:
        (kind,) = data.keys() - {"text/plain"}
        with Image.open(io.BytesIO(base64.b64decode(data[kind]))) as image:
            sizes.append(image.width / options["metadata"][kind]["width"])
    assert sizes == [1, 2]


def test_show_needs_a_caption(pictures):
    with pytest.raises(ValueError, match="needs a caption"):
        plots.show(plots.grid([pictures[:1]]), " ")


def test_outside_a_notebook_the_caption_is_printed(pictures, capsys):
    plots.show(plots.grid([pictures[:1]]), "One scene.")
    assert capsys.readouterr().out == "One scene.\n"


def test_folded_numbers_are_printed_where_nothing_can_be_folded(capsys):
    plots.folded("The numbers", ["a 1", "b 2"])
    assert capsys.readouterr().out == "The numbers\na 1\nb 2\n"


def place(axis, figure):
    """Left, top, width and height of a tile, in pixels of the page."""
    box, scale = axis.get_window_extent(), figure.dpi / 80
    return [round(x / scale, 3) for x in (box.x0, figure.bbox.y1 - box.y1, box.width, box.height)]


def text_of(figure, wanted):
    (found,) = [text for text in figure.texts if text.get_text() == wanted]
    return found.get_window_extent()


def test_a_grid_shows_every_pixel_as_four_and_names_rows_and_columns_once(pictures):
    rows = [pictures[:3], pictures[3:6]]
    figure = plots.grid(
        rows, names=["first", "second"], heads=["a", "b", "c"], numbers=[["1", "2", "3"], ["", "", "6"]]
    )
    drawn = pixels(figure)
    assert [place(axis, figure)[2:] for axis in figure.axes] == [[128, 128]] * 6
    for axis, picture in zip(figure.axes, pictures, strict=False):
        left, top, *_ = (round(2 * x) for x in place(axis, figure))
        tile = drawn[top : top + 256, left : left + 256][2:-2, 2:-2]  # within the hairline
        np.testing.assert_array_equal(tile, np.asarray(picture).repeat(2, axis=0).repeat(2, axis=1)[2:-2, 2:-2])
    texts = sorted(text.get_text() for text in figure.texts)
    assert texts == sorted(["first", "second", "a", "b", "c", "1", "2", "3", "6"])
    for name, row in (("first", 0), ("second", 3)):
        box, tile = text_of(figure, name), figure.axes[row].get_window_extent()
        assert box.x1 < tile.x0 and tile.y0 < (box.y0 + box.y1) / 2 < tile.y1
    assert text_of(figure, "b").y0 > figure.axes[1].get_window_extent().y1
    assert text_of(figure, "6").y1 < figure.axes[5].get_window_extent().y0
    assert plots.faults(figure) == []


def test_maps_share_one_scale_that_is_drawn_once():
    one, two = np.array([[-1.0, 0.5]]), np.array([[0.25, 2.0]])
    figure = plots.grid([[plots.Map(one), plots.Map(two), Image.new("RGB", (8, 8))]])
    *tiles, bar = figure.axes
    assert [tile.images[0].get_clim() for tile in tiles[:2]] == [(-2, 2)] * 2
    assert [label.get_text() for label in bar.get_yticklabels()] == ["2", "0", "\N{MINUS SIGN}2"]
    assert place(bar, figure)[2] == 9
    sizes = plots.grid([[plots.Map(two, "sizes", limit=4)]], scale="of 255")
    (counts,) = sizes.axes[1].texts
    box, above = counts.get_window_extent(), sizes.axes[1].get_window_extent()
    assert counts.get_text() == "of 255" and box.y0 > above.y1 and box.x1 < sizes.bbox.x1
    assert plots.faults(sizes) == []
    assert sizes.axes[0].images[0].get_clim() == (0, 4)


def test_a_heat_map_has_a_cell_for_each_number_in_its_place():
    values = np.array([[0.0, 1.0, 2.0], [4.0, 0.0, 3.0]])
    names, heads = ["first", "second"], ["a", "", "c"]
    figure = plots.heat_map(plots.Map(values, "sizes"), names=names, heads=heads, cell=(40, 30))
    axis, bar = figure.axes
    assert place(axis, figure)[2:] == [120, 60] and axis.images[0].get_clim() == (0, 4)
    assert axis.images[0].get_array().tolist() == values.tolist()
    assert [label.get_text() for label in bar.get_yticklabels()] == ["4", "2", "0"]
    for name, row in (("first", 0), ("second", 1)):
        box, middle = text_of(figure, name), axis.transData.transform((0, row))[1]
        assert box.y0 < middle < box.y1 and box.x1 < axis.get_window_extent().x0
    box, middle = text_of(figure, "c"), axis.transData.transform((2, 0))[0]
    assert box.x0 < middle < box.x1
    assert plots.faults(figure) == []
    with pytest.raises(ValueError, match="3 names for 2 rows"):
        plots.heat_map(values, names=["a", "b", "c"])
    with pytest.raises(ValueError, match="30 columns of 36 pixels make a figure of"):
        plots.heat_map(np.zeros((2, 30)))


def test_a_difference_is_the_mean_over_colours():
    before = np.zeros((2, 1, 3), np.uint8)
    after = before.copy()
    after[1, 0] = (30, 0, 6)
    found = plots.difference(before, after)
    assert found.kind == "sizes" and found.values.tolist() == [[0], [12]]
    with pytest.raises(ValueError, match="cannot be compared"):
        plots.difference(before, after[:1])


def test_attention_is_green_where_the_share_is_largest_and_grey_where_there_is_none():
    picture = np.full((4, 4, 3), (200, 0, 100), np.uint8)
    drawn = plots.attention(picture, torch.tensor([[0.0, 0.2], [0.1, 0.0]]), largest=0.2)
    grey = 255 - 0.35 * (255 - 100)
    assert drawn[0, 0].tolist() == drawn[3, 3].tolist() == [round(grey)] * 3
    green = [int(ROLES["words"].ink[i : i + 2], 16) for i in (1, 3, 5)]
    assert drawn[1, 3].tolist() == green
    assert drawn[2, 1] == pytest.approx((np.array(green) + grey) / 2, abs=1)


def test_attention_of_layers_of_different_sizes_is_their_mean_without_squares():
    picture, coarse, fine = np.full((32, 32, 3), 255, np.uint8), np.zeros((2, 2)), np.zeros((8, 8))
    coarse[0, 0] = fine[1, 1] = 0.2
    red = plots.attention(picture, [coarse, fine], largest=0.2)[..., 0].astype(int)
    assert np.unravel_index(red.argmin(), red.shape) in {(y, x) for y in range(4, 8) for x in range(4, 8)}
    assert red[20:, 20:].min() > 250  # where neither looks
    steps = np.abs(np.diff(plots.attention(picture, [coarse, coarse], largest=0.2)[..., 0].astype(int), axis=0))
    assert steps.max() < 40  # of 244 from white to green: an edge between squares would be one step


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ([], {}, "no pictures"),
        ([["x"]], {"names": ["a", "b"]}, "2 names for 1 rows"),
        ([["x", "x"]], {"heads": ["a"]}, "1 heads for 2 columns"),
        ([["x"]], {"numbers": [[""], [""]]}, "2 numbers for 1 rows"),
        ([["x"] * 8], {}, f"make a figure of 1136: a page has {WIDEST}"),
        ([["signed", "sizes"]], {}, "not signed and sizes"),
    ],
)
def test_a_grid_that_cannot_be_drawn_is_refused(rows, options, says):
    tiles = {"x": Image.new("RGB", (8, 8))} | {kind: plots.Map([[1.0]], kind) for kind in ("signed", "sizes")}
    with pytest.raises(ValueError, match=says):
        plots.grid([[tiles[tile] for tile in row] for row in rows], **options)


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        ([1.0], {}, r"\(height, width\), not \(1,\)"),
        ([[np.nan]], {}, "finite"),
        ([[1.0]], {"kind": "warm"}, "Unknown kind of map 'warm': choose one of signed"),
        ([[1.0]], {"limit": 0}, "above 0, not 0"),
    ],
)
def test_a_map_that_says_nothing_is_refused(values, options, says):
    with pytest.raises(ValueError, match=says):
        plots.Map(values, **options)


def test_lines_carry_their_names_at_their_ends_in_the_colours_of_what_they_show():
    t = np.arange(0, 1000, 10)
    curves = {"signal": 1 - t / 1000, "noise": t / 1000, "sum": np.ones(100), "almost": np.full(100, 0.99)}
    roles = {"signal": "x0", "noise": "eps"}
    marks = [("signal", 500, "half")]
    figure = plots.lines(t, curves, xlabel="timestep t", ylabel="share", roles=roles, marks=marks, falling=True)
    (axis,) = figure.axes
    assert axis.xaxis_inverted() and axis.get_legend() is None
    assert figure.dpi == 160 and place_of_figure(figure) == (904, 300)
    by_name = {text.get_text(): text for text in figure.texts}
    assert [by_name[name].get_color() for name in roles] == [ROLES["x0"].ink, ROLES["eps"].ink]
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axis.lines[:4]}) == 4
    heights = {name: (box.y0 + box.y1) / 2 for name in curves for box in [by_name[name].get_window_extent()]}
    assert heights["signal"] > heights["almost"] > heights["noise"]  # at t = 0, where the run ends
    near = sorted(heights[name] for name in ("signal", "sum", "almost"))
    assert min(np.diff(near)) > 14 * figure.dpi / 80
    assert plots.faults(figure) == []
    (ring,) = [line for line in axis.lines if line.get_markersize() > 6]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (500, pytest.approx(0.5))


@pytest.mark.parametrize(
    ("x", "ticks"),
    [
        (range(1000), [0, 250, 500, 750, 999]),  # there is no t = 1000
        (range(1, 1000, 50), [1, 250, 500, 750]),
        (range(21), [0, 5, 10, 15, 20]),
        (range(1, 21), [5, 10, 15, 20]),
    ],
)
def test_ticks_stand_where_there_are_values(x, ticks):
    panels = {"one": {"a": list(x)}, "two": {"a": list(x)}}
    for figure in (
        plots.lines(list(x), panels["one"], xlabel="t", ylabel="y"),
        plots.multiples(list(x), panels, xlabel="t", ylabel="y", falling=True),
    ):
        figure.draw_without_rendering()
        for axis in figure.axes:
            assert sorted(axis.get_xticks()) == ticks
            assert sorted(int(label.get_text()) for label in axis.get_xticklabels()) == ticks


def place_of_figure(figure):
    return tuple(round(80 * inches) for inches in figure.get_size_inches())


def test_seeds_are_points_a_mean_and_two_standard_errors():
    values = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 5.0]])
    (axis,) = plots.lines([1, 2], {"error": values}, xlabel="steps", ylabel="error", logx=True).axes
    mean, *points = axis.lines
    assert mean.get_ydata().tolist() == [3, 3] and [list(row.get_ydata()) for row in points] == values.tolist()
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((3 - 2 * 2 / 3**0.5, 3 + 2 * 2 / 3**0.5))
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2"]


def test_multiples_share_their_axes_and_have_a_title_each():
    panels = {"one": {"a": [0, 1]}, "two": {"a": [0, 3]}}
    figure = plots.multiples([0, 1], panels, xlabel="x", ylabel="y")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["one", "two"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() and figure.axes[1].get_ylim()[1] >= 3
    assert plots.faults(figure) == []


@pytest.mark.parametrize(
    ("curves", "options", "says"),
    [
        ({}, {}, "no lines"),
        ({"a": [1]}, {}, r"'a' has the shape \(1,\), but x has \(2,\)"),
        ({"a": [1, 2]}, {"roles": {"a": "noise"}}, "Unknown role 'noise': choose one of x0"),
        ({"a": [1, 2]}, {"roles": {"b": "x0"}}, "no line 'b' to give a role"),
        ({"a": [1, 2]}, {"marks": [("b", 1, "here")]}, "no curve 'b' to mark"),
    ],
)
def test_lines_that_cannot_be_drawn_are_refused(curves, options, says):
    with pytest.raises(ValueError, match=says):
        plots.lines([0, 1], curves, xlabel="x", ylabel="y", **options)


def test_show_warns_of_texts_that_collide_or_are_cut_off(shown):
    tiles = [Image.new("RGB", (8, 8))] * 2
    with pytest.warns(UserWarning, match="Two texts of this figure overlap: .*first head.* and .*second head"):
        plots.show(plots.grid([tiles], heads=["a very long first head", "a very long second head"]), "Two tiles.")
    with pytest.warns(UserWarning, match="cut off at the edge of its figure: 'a very long"):
        plots.show(plots.grid([tiles[:1]], names=["a very long name of a row"]), "One tile.")


def test_a_figure_is_shown_at_half_its_size(pictures, shown):
    plots.show(plots.grid([pictures[:6]]), "Six scenes.")
    (data, options), (text, _) = shown
    with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as image:
        assert image.width == 2 * options["metadata"]["image/png"]["width"]
    assert len(data["image/png"]) < 120_000 and "Six scenes." in text["text/html"]
