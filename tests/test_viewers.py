"""The viewers: film and player show the frame and the label of each step, and each column what its name says."""

import base64
import dataclasses
import io
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image

from helpers import player, viewers
from helpers.latents import channel_pictures, decode
from helpers.sampling import run
from helpers.viewers import GAP, LiveViewer, run_viewer, step_viewer
from tests.pipelines.tiny import tiny_pipeline

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
FRAMES = [Image.new("RGB", (8, 8), colour) for colour in COLOURS]
LABELS = ["t = 3", "t = 2", "t = 1"]


def data(viewer):
    """What a player knows."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', viewer.html, re.DOTALL)[1])


def shown(viewer, frame, place=0):
    """The picture that a player shows in a frame, as an array (height, width, 3)."""
    known = data(viewer)
    kind, text = known["pictures"][known["frames"][frame][place]].split(";base64,")
    assert kind == "data:image/webp"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


def film_frames(viewer):
    """The frames of a film as (array, milliseconds)."""
    picture, found = Image.open(io.BytesIO(viewer.film)), []
    assert (picture.format, picture.size) == ("PNG", (viewer.width, viewer.height))
    for index in range(picture.n_frames):
        picture.seek(index)
        found.append((np.asarray(picture.convert("RGB")).astype(int), picture.info["duration"]))
    return found


def contains(frame, colour):
    return bool((abs(frame - np.array(colour)).max(axis=2) <= 2).any())


def noise(count, side=128):
    random = np.random.default_rng(0)
    return [random.integers(256, size=(side, side, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture
def in_a_notebook(monkeypatch):
    """As if a cell was run: what it displays can be captured."""
    shell = InteractiveShell.instance()
    monkeypatch.setattr(viewers, "get_ipython", lambda: shell)
    yield
    InteractiveShell.clear_instance()


def test_the_player_holds_every_frame_and_its_label():
    viewer = step_viewer(FRAMES, LABELS, side=20)
    assert data(viewer)["labels"] == LABELS
    assert data(viewer)["sizes"] == [[16, 16]]
    for step, colour in enumerate(COLOURS):
        assert (shown(viewer, step) == colour).all()


def test_the_film_shows_each_step_and_waits_at_both_ends():
    viewer = step_viewer(FRAMES, LABELS)
    frames = film_frames(viewer)
    assert [milliseconds for _, milliseconds in frames] == [1000, 167, 2000]
    for (frame, _), colour in zip(frames, COLOURS, strict=True):
        assert [contains(frame, other) for other in COLOURS] == [other == colour for other in COLOURS]
    assert Image.open(io.BytesIO(viewer.film)).info["loop"] == 0  # for ever


def test_a_long_film_takes_frames_at_even_distances_and_both_ends():
    greys = [Image.new("RGB", (8, 8), (2 * i, 255 - 2 * i, 255)) for i in range(100)]
    viewer = step_viewer(greys, [f"t = {i}" for i in range(100)])
    frames = film_frames(viewer)
    assert len(frames) == 12
    assert contains(frames[0][0], (0, 255, 255)) and contains(frames[-1][0], (198, 57, 255))
    assert sum(milliseconds for _, milliseconds in frames) == 1000 + 10 * 167 + 2000
    assert len(data(viewer)["frames"]) == 100


def test_the_names_and_the_label_are_written_into_the_film():
    def ink(viewer):
        frame, _ = film_frames(viewer)[0]
        return int((frame.max(axis=2) < 100).sum())

    white = [Image.new("RGB", (64, 64), "white")] * 2
    without = ink(step_viewer(white, ["", " "]))
    assert ink(step_viewer(white, ["step 1", "step 2"])) > without + 30
    assert ink(step_viewer(white, ["", " "], names=["estimate"])) > without + 30


def test_the_same_frames_give_the_same_bytes():
    one, two = (step_viewer(FRAMES, LABELS, names=["x0"]) for _ in range(2))
    assert (one.film, one.html) == (two.film, two.html)


def test_a_picture_that_stays_is_stored_once():
    viewer = step_viewer([(frame, FRAMES[0]) for frame in FRAMES], LABELS, names=["end", "reference"])
    assert len(data(viewer)["pictures"]) == 3
    assert data(viewer)["frames"] == [[0, 0], [1, 0], [2, 0]]


def test_pictures_side_by_side_change_together():
    viewer = step_viewer(list(zip(FRAMES, FRAMES[::-1], strict=True)), LABELS, names=("x_t", "x0"))
    assert data(viewer)["names"] == ["x_t", "x0"]
    for step in range(3):
        assert (shown(viewer, step, 0) == COLOURS[step]).all()
        assert (shown(viewer, step, 1) == COLOURS[2 - step]).all()


def test_a_second_row_stands_below_the_first():
    frames = [((a, a), (b, b)) for a, b in zip(FRAMES, FRAMES[::-1], strict=True)]
    viewer = step_viewer(frames, LABELS, names=("x_t", "x0"), rows=("with words", "without"))
    assert data(viewer)["rows"] == ["with words", "without"]
    assert [(shown(viewer, 0, place) == COLOURS[colour]).all() for place, colour in enumerate((0, 0, 2, 2))]
    frame, _ = film_frames(viewer)[0]
    tops = [np.argwhere(abs(frame - np.array(COLOURS[colour])).max(axis=2) <= 2)[0, 0] for colour in (0, 2)]
    assert tops[0] < tops[1]


def test_a_point_moves_along_a_curve():
    figure, axes = plt.subplots(figsize=(2, 1), dpi=100)
    axes.set_position((0.2, 0.1, 0.6, 0.8))
    axes.set(xlim=(10, 0), ylim=(0, 1))
    viewer = step_viewer(FRAMES, LABELS, curve=(figure, [(10, 0), (5, 0.5), None]))
    curve = data(viewer)["curve"]
    assert (curve["width"], curve["height"]) == (160, 80)
    (x, y), (x2, y2), hidden = curve["points"]
    assert hidden is None
    assert (x, y, x2, y2) == pytest.approx((0.2, 0.9, 0.5, 0.5), abs=1e-6)
    assert not plt.fignum_exists(figure.number), "figures would pile up in memory"
    first, second, third = (frame for frame, _ in film_frames(viewer))
    assert not (first == second).all(axis=2)[:, 60:].all()
    assert not (second == third).all(axis=2)[:, 60:].all()


def test_noise_is_compressed_as_far_as_it_needs_and_flat_pictures_are_not_touched():
    viewer = step_viewer(noise(12), [f"t = {i}" for i in range(12)])
    assert len(viewer.html) + 4 * len(viewer.film) / 3 < 250_000  # of 590,000 numbers that are all random
    larger = step_viewer(noise(12), [f"t = {i}" for i in range(12)], film_bytes=1_000_000)
    assert len(viewer.film) < len(larger.film) < 1_000_000, "what a film may take is not asked"
    flat = [np.full((128, 128, 3), i, np.uint8) for i in range(12)]
    viewer = step_viewer(flat, [f"t = {i}" for i in range(12)])
    assert all((shown(viewer, i) == i).all() for i in range(12))
    small = noise(60, side=33)
    files = player.compressed(small)
    assert sum(map(len, files)) < sum(len(player._lossless(picture)) for picture in small)
    for file, picture in zip(files, small, strict=True):  # latents keep every dot's colour, which lossy WebP would mix
        assert abs(np.asarray(Image.open(io.BytesIO(file))).astype(int) - picture).max() <= 8


def test_both_outputs_have_a_description_and_no_output_is_a_widget(in_a_notebook):
    viewer = step_viewer(FRAMES, LABELS, names=["x0"], alt="Red, green and <blue>.")
    with capture_output() as captured:
        viewer._ipython_display_()
    first, second = captured.outputs
    assert base64.b64decode(first.data["image/png"]) == viewer.film
    assert first.metadata["image/png"] == {"alt": "Red, green and <blue>.", "width": viewer.width}
    assert first.data["text/plain"] == second.data["text/plain"] == repr(viewer) == "Red, green and <blue>."
    assert second.data["text/html"] == viewer.html
    assert "Red, green and &lt;blue&gt;." in viewer.html
    assert step_viewer(FRAMES, LABELS, names=["x0"]).alt == "From t = 3 to t = 1, 3 frames: x0"


def test_where_no_script_runs_the_player_has_no_word_to_show():
    html = step_viewer(FRAMES, LABELS, alt="Three colours.").html
    left = re.sub(r"<(style|script)\b.*?</\1>", "", html, flags=re.DOTALL)
    assert re.sub(r"<[^>]+>", "", left).split() == ["Three", "colours."]
    assert 'style="height: 1px; overflow: hidden; opacity: 0">Three colours.' in left


def test_a_label_cannot_end_the_players_script():
    label = "</script><b>DATA & ALT</b>"
    viewer = step_viewer(FRAMES[:1], [label], alt="DATA")
    assert data(viewer)["labels"] == [label]
    assert ">DATA</div>" in viewer.html


def test_the_player_knows_its_film_by_the_end_of_its_file():
    viewers_, ends = [step_viewer(FRAMES, LABELS), step_viewer(FRAMES, LABELS[::-1])], []
    for viewer in viewers_:
        ends.append(data(viewer)["film"]["end"].removeprefix("base64,"))
        assert base64.b64encode(viewer.film).decode().endswith(ends[-1])
    assert ends[0] != ends[1]


def test_one_frame_is_a_still_picture():
    viewer = step_viewer(FRAMES[:1], LABELS[:1])
    assert getattr(Image.open(io.BytesIO(viewer.film)), "n_frames", 1) == 1
    assert len(data(viewer)["frames"]) == 1


@pytest.mark.parametrize(
    ("frames", "labels", "options", "sentence"),
    [
        ([], [], {}, "no frames"),
        (FRAMES, LABELS[:2], {}, "3 frames and 2 labels"),
        (FRAMES, LABELS, {"names": ("x_t", "x0")}, "needs 2 pictures"),
        (FRAMES, LABELS, {"names": ()}, "needs 0 pictures"),
        (FRAMES, LABELS, {"rows": ("a", "b")}, "needs 2 tuples of pictures"),
        ([(FRAMES[0], FRAMES[:2])], ["t"], {"rows": ("a", "b")}, "needs 1 pictures"),
    ],
)
def test_refuses_what_does_not_match(frames, labels, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        step_viewer(frames, labels, **options)


def test_refuses_points_that_do_not_match():
    with pytest.raises(ValueError, match="3 frames and 1 points"):
        step_viewer(FRAMES, LABELS, curve=(plt.figure(), [(0, 0)]))
    plt.close()


# The viewer of a whole run

PROMPTS = ["a fox", "a pizza"]
NAMES = ["x_t", "predicted noise", "words change × 10", "x_t decoded", "x0 estimate"]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def steps(pipe):
    return run(pipe, PROMPTS, steps=3, guidance=4.0).steps


@pytest.fixture
def exact(monkeypatch):
    """Pictures are compared pixel by pixel, so none may be compressed."""
    monkeypatch.setattr(player, "PLAYER_BYTES", 10**9)


def column(viewer, name, frame=0):
    """The picture that a viewer shows under a name, as an array."""
    return shown(viewer, frame, names(viewer).index(name))


def names(viewer):
    return data(viewer)["names"]


def test_every_column_of_a_run_shows_its_step(pipe, steps, exact):
    viewer = run_viewer(pipe, steps, picture=1, side=64)  # 64: the decoded pictures' own size
    assert names(viewer) == NAMES
    assert data(viewer)["labels"] == [f"step {index} of 3, t = {step.t}" for index, step in enumerate(steps, 1)]
    part = data(run_viewer(pipe, steps[::2], side=16))["labels"]
    assert part == [f"step 1, t = {steps[0].t}", f"step 3, t = {steps[2].t}"]
    side = channel_pictures(steps[0].latents[1])[0][0].shape[0]
    assert data(viewer)["sizes"] == [*[[65, 65]] * 3, *[[64, 64]] * 2]
    for index, step in enumerate(steps):
        for name, latents in (("x_t", step.latents), ("predicted noise", step.noise)):
            channels, _ = channel_pictures(latents[1], limit=3.0)
            shown_channels = column(viewer, name, index)
            far = side + GAP
            assert shown_channels.shape == (far + side, far + side, 3)
            for number, place in enumerate([(0, 0), (0, far), (far, 0), (far, far)]):
                tile = shown_channels[place[0] : place[0] + side, place[1] : place[1] + side]
                # x_t goes through a division by a number that is 1 up to rounding: one colour up or down.
                assert np.abs(tile - channels[number]).max() <= 3
            assert (shown_channels[side:far] == 255).all()
        for name, latents in (("x_t decoded", step.latents), ("x0 estimate", step.x0)):
            expected = np.asarray(decode(pipe, latents[1:2])[0]).astype(int)
            assert np.abs(column(viewer, name, index) - expected).max() <= 1


def test_what_words_change_is_shown_ten_times_as_strong_as_the_prediction(pipe, steps, exact):
    halves = [
        dataclasses.replace(steps[0], noise_uncond=torch.zeros(1, 4, 2, 2), noise_text=torch.full((1, 4, 2, 2), value))
        for value in (0.3, 0.15)
    ]
    viewer = run_viewer(pipe, halves)
    strong, weak = (column(viewer, "words change × 10", frame)[0, 0] for frame in range(2))
    expected, _ = channel_pictures(torch.tensor([1.0, 0.5]).reshape(2, 1, 1), limit=1.0)
    assert (strong == expected[0][0, 0]).all()
    assert (weak == expected[1][0, 0]).all()


def test_a_run_without_guidance_has_no_column_for_it(pipe):
    viewer = run_viewer(pipe, run(pipe, "a fox", steps=1, guidance=1.0).steps)
    assert names(viewer) == [name for name in NAMES if name != "words change × 10"]


def test_x_t_is_shown_as_the_unet_sees_it_whatever_the_sampler(pipe, exact):
    euler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    step = run(pipe, "a fox", steps=2, guidance=1.0, sampler=euler).steps[0]
    assert step.latents.std() > 5
    euler.set_timesteps(2)
    seen = euler.scale_model_input(step.latents, euler.timesteps[0])
    expected, _ = channel_pictures(seen, limit=3.0)
    side = len(expected[0])
    tile = column(run_viewer(pipe, [step], side=64), "x_t")[:side, :side]
    assert np.abs(tile - expected[0]).max() <= 3


def test_pictures_of_a_run_are_no_larger_than_asked(pipe, steps):
    viewer = run_viewer(pipe, steps[:1], side=40)
    assert column(viewer, "x0 estimate").shape == (40, 40, 3)
    assert data(viewer)["sizes"][NAMES.index("x0 estimate")] == [40, 40]
    assert data(viewer)["sizes"][NAMES.index("x_t")] == [65, 65]  # never smaller than one pixel for each number


def test_a_run_viewer_refuses_what_it_cannot_show(pipe, steps):
    with pytest.raises(ValueError, match="no steps"):
        run_viewer(pipe, [])
    with pytest.raises(ValueError, match="this run has 2, so choose a whole number from 0 to 1"):
        run_viewer(pipe, steps, picture=2)
    with pytest.raises(ValueError, match=r"steps is a Run: .* result\.steps"):
        run_viewer(pipe, run(pipe, "a fox", steps=1))


# The viewer of a training


def test_a_live_viewer_shows_what_it_was_renewed_with(in_a_notebook, monkeypatch):
    updates = []
    monkeypatch.setattr(
        viewers.DisplayHandle, "update", lambda self, data, **options: updates.append((self.display_id, data))
    )
    viewer = LiveViewer("step 0 of 2")
    with capture_output() as captured:
        viewer._ipython_display_()
    line, picture = captured.outputs
    assert line.data == {"text/plain": "step 0 of 2"}
    assert picture.data.keys() == {"image/png", "text/plain"}
    assert "application/vnd.jupyter.widget-view+json" not in {**line.data, **picture.data}

    figure = plt.figure(figsize=(2, 1), dpi=50)
    viewer.renew("step 1 of 2", figure, FRAMES, columns=2)
    assert not plt.fignum_exists(figure.number), "a figure of each step would stay in memory"
    (line_id, line), (picture_id, picture) = updates
    assert line_id != picture_id
    assert line == {"text/plain": "step 1 of 2"}
    sheet = Image.open(io.BytesIO(base64.b64decode(picture["image/png"]))).convert("RGB")
    left, apart = 100 + viewers.BETWEEN, 8 + viewers.BETWEEN
    places = ((left, 0), (left + apart, 0), (left, apart))
    assert [sheet.getpixel(place) for place in places] == COLOURS
    assert sheet.getpixel((left + apart, apart)) == (255, 255, 255)
    assert repr(viewer) == "step 1 of 2"


def test_a_live_viewer_that_is_not_shown_can_be_renewed():
    viewer = LiveViewer()
    viewer.renew("step 1 of 2", plt.figure(), FRAMES)
    assert repr(viewer) == "step 1 of 2"


def test_a_live_viewer_refuses_to_show_nothing():
    with pytest.raises(ValueError, match="no pictures"):
        LiveViewer().renew("step 1 of 2", plt.figure(), [])
    plt.close()
