"""Lesson 07b: its wrong parts are wrong and raise nothing, its search and its promises find them.

The functions are those of the notebook, read from it, so that what a learner sees is what is tested.
"""

import inspect
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from helpers.exercises.lesson_07b import TELLING_REQUEST, make_suspect
from helpers.loading import load_pipeline
from tests.lessons import NOTEBOOKS, cell_with, constants, definitions
from tests.pipelines.tiny import SIDE, tiny_pipeline

LESSON = NOTEBOOKS / "07b_one_part_wrong.ipynb"
PARTS = ("token_ids", "text_vectors", "start_noise", "timesteps", "guided_noise", "ddim_loop", "to_pixels")
STEPS = 4
PROMPT = "a mushroom on grass"
SHAPE = (4, SIDE // 2, SIDE // 2)
USUAL = {1: "ddim_loop", 2: None, 3: "text_vectors", 4: None, 5: None}
ALL = {1: "ddim_loop", 2: "timesteps", 3: "text_vectors", 4: "guided_noise", 5: "start_noise"}


def prepared(pipe) -> dict:
    """The imports, functions and sound parts of the lesson, with a pipeline and what its set-up makes of it."""
    pipe.set_progress_bar_config(disable=True)
    size = pipe.unet.config.sample_size
    space = definitions(LESSON, pipe=pipe, prompt=PROMPT, seed=0, shape=(4, size, size))
    space["settings"] = constants(LESSON, "settings")["settings"]
    given = SimpleNamespace(shape=space["shape"], alpha_bar=pipe.scheduler.alphas_cumprod)
    for name in ("tokenizer", "text_encoder", "unet", "vae"):
        setattr(given, name, getattr(pipe, name))
    space["given"] = given
    space["sound"] = SimpleNamespace(**{name: space[name] for name in PARTS})
    space["suspects"] = {number: make_suspect(space["sound"], number) for number in range(1, 6)}
    return space


@pytest.fixture(scope="module")
def lesson() -> dict:
    return prepared(tiny_pipeline())


def apart(a, b) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max())


def in_bytes(unit):
    return (255 * unit).round().astype(np.uint8)


def test_the_sound_parts_draw_the_librarys_picture(lesson):
    with torch.no_grad():
        _, answers = lesson["run"](lesson["sound"], PROMPT, [0], steps=20)
    assert tuple(answers) == PARTS
    (picture,) = answers["to_pixels"]
    assert apart(picture, in_bytes(lesson["by_library"]())) <= 1
    assert picture.std() > 1, "a picture of one colour proves little"


def test_the_wrong_settings_of_the_first_pictures_are_the_wrong_parts_that_the_text_describes(lesson):
    sound = lesson["sound"]
    by_hand = {"guided_noise": lesson["from_words"], "timesteps": lesson["no_offset"]}
    by_setting = {"guided_noise": {"guidance": 5.0}, "timesteps": {"steps_offset": 0}}
    for name, function in by_hand.items():
        with torch.no_grad():
            parts = SimpleNamespace(**(vars(sound) | {name: function}))
            picture = lesson["run"](parts, PROMPT, [0], steps=20)[1]["to_pixels"][0]
            right = lesson["run"](sound, PROMPT, [0], steps=20)[1]["to_pixels"][0]
        assert apart(picture, in_bytes(lesson["by_library"](**by_setting[name]))) <= 1
        assert not np.array_equal(picture, right), name


def test_picture_2_adds_the_difference_to_the_answer_with_words(lesson):
    pipe, sound = lesson["pipe"], lesson["sound"]
    x, vectors = lesson["question"](sound)
    with torch.no_grad():
        empty, words = (sound.guided_noise(pipe.unet, x, 501, vectors, s) for s in (0.0, 1.0))
        assert torch.allclose(
            lesson["from_words"](pipe.unet, x, 501, vectors, 4.0), words + 4 * (words - empty), atol=1e-5
        )


def test_what_is_kept_of_a_run_stays_as_it_was(lesson):
    """A loop asked again asks the run's predict; that changes nothing that was kept."""
    sound = lesson["sound"]
    with torch.no_grad():
        inputs, answers = lesson["run"](sound, PROMPT, [0], steps=STEPS)
        kept, answered = inputs["guided_noise"][1].clone(), answers["guided_noise"].clone()
        assert torch.equal(sound.ddim_loop(*inputs["ddim_loop"]), answers["ddim_loop"])
        inputs["ddim_loop"][0](inputs["ddim_loop"][1], 951)
        assert torch.equal(inputs["guided_noise"][1], kept)
        assert torch.equal(answers["guided_noise"], answered)


def test_a_station_keeps_the_last_call(lesson):
    sound = lesson["sound"]
    with torch.no_grad():
        inputs, answers = lesson["run"](sound, PROMPT, [0], steps=STEPS)
    assert inputs["token_ids"][1] == PROMPT
    assert inputs["guided_noise"][2] == 1
    assert not torch.equal(inputs["guided_noise"][1], answers["start_noise"])


def test_without_the_offset_the_last_answer_changes_nothing(lesson):
    x = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    alpha_bar = torch.linspace(0.999, 0.005, 1000)
    times = [t - 1 for t in lesson["timesteps"](20)]
    assert times[-1] == 0

    def ends(last):
        """The last latents, where the network answers `last` when it is asked for the last time."""
        return lesson["ddim_loop"](lambda x, t: last if t == 0 else 0.5 * x, x, times, alpha_bar)

    assert torch.allclose(ends(torch.zeros_like(x)), ends(torch.ones_like(x)), atol=1e-5)


def test_in_suspect_1_too_the_last_answer_changes_nothing(lesson):
    x = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    times = lesson["timesteps"](20)

    def ends(loop, last):
        answer = {times[-1]: last}
        return loop(lambda x, t: answer.get(t, 0.5 * x), x, times, torch.linspace(0.999, 0.005, 1000))

    for parts, alike in ((lesson["suspects"][1], True), (lesson["sound"], False)):
        zeros, ones = (ends(parts.ddim_loop, fill) for fill in (torch.zeros_like(x), torch.ones_like(x)))
        assert torch.allclose(zeros, ones, atol=1e-5) == alike


# --- the search for a wrong part


def test_each_suspect_has_one_wrong_part_and_the_usual_request_finds_two(lesson):
    sound, suspects = lesson["sound"], lesson["suspects"]
    for number, one in suspects.items():
        (name,) = [name for name, function in vars(sound).items() if getattr(one, name) is not function]
        assert name == ALL[number]
    (usual,) = constants(LESSON, "request").values()
    text = folded("The request, and what is wrong with each suspect")
    space = {}
    exec(text.split("`")[1], space)  # request = ..., the first code of the fold
    for request, wanted in ((usual, USUAL), (space["request"], ALL)):
        with torch.no_grad():
            given, answers = lesson["run"](sound, **request)
            found = {number: lesson["wrong_part"](one, given, answers) for number, one in suspects.items()}
        assert found == wanted
    assert space["request"] == TELLING_REQUEST
    assert "0 got away" in text


def test_of_the_seeds_0_and_1_suspect_5_makes_no_mistake(lesson):
    sound, suspect = lesson["sound"], lesson["suspects"][5]
    assert torch.equal(sound.start_noise([0, 1], SHAPE), suspect.start_noise([0, 1], SHAPE))
    assert not torch.equal(sound.start_noise([3, 8], SHAPE), suspect.start_noise([3, 8], SHAPE))


def test_the_search_prints_what_it_found_and_how_many_got_away(lesson, capsys):
    with torch.no_grad():
        exec(cell_with(LESSON, "got away"), dict(lesson))
    said = capsys.readouterr().out.splitlines()
    assert said[-6:] == [*(f"suspect {number}: {name}" for number, name in USUAL.items()), "3 got away"]


def test_in_its_own_run_suspect_3_differs_at_four_stations_and_with_the_same_inputs_at_one(lesson):
    sound, suspect = lesson["sound"], lesson["suspects"][3]
    with torch.no_grad():
        given, answers = lesson["run"](sound, PROMPT, [0], steps=STEPS)
        _, own = lesson["run"](suspect, PROMPT, [0], steps=STEPS)
        far = {name: lesson["apart"](own[name], answer) for name, answer in answers.items()}
        alone = {name: lesson["apart"](getattr(suspect, name)(*given[name]), answers[name]) for name in answers}
    assert [name for name in PARTS if far[name] > 0] == ["text_vectors", "guided_noise", "ddim_loop", "to_pixels"]
    assert [name for name in PARTS if alone[name] > 0] == ["text_vectors"]
    figure = lesson["boxes"]({"its own run": far, "same inputs": alone})
    red = [patch.get_facecolor() == to_rgba("#F6C1BC") for patch in figure.axes[0].patches]
    assert red == [far[name] > 0.001 for name in PARTS] + [alone[name] > 0.001 for name in PARTS]
    plt.close(figure)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({}, None),
        ({"token_ids": lambda tokenizer, text: [1, 2]}, "token_ids"),  # of another shape
        ({"timesteps": lambda steps: [t - 1 for t in range(1, steps + 1)]}, "timesteps"),
        ({"start_noise": lambda: torch.full((4,), torch.nan)}, "start_noise"),
    ],
)
def test_the_search_names_a_part_that_answers_otherwise_and_forgives_another_order_of_a_sum(lesson, other, name):
    sound = SimpleNamespace(
        token_ids=lambda tokenizer, text: [1, 2, 3],
        start_noise=lambda: torch.full((4,), 0.1) * 3,
        timesteps=lambda steps: list(range(1, steps + 1)),
    )
    summed = {"start_noise": lambda: torch.full((4,), 0.1) + torch.full((4,), 0.1) + torch.full((4,), 0.1)}
    suspect = SimpleNamespace(**{**vars(sound), **summed, **other})
    given = {"token_ids": (None, ""), "start_noise": (), "timesteps": (3,)}
    answers = {part: getattr(sound, part)(*inputs) for part, inputs in given.items()}
    assert lesson["wrong_part"](suspect, given, answers) == name


def test_the_search_tells_of_a_wrong_timestep(lesson):
    sound = lesson["sound"]

    def told_the_next(predict, x, times, alpha_bar):
        after = dict(zip(times, [*times[1:], 0], strict=True))
        return sound.ddim_loop(lambda x, t: predict(x, after[t]), x, times, alpha_bar)

    with torch.no_grad():
        given, answers = lesson["run"](sound, PROMPT, [0], steps=STEPS)
        suspect = SimpleNamespace(**(vars(sound) | {"ddim_loop": told_the_next}))
        assert lesson["wrong_part"](suspect, given, answers) == "ddim_loop"


def test_suspect_3_reads_the_layer_before_the_last_as_its_printed_code_says(lesson):
    sound, suspect, encoder = lesson["sound"], lesson["suspects"][3], lesson["pipe"].text_encoder
    ids = [sound.token_ids(lesson["pipe"].tokenizer, text) for text in ("", PROMPT)]
    with torch.no_grad():
        last, before = (
            torch.cat([encoder(one, output_hidden_states=True).hidden_states[layer] for one in ids])
            for layer in (-1, -2)
        )
        assert torch.equal(encoder.final_layer_norm(last), sound.text_vectors(encoder, *ids))
        assert torch.equal(before, suspect.text_vectors(encoder, *ids))
    code = inspect.getsource(suspect.text_vectors)
    assert "hidden_states[-2]" in code
    assert code in printed("same-inputs")


def test_suspect_4_asks_for_one_picture_without_words_and_for_one_without_guidance(lesson):
    pipe, sound, suspect = lesson["pipe"], lesson["sound"], lesson["suspects"][4]
    ids = [sound.token_ids(pipe.tokenizer, text) for text in ("", PROMPT)]
    x = sound.start_noise([3, 8], SHAPE)
    with torch.no_grad():
        vectors = sound.text_vectors(pipe.text_encoder, *ids)
        said = suspect.guided_noise(pipe.unet, x, 501, vectors, 4.0)
        for number, guidance in ((0, 0.0), (1, 1.0)):  # without words; with them, without guidance
            own = sound.guided_noise(pipe.unet, x[number : number + 1], 501, vectors, guidance)
            assert torch.allclose(said[number : number + 1], own, atol=1e-5)


def test_suspect_2_rounds_last_and_the_sound_part_first(lesson):
    suspect, sound = lesson["suspects"][2], lesson["sound"]
    assert suspect.timesteps(15) == [1 + int(1000 / 15 * i) for i in reversed(range(15))]
    assert sound.timesteps(15) == [1 + 1000 // 15 * i for i in reversed(range(15))]
    # As the second hint says: not every other number of steps will do.
    for steps in (20, 27):
        assert suspect.timesteps(steps) == sound.timesteps(steps)


@pytest.mark.parametrize("number", [0, 6])
def test_there_is_no_other_suspect(lesson, number):
    with pytest.raises(ValueError, match="choose a number from 1 to 5"):
        make_suspect(lesson["sound"], number)


# --- without sound parts


def test_each_promise_is_broken_by_the_part_that_it_was_written_for(lesson):
    """With a tiny untrained network; what it takes a trained one for is tested below."""
    sound, changed = lesson["sound"], lesson["changed"]

    def less_in_batch(unet, x, t, vectors, guidance):
        return sound.guided_noise(unet, x, t, vectors, guidance) - 0.3 * (len(x) - 1)

    wrong = {
        "noise_alone": changed(start_noise=lambda seeds, shape: sound.start_noise([*seeds][::-1], shape)),
        "equal_distances": changed(timesteps=lambda steps: [1 + int(1000 / steps * i) for i in range(steps)]),
        "alike_in_batch": changed(guided_noise=less_in_batch),
    }
    with torch.no_grad():
        for name, parts in wrong.items():
            assert lesson[name](sound), name
            assert not lesson[name](parts), name


def test_the_promises_accuse_each_suspect_of_its_fault_and_no_sound_part(capsys):
    lesson = prepared(load_pipeline("pocket", device="cpu"))
    assert lesson["ends_right"](*[None] * 5) is None  # not answered: the course's own
    picture = in_bytes(lesson["by_library"]())
    lesson["four"] = {f"picture {number}": picture for number in (1, 2, 4)}
    with torch.no_grad():
        exec(cell_with(LESSON, "promises = ["), lesson)
    columns = list(lesson["everyone"])
    last = capsys.readouterr().out.splitlines()[-7:]
    assert last[0].split() == ["sound", *["suspect"] * 5, *["picture"] * 3]
    assert last[1].split() == ["parts", *"12345124"]
    rows = {name: marks for name, *marks in (line.split() for line in last[2:])}
    broken = {name: [columns[i] for i, mark in enumerate(row) if mark == "broken"] for name, row in rows.items()}
    assert {mark for row in rows.values() for mark in row} == {".", "broken"}
    # the first pictures keep all five, as the text says
    assert broken == {
        "noise_alone": ["suspect 5"],
        "equal_distances": ["suspect 2"],
        "like_noise": ["suspect 3"],
        "alike_in_batch": ["suspect 4"],
        "loop_ends_right": ["suspect 1"],
    }


def test_the_request_of_the_course_is_searched_under_its_pictures(lesson, capsys):
    (line,) = [line for line in cell_with(LESSON, "TELLING_REQUEST\n").splitlines() if line.startswith("print(")]
    with torch.no_grad():
        exec(line, dict(lesson) | {"runs": [lesson["run"](lesson["sound"], **TELLING_REQUEST)]})
    found = ", ".join(f"{number} {name}" for number, name in ALL.items())
    assert capsys.readouterr().out == f"found with this request: {found}\n"


def printed(cell_id: str) -> str:
    """What a cell of the lesson printed, as it is stored."""
    (cell,) = [cell for cell in nbformat.read(LESSON, as_version=4).cells if cell.id == cell_id]
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def folded(summary: str) -> str:
    """The text under a fold of the lesson."""
    texts = [cell.source for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "markdown"]
    (text,) = [text for text in texts if f"<summary>{summary}</summary>" in text]
    return text.split(f"<summary>{summary}</summary>")[1]
