"""The viewers: the slider shows the frame and the label of its step, and each column what its name says."""

import dataclasses
import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image
from traitlets import Bool

from helpers.latents import channel_pictures, decode
from helpers.sampling import run
from helpers.viewers import GAP, LiveViewer, run_viewer, step_viewer
from tests.pipelines.tiny import tiny_pipeline

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


def test_the_play_button_is_joined_to_the_player_of_ipywidgets_7_too(monkeypatch):
    class Play(ipywidgets.BoundedIntText):  # without the trait `playing` of ipywidgets 8
        interval = ipywidgets.Play.interval
        _playing = Bool().tag(sync=True)

    linked = []
    monkeypatch.setattr(ipywidgets, "jslink", lambda source, target: linked.append((source[1], target[1])))
    step_viewer(FRAMES, LABELS)
    monkeypatch.setattr(ipywidgets, "Play", Play)
    step_viewer(FRAMES, LABELS)
    assert linked == [("value", "value"), ("value", "playing"), ("value", "value"), ("value", "_playing")]


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


# The viewer of a whole run

PROMPTS = ["a fox", "a pizza"]
NAMES = ["x_t", "predicted noise", "text - uncond", "x_t decoded", "x0 estimate"]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def steps(pipe):
    return run(pipe, PROMPTS, steps=3, guidance=4.0).steps


def column(viewer, name):
    """The picture that a viewer shows under a name, as an array."""
    columns = {box.children[0].value: box.children[1] for box in viewer.children[1].children}
    return np.asarray(Image.open(io.BytesIO(columns[name].value)).convert("RGB")).astype(int)


def names(viewer):
    return [box.children[0].value for box in viewer.children[1].children]


def test_every_column_of_a_run_shows_its_step(pipe, steps):
    viewer = run_viewer(pipe, steps, picture=1, side=64)  # 64: the decoded pictures' own size, and 2 x 2 channels of 32
    assert names(viewer) == NAMES
    slider, label = viewer.children[0].children[1:]
    for index in (2, 0, 1):
        slider.value = index
        assert label.value == f"step {index + 1} of 3, t = {steps[index].t}"
        step = steps[index]
        for name, latents in (("x_t", step.latents), ("predicted noise", step.noise)):
            channels, _ = channel_pictures(latents[1], limit=3.0)
            shown_channels = column(viewer, name)
            assert shown_channels.shape == (66, 66, 3)  # two channels and a gap of two pixels
            for number, place in enumerate([(0, 0), (0, 34), (34, 0), (34, 34)]):
                tile = shown_channels[place[0] : place[0] + 32, place[1] : place[1] + 32]
                # x_t goes through a division by a number that is 1 up to rounding: one colour up or down.
                assert np.abs(tile - channels[number]).max() <= 3
            assert (shown_channels[32:34] == 255).all()
        for name, latents in (("x_t decoded", step.latents), ("x0 estimate", step.x0)):
            expected = np.asarray(decode(pipe, latents[1:2])[0]).astype(int)
            assert np.abs(column(viewer, name) - expected).max() <= 1


def test_the_guidance_of_a_run_has_one_scale_for_all_steps(pipe, steps):
    halves = [
        dataclasses.replace(steps[0], noise_uncond=torch.zeros(1, 4, 2, 2), noise_text=torch.full((1, 4, 2, 2), value))
        for value in (4.0, 2.0)
    ]
    viewer = run_viewer(pipe, halves)
    strong = column(viewer, "text - uncond")[0, 0]
    viewer.children[0].children[1].value = 1
    weak = column(viewer, "text - uncond")[0, 0]
    expected, _ = channel_pictures(torch.tensor([1.0, 0.5]).reshape(2, 1, 1), limit=1.0)
    assert (strong == expected[0][0, 0]).all()
    assert (weak == expected[1][0, 0]).all()


def test_a_run_without_guidance_has_no_column_for_it(pipe):
    viewer = run_viewer(pipe, run(pipe, "a fox", steps=1, guidance=1.0).steps)
    assert names(viewer) == [name for name in NAMES if name != "text - uncond"]


def test_x_t_is_shown_as_the_unet_sees_it_whatever_the_sampler(pipe):
    euler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    step = run(pipe, "a fox", steps=2, guidance=1.0, sampler=euler).steps[0]
    assert step.latents.std() > 5
    euler.set_timesteps(2)
    seen = euler.scale_model_input(step.latents, euler.timesteps[0])
    expected, _ = channel_pictures(seen, limit=3.0)
    tile = column(run_viewer(pipe, [step], side=64), "x_t")[:32, :32]
    assert np.abs(tile - expected[0]).max() <= 3


def test_pictures_of_a_run_are_as_large_as_asked(pipe, steps):
    viewer = run_viewer(pipe, steps[:1], side=40)
    assert column(viewer, "x0 estimate").shape == (40, 40, 3)
    assert column(viewer, "x_t").shape == (66, 66, 3)  # never smaller than one pixel for each number


def test_a_run_viewer_refuses_what_it_cannot_show(pipe, steps):
    with pytest.raises(ValueError, match="no steps"):
        run_viewer(pipe, [])
    with pytest.raises(ValueError, match="this run has 2, so choose a whole number from 0 to 1"):
        run_viewer(pipe, steps, picture=2)
    with pytest.raises(ValueError, match=r"steps is a Run: .* result\.steps"):
        run_viewer(pipe, run(pipe, "a fox", steps=1))


# The viewer of a training


def test_a_live_viewer_shows_what_it_was_renewed_with():
    viewer = LiveViewer("step 0 of 2")
    label, row = viewer.children
    assert label.value == "step 0 of 2"
    figure = plt.figure(figsize=(2, 1), dpi=50)
    viewer.renew("step 1 of 2", figure, FRAMES, columns=2)
    assert label.value == "step 1 of 2"
    curve, sheet = (Image.open(io.BytesIO(image.value)) for image in row.children)
    assert curve.size == (100, 50)
    apart = 8 + GAP
    assert [sheet.getpixel(place) for place in ((0, 0), (apart, 0), (0, apart))] == COLOURS
    assert sheet.getpixel((apart, apart)) == (255, 255, 255)
    assert not plt.fignum_exists(figure.number), "a figure of each step would stay in memory"


def test_a_live_viewer_refuses_to_show_nothing():
    with pytest.raises(ValueError, match="no pictures"):
        LiveViewer().renew("step 1 of 2", plt.figure(), [])
    plt.close()
