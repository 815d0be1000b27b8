"""Every exercise of every lesson, held to the same rules; and the notebooks that use them."""

import ast
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from helpers import exercises
from helpers.exercises import EXERCISES, Exercise, Mistake, difference, verdict
from tests.lessons import CHECK, LESSONS, SOLUTION

each_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
each_mistake = pytest.mark.parametrize(
    ("exercise", "mistake"),
    [(exercise, mistake) for exercise in EXERCISES.values() for mistake in exercise.mistakes],
    ids=[f"{name}-{index}" for name, exercise in EXERCISES.items() for index in range(len(exercise.mistakes))],
)


# --- what every exercise must hold


@each_exercise
def test_the_solution_passes(exercise):
    assert verdict(exercise.name, exercise.solution).kind == "right"


@each_exercise
def test_there_are_usual_mistakes_with_hints_of_their_own(exercise):
    hints = [mistake.hint for mistake in exercise.mistakes]
    assert len(hints) >= 2
    assert len(set(hints)) == len(hints)
    assert all(hint.strip() and "\n" not in hint for hint in hints)


@each_mistake
def test_a_mistake_gets_its_own_hint(exercise, mistake):
    answer = verdict(exercise.name, mistake.wrong)
    assert answer.kind == "mistake"
    assert answer.text.endswith(mistake.hint)


@each_exercise
def test_an_unanswered_exercise_is_told_so(exercise):
    def not_implemented(*arguments):
        raise NotImplementedError

    for stub in (lambda *arguments: None, lambda *arguments: ..., not_implemented, None, ...):
        answer = verdict(exercise.name, stub)
        assert answer.kind == "unanswered"
        assert "not answered yet" in answer.text


@each_exercise
def test_an_exception_is_reported_and_does_not_propagate(exercise, capsys):
    def broken(*arguments):
        number = 0
        return 1 / number

    exercises.check(exercise.name, broken)
    text = capsys.readouterr().out
    assert "raised ZeroDivisionError: division by zero" in text
    assert text.endswith("return 1 / number\n")


@each_exercise
def test_an_unusual_wrong_answer_shows_input_expected_and_got(exercise):
    answer = verdict(exercise.name, lambda *arguments: "nothing of the kind")
    assert answer.kind == "wrong"
    assert f"For {exercise.solution.__name__}(" in answer.text
    assert "the answer is " in answer.text
    assert "yours is 'nothing of the kind'" in answer.text


@each_exercise
def test_every_verdict_is_one_line_and_the_same_twice(exercise):
    class Odd:
        def __eq__(self, other):
            raise RuntimeError("no")

    for answer in (exercise.solution, lambda *a: None, lambda *a: object(), lambda *a: Odd(), lambda: 1, 7, len):
        first, second = verdict(exercise.name, answer).text, verdict(exercise.name, answer).text
        assert first == second
        assert "\n" not in first
        assert first.startswith(f"{exercise.name}: ")
        assert "0x" not in first


@each_exercise
def test_the_random_state_of_the_notebook_is_left_alone(exercise):
    before = torch.random.get_rng_state()
    verdict(exercise.name, lambda *arguments: torch.randn(3))
    assert torch.equal(torch.random.get_rng_state(), before)


# --- the mechanism, on exercises made here


def made(monkeypatch, solution, cases, *mistakes, **options) -> str:
    name = "99.made"
    exercise = Exercise(name=name, solution=solution, cases=cases, mistakes=mistakes, **options)
    monkeypatch.setitem(EXERCISES, name, exercise)
    return name


def test_an_unknown_name_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"Unknown exercise '00\.nothing': choose one of 00\.latent_shape, "):
        exercises.check("00.nothing", len)


def test_a_result_instead_of_the_function_is_told_so():
    text = verdict("00.latent_shape", (1, 4, 16, 16)).text
    assert text.endswith("give check the function itself, latent_shape, not (1, 4, 16, 16).")


def test_the_wrong_number_of_arguments_is_reported():
    answer = verdict("00.compression", lambda height: height)
    assert answer.kind == "raised"
    assert "raised TypeError" in answer.text
    assert "takes 1 positional argument but 2 were given" in answer.text


def test_an_error_deep_in_a_library_is_placed_in_the_learners_line(monkeypatch):
    name = made(monkeypatch, torch.relu, [(torch.ones(2),)])

    def adds(x):
        return torch.cat([x, torch.ones(3, 3)])

    text = verdict(name, adds).text
    assert "raised RuntimeError" in text
    assert text.endswith("return torch.cat([x, torch.ones(3, 3)])")


def test_an_exit_does_not_end_the_kernel():
    assert verdict("00.compression", lambda *arguments: exit()).kind == "raised"


def test_an_interrupt_stays_an_interrupt():
    def endless(*arguments):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verdict("00.compression", endless)


def test_one_missing_case_is_wrong_not_unanswered():
    answer = verdict("00.unet_calls", lambda steps, pictures, s: 2 * steps * pictures if s > 1 else None)
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


def cells(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def checks(path: Path) -> list[tuple[str, str]]:
    """(exercise, name of the function) of every check in a notebook."""
    return [match.groups() for source in cells(path, "code") for match in CHECK.finditer(source)]


def solutions(path: Path) -> dict[str, str]:
    """The code of every folded solution in a notebook, by exercise."""
    return {m["name"]: m["code"] for source in cells(path, "markdown") for m in SOLUTION.finditer(source)}


def imports(path: Path) -> str:
    """All top-level import statements of a notebook, one a line: what a solution may take for granted."""
    found = []
    for source in cells(path, "code"):
        plain = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
        found += [ast.unparse(node) for node in ast.parse(plain).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(found)


def test_the_folded_form_is_read():
    text = "<details>\n<summary>Solution: 00.x</summary>\n\n```python\ndef x():\n    return 1\n```\n\n</details>"
    assert SOLUTION.search(f"Before.\n\n{text}\n").groupdict() == {"name": "00.x", "code": "def x():\n    return 1"}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_notebook_checks_exactly_the_exercises_of_its_lesson(path):
    names = [name for name, _ in checks(path)]
    assert sorted(names) == sorted(name for name in EXERCISES if name.startswith(path.stem[:3].replace("_", ".")))
    for name, function in checks(path):
        assert function == EXERCISES[name].solution.__name__


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_check_in_a_notebook_is_one_this_file_can_read(path):
    text = "\n".join(cells(path, "code"))
    assert text.count("exercises.check(") == len(checks(path))


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path in LESSONS for name, _ in checks(path)], ids=lambda value: str(value)
)
def test_the_folded_solution_in_the_notebook_passes(path, name):
    folded = solutions(path)
    assert name in folded, f"{path.name} has no folded solution for {name}"
    namespace = {}
    exec(f"{imports(path)}\n{folded[name]}", namespace)
    assert verdict(name, namespace[EXERCISES[name].solution.__name__]).kind == "right"
