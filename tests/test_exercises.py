"""Every exercise of every lesson, held to the same rules; the mechanism; and the notebooks that use them."""

import random
import re

import nbformat
import numpy as np
import pytest
import torch

from helpers import exercises
from helpers.exercises import EXERCISES, QUIZZES, Exercise, Mistake, Option, Quiz, difference, verdict
from tests.lessons import CHECK, LESSONS, checks, code_cells, imports, solutions
from tools.stamp_notebooks import label

# By the parts of a pipeline, with an exercise that has no check, and by patients.
NUMBERED_OTHERWISE = ("07", "07b", "12")


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_the_solution_passes_and_each_usual_mistake_gets_its_own_hint(exercise):
    assert verdict(exercise.name, exercise.solution).kind == "right"
    hints = [mistake.hint for mistake in exercise.mistakes]
    assert len(hints) >= 2
    assert len(set(hints)) == len(hints)
    for mistake in exercise.mistakes:
        answer = verdict(exercise.name, mistake.wrong)
        assert (answer.kind, answer.text) == ("mistake", f"{exercise.name}: not right yet. Hint: {mistake.hint}")
        assert "\n" not in answer.text


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_hints_are_two_or_three_and_give_no_solution(exercise):
    hints = exercise.hints
    # In lesson 12 a wrong diagnosis is answered by what speaks against it.
    assert len(hints) in ((0,) if exercise.name.startswith("12.") else (2, 3))
    assert len(set(hints)) == len(hints)
    assert all("\n" not in hint and hint.endswith((".", "?")) and "return" not in hint for hint in hints)


@pytest.mark.parametrize("quiz", QUIZZES.values(), ids=QUIZZES)
def test_a_quiz_has_one_right_answer_and_a_reason_for_each(quiz):
    assert [option.right for option in quiz.options].count(True) == 1
    assert len(quiz.options) >= 3
    texts = [option.text for option in quiz.options]
    assert len(set(texts)) == len(texts)
    reasons = [option.why for option in quiz.options]
    assert len(set(reasons)) == len(reasons)
    assert all(len(reason.split()) >= 8 and reason.endswith(".") for reason in reasons)
    assert quiz.question.endswith("?")


def test_the_lengths_of_answers_do_not_give_the_right_ones_away():
    longest = [max(quiz.options, key=lambda option: len(option.text)).right for quiz in QUIZZES.values()]
    assert not all(longest)


# --- hints and quizzes


@pytest.fixture
def asked(monkeypatch):
    """No hint has been given yet."""
    monkeypatch.setattr(exercises, "_asked", type(exercises._asked)())


def test_hints_come_one_by_one_and_then_the_solution_is_named(capsys, asked):
    for _ in range(5):
        exercises.hint("02.loop")
    exercises.hint("02.dice_at")
    *given, first_of_the_other = capsys.readouterr().out.splitlines()
    hints = EXERCISES["02.loop"].hints
    assert given == [
        *[f"02.loop: hint {i} of 3: {text}" for i, text in enumerate(hints, start=1)],
        *["02.loop: there are no more hints. The solution is folded below the check."] * 2,
    ]
    assert first_of_the_other.startswith("02.dice_at: hint 1 of 3: ")


def test_an_exercise_without_hints_says_so(capsys, monkeypatch, asked):
    exercises.hint(made(monkeypatch, abs, [(1,)]))
    assert capsys.readouterr().out == "99.made: there are no hints. The solution is folded below the check.\n"


@pytest.mark.parametrize("name", ["00.nothing", len, ["00.every_step"]])
def test_an_unknown_hint_or_quiz_is_refused_with_the_choices(name):
    with pytest.raises(ValueError) as caught:
        exercises.hint(name)
    assert str(caught.value).startswith(f"Unknown exercise {name!r}: choose one of 00.change_words, ")
    with pytest.raises(ValueError) as caught:
        exercises.quiz(name)
    assert str(caught.value).startswith(f"Unknown quiz {name!r}: choose one of 00.every_step, ")


TWO = Quiz(
    name="99.made",
    question="Is `a < b` true?",
    options=(Option("Yes & no", "It is `not` both."), Option("<b>No</b>", "b comes first.", right=True)),
)


def test_a_quiz_folds_each_verdict_under_its_answer_and_needs_no_script():
    card = TWO.card()
    folded = re.findall(r"<details [^>]*><summary [^>]*>(.*?)</summary>(.*?)</details>", card)
    plain = [[re.sub("<[^>]+>", "", part) for part in pair] for pair in folded]
    assert plain == [
        ["AYes &amp; no", "✕ No. It is not both."],
        ["B&lt;b&gt;No&lt;/b&gt;", "✓ Right. b comes first."],
    ]
    assert TWO.name not in card and "Open the answer you expect" in card
    assert not re.search(r"<script|<style|\bopen\b[^ ]*>|\son\w+=", card)
    assert re.search(r"Is <code [^>]*>a &lt; b</code> true\?", card)


def test_a_quiz_as_text_keeps_the_answer_to_itself(monkeypatch, capsys):
    monkeypatch.setitem(QUIZZES, TWO.name, TWO)
    exercises.quiz("99.made")  # outside of a notebook it is printed
    assert capsys.readouterr().out == "Is `a < b` true?\nA. Yes & no\nB. <b>No</b>\n"


# --- the mechanism, on exercises made here


def made(monkeypatch, solution, cases, *mistakes, **options) -> str:
    name = "99.made"
    exercise = Exercise(name=name, solution=solution, cases=cases, mistakes=mistakes, **options)
    monkeypatch.setitem(EXERCISES, name, exercise)
    return name


@pytest.fixture
def halved(monkeypatch):
    """The name of an exercise on a tensor and a number."""
    name = made(monkeypatch, lambda x, n: x[:n] / 2, [(torch.ones(4), 2), (torch.arange(3.0), 1)])
    monkeypatch.setattr(EXERCISES[name].solution, "__name__", "halved")
    return name


def not_implemented(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize("stub", [lambda *arguments: None, lambda *arguments: ..., not_implemented, None, ...])
def test_an_unanswered_exercise_is_told_so(halved, stub):
    answer = verdict(halved, stub)
    assert answer.kind == "unanswered"
    assert "not answered yet" in answer.text


def test_an_exception_is_reported_and_does_not_propagate(halved, capsys):
    def broken(*arguments):
        number = 0
        return 1 / number

    exercises.check(halved, broken)
    text = capsys.readouterr().out
    assert "halved(a tensor of shape (4,), float32 = [1.0, 1.0, 1.0, 1.0], 2) raised ZeroDivisionError: " in text
    assert text.endswith("return 1 / number\n")


def test_an_unusual_wrong_answer_shows_input_expected_and_got(halved):
    answer = verdict(halved, lambda *arguments: "nothing of the kind")
    assert answer.kind == "wrong"
    assert "For halved(a tensor of shape (4,), float32 = [1.0, 1.0, 1.0, 1.0], 2) the answer is a tensor" in answer.text
    assert "yours is 'nothing of the kind': a tensor is expected, not a str." in answer.text


class Odd:
    def __eq__(self, other):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, n: x[:n] / 2,
        lambda *arguments: object(),
        lambda *arguments: Odd(),
        lambda: 1,
        7,
        len,
        lambda x, n: torch.randn(n),
        lambda x, n: torch.from_numpy(np.random.rand(n)),  # noqa: NPY002
        lambda x, n: random.random(),
    ],
)
def test_every_verdict_is_one_line_and_the_same_twice(halved, answer):
    random.seed()
    np.random.seed()  # noqa: NPY002
    torch.seed()
    first, second = verdict(halved, answer).text, verdict(halved, answer).text
    assert first == second
    assert "\n" not in first
    assert first.startswith(f"{halved}: ")
    assert "0x" not in first


def random_states():
    """What the next random numbers will be, of every kind that a learner's cell may draw."""
    kind, numbers, *rest = np.random.get_state()  # noqa: NPY002
    gpus = [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return random.getstate(), (kind, numbers.tolist(), *rest), torch.get_rng_state().tolist(), gpus


def draws(x, n):
    random.random(), np.random.rand(), torch.randn(3)  # noqa: NPY002
    if torch.cuda.is_available():
        torch.randn(3, device="cuda")
    torch.manual_seed(7)
    return x[:n]


def interrupted(x, n):
    draws(x, n)
    raise KeyboardInterrupt


def test_every_random_state_of_the_notebook_is_left_alone(halved):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = random_states()
    assert verdict(halved, draws).kind == "wrong"
    assert random_states() == before
    with pytest.raises(KeyboardInterrupt):
        verdict(halved, interrupted)
    assert random_states() == before


@pytest.mark.parametrize("name", ["00.nothing", len, ["00.change_words"]])
def test_an_unknown_name_is_refused_with_the_choices(name):
    with pytest.raises(ValueError) as caught:
        exercises.check(name, len)
    assert str(caught.value).startswith(f"Unknown exercise {name!r}: choose one of 00.change_words, ")


def test_a_result_instead_of_the_function_is_told_so():
    text = verdict("00.latents_shown", 4).text
    assert text.endswith("give check the function itself, latents_shown, not 4.")


def test_the_wrong_number_of_arguments_is_reported():
    answer = verdict("00.latents_shown", lambda steps: steps)
    assert answer.kind == "raised"
    assert "raised TypeError" in answer.text
    assert "takes 1 positional argument but 3 were given" in answer.text


def test_an_error_deep_in_a_library_is_placed_in_the_learners_line(monkeypatch):
    name = made(monkeypatch, torch.relu, [(torch.ones(2),)])

    def adds(x):
        return torch.cat([x, torch.ones(3, 3)])

    text = verdict(name, adds).text
    assert "raised RuntimeError" in text
    assert text.endswith("return torch.cat([x, torch.ones(3, 3)])")


def test_an_exit_does_not_end_the_kernel():
    assert verdict("00.latents_shown", lambda *arguments: exit()).kind == "raised"


def test_an_interrupt_stays_an_interrupt():
    def endless(*arguments):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verdict("00.latents_shown", endless)


def test_one_missing_case_is_wrong_not_unanswered():
    answer = verdict("00.latents_shown", lambda steps, pictures, s: 2 * steps * pictures if s > 1 else None)
    assert answer.kind == "wrong"
    assert "yours is None" in answer.text


def test_changing_the_arguments_harms_nobody(monkeypatch):
    x, items = torch.ones(2, 2), [1, 2, 3]

    def total(x, items):
        return float(x.sum()) + sum(items)

    def careless(x, items):
        result = float(x.sum()) + sum(items)
        x.zero_()
        items.clear()
        return result

    name = made(monkeypatch, total, [(x, items), (x, items)], Mistake(lambda x, items: 0.0, "you gave nothing."))
    assert verdict(name, careless).kind == "right"
    assert verdict(name, careless).kind == "right"
    assert x.sum() == 4
    assert items == [1, 2, 3]


def test_a_result_that_is_changed_later_counts_as_it_was(monkeypatch):
    box = []

    def same_box(n):
        box.append(n)
        return box

    name = made(monkeypatch, lambda n: list(range(1, n + 1)), [(1,), (2,)])
    assert verdict(name, same_box).kind == "right"


def test_random_numbers_are_the_same_for_learner_and_solution(monkeypatch):
    name = made(monkeypatch, lambda n: 2 * torch.randn(n), [(3,)], Mistake(lambda n: torch.randn(n), "double it."))
    assert verdict(name, lambda n: torch.randn(n) + torch.zeros(n)).kind == "mistake"
    assert verdict(name, lambda n: torch.randn(n) * 2).kind == "right"


def test_cases_can_be_built_on_demand(monkeypatch):
    calls = []

    def cases():
        calls.append(1)
        return [(torch.ones(2),)]

    name = made(monkeypatch, torch.neg, cases)
    assert not calls
    assert verdict(name, lambda x: -x).kind == "right"


def test_a_mistake_that_raises_is_recognised_by_its_error(monkeypatch):
    name = made(
        monkeypatch, lambda x: x @ x.T, [(torch.ones(2, 3),)], Mistake(lambda x: x @ x, "transpose one of them.")
    )
    assert verdict(name, lambda x: x @ x).text.endswith("Hint: transpose one of them.")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (torch.zeros(2, 3), "the shape (3, 2) is expected, not (2, 3)"),
        (torch.zeros(3, 2, dtype=torch.float64), "the dtype float32 is expected, not float64"),
        (np.zeros((3, 2), np.float32), "a tensor is expected, not an array"),
        ([0.0] * 6, "a tensor is expected, not a list"),
        (torch.tensor([[0, 0], [0, 1.5], [0, 0]]), "1 of 6 values differ, first at [1, 1]: 0.0 expected, not 1.5"),
        (torch.full((3, 2), float("nan")), "6 of 6 values differ, first at [0, 0]: 0.0 expected, not nan"),
    ],
)
def test_a_wrong_tensor_is_named(monkeypatch, wrong, says):
    name = made(monkeypatch, lambda: torch.zeros(3, 2), [()])
    assert verdict(name, lambda: wrong).text.endswith(f"{says}.")


@pytest.mark.parametrize(
    ("expected", "got", "says"),
    [
        (16, 16, None),
        (16, np.int64(16), None),
        (16, 16.0, "a whole number (int) is expected, not the float 16.0"),
        (16, True, "a number is expected, not a bool"),
        (48.0, 48, None),
        (48.0, torch.tensor(48.0), None),
        (48.0, 48.001, None),
        (48.0, 48.1, "48.0 is expected, not 48.1"),
        (1 / 3, "1/3", "a number is expected, not a str"),
        (float("nan"), float("nan"), None),
        (float("inf"), float("inf"), None),
        (True, True, None),
        (True, 1, "True expected, not 1"),
        (torch.tensor([20000]), torch.tensor([20000]), None),
        (torch.tensor([20000]), torch.tensor([20001]), "1 of 1 values differ, first at [0]: 20000 expected, not 20001"),
        (np.array(20000), np.array(20001), "1 of 1 values differ, 20000 expected, not 20001"),
        (torch.tensor([20000.0]), torch.tensor([20001.0]), None),
        (torch.tensor([True]), torch.tensor([False]), "1 of 1 values differ, first at [0]: True expected, not False"),
        ((1, 4), torch.Size((1, 4)), None),
        ((1, 4), [1, 4], "a tuple is expected, not a list"),
        ((1, 4), (1, 4, 2), "2 items are expected, not 3"),
        ((1, (4, 2)), (1, (4, 3)), "in item 1, in item 1, 2 is expected, not 3"),
        ({"a": 1.0}, {"a": 1.0}, None),
        ({"a": 1.0}, {"b": 1.0}, "the keys ['a'] are expected, not ['b']"),
        ({"a": 1.0}, {"a": 2.0}, "under 'a', 1.0 is expected, not 2.0"),
        ("a fox", "a fox", None),
        ("a fox", "a fix", "from character 3 on, 'ox' is expected, not 'ix'"),
        ("a fox", "a f", "from character 3 on, 'ox' is expected, not the end"),
        ("a fox", None, "a str is expected, not None"),
        (torch.float32, torch.float32, None),
        (torch.float32, torch.float16, "their values differ"),
    ],
)
def test_difference(expected, got, says):
    assert difference(expected, got) == says


# --- the notebooks


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_notebook_checks_exactly_the_exercises_of_its_lesson(path):
    found = checks(path)
    lesson = {name: exercise for name, exercise in EXERCISES.items() if name.startswith(f"{label(path)}.")}
    assert sorted(found) == sorted((name, exercise.solution.__name__) for name, exercise in lesson.items())
    assert "\n".join(code_cells(path)).count("exercises.check(") == len(found)  # no other that is not seen here


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_before_each_check_stand_its_numbered_task_and_the_name_of_its_hint(path):
    told, number = "", 0
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            told += f"{cell.source}\n"
        for name, _ in CHECK.findall(cell.source) if cell.cell_type == "code" else ():
            number += 1
            assert f'`exercises.hint("{name}")`' in told or not EXERCISES[name].hints, name
            if label(path) not in NUMBERED_OTHERWISE:
                assert re.search(rf"^\*\*(Exercise )?{number}[.:] ", told, re.MULTILINE), name
            told = ""


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_folded_solutions_in_the_notebook_pass(path):
    folded = solutions(path)
    assert sorted(folded) == sorted(name for name, _ in checks(path))
    for name, code in folded.items():
        namespace = {}
        exec(f"{imports(path)}\n{code}", namespace)
        assert verdict(name, namespace[EXERCISES[name].solution.__name__]).kind == "right", name
