"""The broken pipelines of lesson 12: the healthy one is the library's, each patient is ill, and each cure cures."""

import functools
import inspect
import math
import re
import warnings
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch.testing import assert_close

from helpers import plots
from helpers.exercises import EXERCISES, patients, verdict
from helpers.exercises.lesson_12 import DIAGNOSES, SIGNS, apart, decode, first_divergence
from helpers.exercises.patients import HEALTHY, PATIENTS, Cause
from helpers.library_calls import quiet
from helpers.schedules import betas as course_betas
from tests.lessons import NOTEBOOKS, definitions
from tests.pipelines.tiny import tiny_pipeline, tiny_tokenizer

LESSON = NOTEBOOKS / "12_break_it.ipynb"
STEPS = 4
MENDED = {"decode"}  # the parts that the learner writes

each_patient = pytest.mark.parametrize("patient", PATIENTS, ids=lambda patient: patient.cause.name)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def lesson(pipe):
    """The lesson's own loop, on the tiny pipeline."""
    return definitions(LESSON, pipe=pipe, PROMPT="a fox", SEED=5, STEPS=STEPS, scale=3.0, runs={})


@pytest.fixture(scope="module")
def right(lesson):
    with torch.no_grad():
        return {dice: lesson["draw"](HEALTHY, dice) for dice in (False, True)}


@pytest.fixture(scope="module")
def ill(lesson):
    """What the patient with a cause draws; each draws once."""

    @functools.cache
    def drawn(cause):
        patient = patient_of(cause)
        return lesson["draw"](patient.parts(), patient.dice)

    return drawn


def patient_of(cause):
    return next(patient for patient in PATIENTS if patient.cause is cause)


# The healthy pipeline


@pytest.mark.parametrize("dice", [False, True], ids=["Euler", "DDIM with dice"])
def test_the_healthy_parts_draw_the_library_s_latents(lesson, right, dice):
    assert_close(right[dice].x, lesson["library"](dice, STEPS), rtol=1e-5, atol=1e-5)


def test_the_library_s_sampler_is_put_back(pipe, lesson):
    before = pipe.scheduler
    lesson["library"](True, STEPS)
    assert pipe.scheduler is before


@pytest.mark.parametrize("texts", [["", "a fox"], ["an owl", "a fox left of a pizza on a white background"]])
def test_padding_is_the_tokenizer_s(texts):
    tokenizer = tiny_tokenizer()
    rows, length = tokenizer(texts).input_ids, tokenizer.model_max_length
    expected = tokenizer(texts, padding="max_length", truncation=True).input_ids
    assert patients.pad(rows, length, tokenizer.pad_token_id) == expected


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_the_betas_are_the_scheduler_s_and_the_course_s(kind):
    scheduler = DDIMScheduler(beta_schedule=kind, beta_start=0.00085, beta_end=0.012)
    assert_close(patients.betas(scheduler.config), scheduler.betas)
    assert_close(patients.betas(scheduler.config), course_betas(kind), rtol=1e-5, atol=1e-8)


def test_an_unknown_schedule_is_refused_by_name():
    with pytest.raises(ValueError, match="'squaredcos_cap_v2': choose 'linear' or 'scaled_linear'"):
        patients.betas(DDIMScheduler(beta_schedule="squaredcos_cap_v2").config)


@pytest.mark.parametrize("t", [1, 500, 981])
def test_the_noise_in_a_velocity_is_the_one_that_went_in(t):
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    x0, eps = patients.noises(0, 2, (1, 4, 3, 3))
    time, a = torch.tensor([t]), float(scheduler.alphas_cumprod[t])
    x_t, v = scheduler.add_noise(x0, eps, time), scheduler.get_velocity(x0, eps, time)
    assert_close(patients.as_noise(v, x_t, a, "v_prediction"), eps, rtol=0, atol=1e-5)
    assert patients.as_noise(eps, x_t, a, "epsilon") is eps


def test_pixels_are_those_of_the_image_processor(pipe):
    y = 1.2 * patients.noises(0, 1, (2, 3, 8, 8))[0]
    pictures = pipe.image_processor.postprocess(y, output_type="pil")
    assert np.array_equal(patients.to_pixels(y).numpy(), np.stack([np.asarray(picture) for picture in pictures]))


# The patients


def test_every_patient_has_another_cause_and_is_known_to_the_exercises():
    assert len({patient.cause for patient in PATIENTS}) == len(PATIENTS) == len(DIAGNOSES) + 1
    assert set(SIGNS) == set(Cause)
    for number, patient in enumerate(PATIENTS):
        assert set(patient.wrong) <= set(HEALTHY) and patient.cure in HEALTHY
        if number:
            assert EXERCISES[f"12.diagnosis_{number}"].solution() is patient.cause
            assert (f"12.{patient.cure}" in EXERCISES) == (patient.cure in MENDED)


@each_patient
def test_a_patient_is_ill_and_its_cure_cures_it(lesson, right, ill, patient):
    well = right[patient.dice]
    assert not torch.equal(ill(patient.cause).pixels, well.pixels)

    cure = HEALTHY[patient.cure] if patient.cause is not Cause.HALF_OVERFLOW else decode
    lesson["runs"].clear()  # so that the loop runs anew
    cured = lesson["draw"]({**patient.parts(), patient.cure: cure}, patient.dice)
    assert_close(cured.x, well.x, rtol=0, atol=1e-5)
    # The weights of the overflowing VAE were rounded to half precision.
    assert (cured.pixels.int() - well.pixels.int()).abs().max() <= (0 if cure is not decode else 3)


@each_patient
def test_a_patient_is_wrong_from_the_quantity_on_that_the_lesson_names(right, ill, patient):
    """In which row of the first column, in which step, or where after the loop, a patient first differs."""
    well, found = right[patient.dice], ill(patient.cause)
    step, name = first_divergence(found.record, well.record, 1e-6)
    after = {Cause.NOT_UNSCALED, Cause.HALF_OVERFLOW, Cause.NOT_CLAMPED, Cause.CHANNELS_SWAPPED}
    later = {Cause.NOISE_REUSED, Cause.STEPPED_TWICE}
    noise = {Cause.WRONG_PADDING, Cause.ROWS_SWAPPED, Cause.INDEX_AS_TIMESTEP, Cause.WRONG_PREDICTION}
    row = {Cause.START_NOT_SCALED: "x", Cause.LINEAR_BETAS: "x", Cause.INPUT_NOT_SCALED: "x_in"}
    row |= dict.fromkeys(noise, "eps")
    if patient.cause in row:
        assert (step, name) == (1, row[patient.cause])
    else:
        assert (step, name) == ((2, "x") if patient.cause in later else (None, None))
    assert torch.equal(found.x, well.x) == (patient.cause in after)
    assert patient.cause in {*row, *after, *later}


def test_what_the_hints_say_of_the_scales(right, ill):
    def first(cause):
        return ill(cause).record[0]

    well = right[False].record[0]
    assert well.x.std() > 5 and abs(well.x_in.std() - 1) < 0.1
    assert abs(first(Cause.START_NOT_SCALED).x.std() - 1) < 0.1
    assert torch.equal(first(Cause.INPUT_NOT_SCALED).x_in, well.x)
    assert first(Cause.LINEAR_BETAS).x.std() > 1.2 * well.x.std()
    assert abs(first(Cause.LINEAR_BETAS).x_in.std() - 1) < 0.1


def test_two_steps_for_one_run_out_half_way(ill):
    assert len(ill(Cause.STEPPED_TWICE).record) == STEPS // 2


@pytest.mark.parametrize("cause", [Cause.START_NOT_SCALED, Cause.INPUT_NOT_SCALED, Cause.STEPPED_TWICE])
def test_with_the_other_sampler_these_mistakes_do_nothing(lesson, right, cause):
    parts = patient_of(cause).parts()
    assert_close(lesson["draw"](parts, True).x, right[True].x, rtol=0, atol=1e-6)


def test_equal_draws_add_up(pipe):
    """With a network that is right about standard normal data, a right run keeps its size."""
    lesson = definitions(LESSON, pipe=pipe, PROMPT="a fox", SEED=5, STEPS=20, scale=1.0)
    alpha_bar = pipe.scheduler.alphas_cumprod
    lesson["network"] = lambda x, t, words: (1 - alpha_bar[int(t)]).sqrt() * x
    right, ill = (
        lesson["loop"](lesson["SimpleNamespace"](**parts), True)[1]
        for parts in (HEALTHY, patient_of(Cause.NOISE_REUSED).parts())
    )
    assert abs(right.std() - 1) < 0.2
    assert ill.std() > 2


def test_missing_clamps_touch_nothing_within_the_range():
    y = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
    unclamped = patient_of(Cause.NOT_CLAMPED).wrong["to_pixels"]
    assert torch.equal(unclamped(y), patients.to_pixels(y))
    assert unclamped(torch.full((1, 3, 1, 1), 1.02)).max() < 5 and unclamped(-1.02 * y[:1]).shape == (1, 4, 4, 3)


def test_the_loud_vae_paints_the_same_in_float32_and_overflows_in_float16(pipe):
    loud = patients.loud_vae(pipe)
    z = patients.noises(1, 1, (1, 4, 32, 32))[0]
    assert loud.dtype == torch.float16
    assert not torch.isfinite(loud.decode(z.half()).sample).all()
    with quiet(bars=True):
        picture = loud.float().decode(z).sample
    assert_close(picture, pipe.vae.decode(z).sample, rtol=0, atol=2e-2)
    assert pipe.vae.dtype == torch.float32


def test_a_patient_without_numbers_is_black(lesson):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        ill = lesson["draw"](patient_of(Cause.HALF_OVERFLOW).parts(), dice=False)
    assert torch.isnan(ill.y).any() and (ill.pixels == 0).any()


# The lesson's tools


@pytest.fixture
def tools(pipe, right):
    found = definitions(LESSON, pipe=pipe, right=right, patients={}, MOMENTS=[0, 1, 2, 3], STEPS=STEPS)
    found["QUANTITIES"] = {"latents": "x", "shown": "x_in", "noise": "eps", "estimate": "x0"}
    return found


def test_the_sheet_of_a_patient_that_breaks_off_has_gaps(tools, right, ill, capsys):
    tools["table"](ill(Cause.STEPPED_TWICE), right[False])
    text = capsys.readouterr().out
    assert f"with an IndexError, in step {STEPS // 2 + 1} of {STEPS}" in text
    assert text.splitlines()[1].split()[-1] == "-"
    figure = tools["chart"](ill(Cause.STEPPED_TWICE), right[False])
    assert figure.axes[0].images[0].get_array().shape == (4, STEPS // 2)
    plots.plt.close(figure)
    kinds = [one is None for one in tools["estimates"](ill(Cause.STEPPED_TWICE), [0, 1, 2])]
    assert kinds == [False, False, True]


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (Cause.HALF_OVERFLOW, ("nan % apart", "| 100.0 %")),  # no value is between -1 and 1
        (Cause.CHANNELS_SWAPPED, ("decoded values y: 0 % apart",)),
    ],
)
def test_a_run_that_is_right_up_to_the_decoding_gets_no_table(tools, right, ill, capsys, cause, says):
    tools["table"](ill(cause), right[patient_of(cause).dice])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "x, x_in, eps and x0: 0 % apart at every step"
    assert all(text in " ".join(rest) for text in says)
    assert re.fullmatch(r"bytes: \d+ of 255 apart in the mean \(the two right pictures: \d+\)", rest[-1])


def test_equal_parts_run_once_and_other_parts_or_words_anew(lesson, monkeypatch):
    runs = []
    healthy, own = patient_of(Cause.NOT_UNSCALED).parts(), patient_of(Cause.ROWS_SWAPPED).parts()
    loop = lesson["loop"]
    monkeypatch.setitem(lesson, "runs", {})
    monkeypatch.setitem(lesson, "loop", lambda part, dice: runs.append(dice) or loop(part, dice))
    for parts, dice in ((HEALTHY, False), (healthy, False), (HEALTHY, True), (own, False)):
        lesson["draw"](parts, dice)
    assert runs == [False, True, False]
    monkeypatch.setitem(lesson, "PROMPT", "a crab")
    lesson["draw"](HEALTHY, False)
    assert len(runs) == 4


def test_a_patient_that_was_not_examined_is_drawn_when_it_is_asked_for(lesson, ill):
    patients_drawn = lesson.setdefault("patients", {})
    found = lesson["ward"](5)
    assert torch.equal(found.x, ill(PATIENTS[5].cause).x)
    assert lesson["ward"](5) is found and set(patients_drawn) == {5}


def test_the_lines_that_the_lesson_calls_right_and_wrong_stand_in_the_parts():
    texts = [cell.source for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "markdown"]
    blocks = re.findall(r"```python\n# right\n(.*?)\n# patient (\d+)\n(.*?)\n```", "\n".join(texts), re.DOTALL)
    assert [int(number) for _, number, _ in blocks] == list(range(len(PATIENTS)))
    for right, number, wrong in blocks:
        ((name, part),) = PATIENTS[int(number)].wrong.items()
        code = [{line.strip() for line in inspect.getsource(one).splitlines()} for one in (HEALTHY[name], part)]
        for own, (shown, other) in enumerate(((right, wrong), (wrong, right))):
            lines = {line.strip() for line in shown.splitlines()}
            assert lines <= code[own] and not lines & {line.strip() for line in other.splitlines()}
            assert own or not lines <= code[1]


def test_distances_are_shares_of_the_right_tensor(lesson):
    a, b = patients.noises(0, 2, (1, 4, 8, 8))
    assert lesson["apart"](a, a) == 0
    assert abs(lesson["apart"](1.25 * a, a) - 0.25) < 1e-6
    assert abs(lesson["apart"](a, b) - apart(a, b)) < 1e-6


def test_only_three_mistakes_are_noticed_on_the_way_to_the_pixels(lesson):
    usual = {dice: lesson["remarks"](HEALTHY, dice)[0] for dice in (False, True)}
    told = {}
    for patient in PATIENTS:
        heard, stopped = lesson["remarks"](patient.parts(), patient.dice)
        if stopped or heard - usual[patient.dice]:
            told[patient.cause] = stopped, " ".join(heard - usual[patient.dice])
    assert set(told) == {Cause.HALF_OVERFLOW, Cause.STEPPED_TWICE, Cause.INPUT_NOT_SCALED}
    assert [cause for cause, (stopped, _) in told.items() if stopped] == [Cause.STEPPED_TWICE]
    assert "scale_model_input" in told[Cause.INPUT_NOT_SCALED][1]
    assert "invalid value" in told[Cause.HALF_OVERFLOW][1]


@each_patient
def test_the_part_that_a_patient_has_gets_a_hint(patient):
    if patient.cure not in MENDED:
        return
    part = patient.parts()[patient.cure]
    assert verdict(f"12.{patient.cure}", part).kind == "mistake"


def test_a_run_that_turns_to_nan_is_found_where_it_does():
    """A comparison with nan is False, so that the plain `distance > limit` would call such a run right."""
    well = [SimpleNamespace(**dict.fromkeys(("x", "x_in", "eps", "x0"), torch.ones(3))) for _ in range(3)]
    ill = [SimpleNamespace(**vars(moment)) for moment in well]
    ill[1].eps = torch.tensor([1.0, math.nan, 1.0])
    assert first_divergence(ill, well, 0.01) == (2, "eps")
    ill[0].x0 = torch.tensor([1.0, math.inf, 1.0])
    assert first_divergence(ill, well, 0.01) == (1, "x0")
    assert first_divergence(well, well, 0.01) == (None, None)


def test_the_table_names_every_patient_and_each_diagnosis_a_thread_that_tells_of_it():
    texts = [cell.source for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "markdown"]
    table = next(text for text in texts if "## Symptom and cure" in text)
    assert len([line for line in table.splitlines() if re.match(r"\| \d", line)]) == len(PATIENTS)
    told = [text for text in texts if "<summary>Why</summary>" in text]
    assert len(told) == len(PATIENTS) - 1
    for text in told:
        _, reason = text.split("<summary>Why</summary>")
        assert re.search(r"\]\(https://github\.com/[^)]+/(issues|pull)/\d+\)", reason.split("</details>")[0])
