"""Checked exercises: the learner fills in a function, and `check` answers at once.

    exercises.check("00.latents_shown", latents_shown)

prints one line: not answered yet, right, or not right yet with a hint for that very mistake. It never raises for
anything the learner's function does, so *Run All* goes through an unfinished lesson.

An exercise is data: inputs, the solution, and the usual mistakes as functions, each with its hint. The exercises of
lesson 09 stand in `lesson_09.py` beside this file as a tuple named `EXERCISES`; they are found by that name, and the
tests hold every one of them to the same rules. A lesson's module must import fast: build models inside `cases`.

    exercises.hint("00.latents_shown")    # the next hint
    exercises.quiz("00.every_step")      # a multiple-choice question

Hints stand in the exercise; questions in the same module as a tuple named `QUIZZES` (see `quizzes`).
"""

import copy
import importlib
import linecache
import math
import numbers
import pkgutil
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from IPython import get_ipython
from IPython.display import display

from helpers.exercises.quizzes import Option, Quiz

__all__ = [
    "EXERCISES",
    "QUIZZES",
    "Exercise",
    "Mistake",
    "Option",
    "Quiz",
    "Verdict",
    "check",
    "difference",
    "hint",
    "or_reference",
    "quiz",
    "verdict",
]

Arguments = tuple[Any, ...]
Kind = Literal["right", "unanswered", "mistake", "wrong", "raised"]

MESSAGE_LENGTH = 200  # characters of a value or of an exception's message that a verdict repeats


@dataclass(frozen=True)
class Mistake:
    """A usual wrong answer: `wrong` computes it, `hint` says what went wrong without giving the solution away."""

    wrong: Callable[..., Any]
    hint: str


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One exercise, as data.

    name: lesson number, dot, a word: `00.latents_shown`.
    solution: a right answer; its `__name__` is the name of the learner's function.
    cases: argument tuples the function is called with, at least one of which tells each mistake from the solution; or
        a function returning them, for inputs that are expensive to build (a model, a run).
    mistakes: tried in order; the first whose results equal the learner's gives the hint.
    hints: what `hint` gives one by one, from vague to near; none of them is the solution.
    rtol, atol: tolerance on numbers and tensors, as in `torch.isclose`. The defaults suit float32 sums whose order may
        change with the machine.
    """

    name: str
    solution: Callable[..., Any]
    cases: Sequence[Arguments] | Callable[[], Sequence[Arguments]]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, ...] = ()
    rtol: float = 1e-4
    atol: float = 1e-5

    def arguments(self) -> Sequence[Arguments]:
        """The argument tuples, built now if they are built on demand."""
        return self.cases() if callable(self.cases) else self.cases


@dataclass(frozen=True)
class Verdict:
    """What `check` found: `kind` for programs, `text` (one line) for the learner."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class _Outcome:
    """What a call gave: a value, or the exception it raised."""

    value: Any = None
    error: BaseException | None = None

    @property
    def empty(self) -> bool:
        """True if the function has no answer in it yet: `...`, `pass`, `return None` or NotImplementedError."""
        if self.error is not None:
            return isinstance(self.error, NotImplementedError)
        return self.value is None or self.value is Ellipsis


def check(name: str, answer: Callable[..., Any]) -> None:
    """Print, in one line, whether `answer` solves the exercise `name`.

    name: a key of `EXERCISES`, such as `00.latents_shown`; anything else raises ValueError naming the choices.
    answer: the learner's function itself, not its result.
    """
    print(verdict(name, answer).text)


def verdict(name: str, answer: Callable[..., Any]) -> Verdict:
    """The verdict that `check` prints. Raises ValueError for an unknown name and for nothing else."""
    _check_name(name, EXERCISES, "exercise")
    with _random_state_kept():
        return _judge(EXERCISES[name], answer)


def or_reference(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    """`answer` if it solves the exercise `name`, else the course's own solution, so that a lesson can go on with it.

    Raises ValueError for an unknown name and for nothing else.
    """
    return answer if verdict(name, answer).kind == "right" else EXERCISES[name].solution


def hint(name: str) -> None:
    """Print the next hint for an exercise; after the last, that there is no more, and where the solution is.

    name: as for `check`; anything else raises ValueError naming the choices. A restarted kernel begins again.
    """
    _check_name(name, EXERCISES, "exercise")
    hints = EXERCISES[name].hints
    if _asked[name] < len(hints):
        _asked[name] += 1
        print(f"{name}: hint {_asked[name]} of {len(hints)}: {hints[_asked[name] - 1]}")
    else:
        print(f"{name}: there are no {'more ' if hints else ''}hints. The solution is folded below the check.")


def quiz(name: str) -> None:
    """Show a question with its answers, each of which opens and says whether it is right, and why.

    name: a key of `QUIZZES`, such as `00.every_step`; anything else raises ValueError naming the choices.
    """
    _check_name(name, QUIZZES, "quiz")
    question = QUIZZES[name]
    if get_ipython() is None:  # a plain script: there is nowhere to show a card
        print(question.plain())
        return
    display({"text/html": question.card(), "text/plain": question.plain()}, raw=True)


def _check_name(name: Any, known: Mapping[str, Any], kind: str) -> None:
    if name not in list(known):  # a dict would refuse what has no hash in its own words
        raise ValueError(f"Unknown {kind} {name!r}: choose one of {', '.join(known)}")


def _judge(exercise: Exercise, answer: Callable[..., Any]) -> Verdict:
    function = exercise.solution.__name__
    if answer is None or answer is Ellipsis:
        return Verdict("unanswered", f"{exercise.name}: not answered yet.")
    if not callable(answer):
        text = f"give check the function itself, {function}, not {_describe(answer)}."
        return Verdict("wrong", f"{exercise.name}: not right yet. Please {text}")

    cases = exercise.arguments()
    given = [_call(answer, case) for case in cases]
    if all(outcome.empty for outcome in given):
        if any(outcome.value is Ellipsis for outcome in given):
            text = f"not answered yet: {function} still returns ... Put your answer in its place and run it again."
        else:
            text = (
                f"not answered yet: {function} returns nothing. Fill it in above, end it with return, run both cells."
            )
        return Verdict("unanswered", f"{exercise.name}: {text}")

    right = [_call(exercise.solution, case) for case in cases]
    troubles = [_trouble(exercise, want, got) for want, got in zip(right, given, strict=True)]
    if not any(troubles):
        return Verdict("right", f"{exercise.name}: right, in all {len(cases)} cases.")

    for mistake in exercise.mistakes:
        wrong = [_call(mistake.wrong, case) for case in cases]
        if not any(_trouble(exercise, want, got) for want, got in zip(wrong, given, strict=True)):
            return Verdict("mistake", f"{exercise.name}: not right yet. Hint: {mistake.hint}")

    first = next(index for index, trouble in enumerate(troubles) if trouble)
    call = f"{function}({', '.join(_describe(argument) for argument in cases[first])})"
    error = given[first].error
    if error is not None:
        return Verdict("raised", f"{exercise.name}: not right yet. {call} raised {_raised(error, answer)}")
    text = f"For {call} the answer is {_describe(right[first].value)}, and yours is {_describe(given[first].value)}"
    return Verdict("wrong", f"{exercise.name}: not right yet. {text}: {troubles[first]}.")


def _call(function: Callable[..., Any], case: Arguments) -> _Outcome:
    """Call the function on copies, from the same random state each time, and keep what it gives or raises."""
    _seed()
    try:
        return _Outcome(value=_copy(function(*_copy(case))))
    # SystemExit too: an exit() in a learner's cell must not end the kernel. An interrupt stays an interrupt.
    except (Exception, SystemExit) as error:
        return _Outcome(error=error)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Leave every random state of the notebook as it was, so that a check never changes what is drawn after it."""
    plain, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 (learners' code may use it)
    try:
        with torch.random.fork_rng(devices=_gpus()):
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(arrays)  # noqa: NPY002


def _seed() -> None:
    """Put all global generators into the same state. A GPU that nobody has used yet is not woken up for it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.default_generator.manual_seed(0)  # torch.manual_seed would seed a GPU too, in use or not
    if _gpus():
        torch.cuda.manual_seed_all(0)


def _gpus() -> list[int]:
    """The CUDA devices, if any is in use."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []


def _copy(value: Any) -> Any:
    """A copy deep enough that writing to it leaves the original alone. Models are shared: they are large."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, torch.Generator):
        return torch.Generator(value.device).set_state(value.get_state())
    if isinstance(value, torch.nn.Module):
        return value
    if type(value) in (tuple, list):
        return type(value)(_copy(item) for item in value)
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    try:
        return copy.deepcopy(value)
    except Exception:  # an open file, a generator: nothing a check compares
        return value


def _trouble(exercise: Exercise, want: _Outcome, got: _Outcome) -> str | None:
    """What keeps an outcome from being the wanted one, or None. Two errors are the same if their types are."""
    if want.error is not None or got.error is not None:
        return None if type(want.error) is type(got.error) else "raised"
    try:
        return difference(want.value, got.value, rtol=exercise.rtol, atol=exercise.atol)
    except Exception as error:  # a learner's own class may refuse to be compared
        return f"comparing them raised {type(error).__name__}"


def difference(expected: Any, got: Any, *, rtol: float = 1e-4, atol: float = 1e-5) -> str | None:
    """How `got` differs from `expected`, as part of a sentence, or None if it does not.

    Tensors and arrays: kind, shape, dtype, then values within `atol + rtol * |expected|`, or equal if they are whole
    numbers. Numbers: the same tolerance;
    where a whole number is expected a float is not accepted, since it cannot be a size or a count; where a float is
    expected any real number is, also a tensor without dimensions. Tuples, lists and dicts: length or keys, then each
    item. Everything else: type and `==`.
    """
    tolerance = {"rtol": rtol, "atol": atol}
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        return _array_difference(expected, got, **tolerance)
    if isinstance(expected, (bool, np.bool_)):
        same = isinstance(got, (bool, np.bool_)) and bool(expected) == bool(got)
        return None if same else f"{bool(expected)} expected, not {_describe(got)}"
    if isinstance(expected, numbers.Real):
        return _number_difference(expected, got, **tolerance)
    if isinstance(expected, (tuple, list)):
        family = tuple if isinstance(expected, tuple) else list
        if not isinstance(got, family):
            return f"a {family.__name__} is expected, not {_kind(got)}"
        if len(expected) != len(got):
            return f"{len(expected)} items are expected, not {len(got)}"
        for index, (want, item) in enumerate(zip(expected, got, strict=True)):
            if trouble := difference(want, item, **tolerance):
                return f"in item {index}, {trouble}"
        return None
    if isinstance(expected, dict):
        if not isinstance(got, dict):
            return f"a dict is expected, not {_kind(got)}"
        if expected.keys() != got.keys():
            return f"the keys {_describe(list(expected))} are expected, not {_describe(list(got))}"
        for key, want in expected.items():
            if trouble := difference(want, got[key], **tolerance):
                return f"under {_describe(key)}, {trouble}"
        return None
    if isinstance(expected, str):
        return _text_difference(expected, got)
    if type(expected) is not type(got):
        return f"{_kind(expected)} is expected, not {_kind(got)}"
    return None if expected == got else "their values differ"


def _text_difference(expected: str, got: Any) -> str | None:
    if not isinstance(got, str):
        return f"a str is expected, not {_kind(got)}"
    if expected == got:
        return None
    pairs = zip(expected, got, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(got)))
    rest = [repr(text[place : place + 12]) if text[place:] else "the end" for text in (expected, got)]
    return f"from character {place} on, {rest[0]} is expected, not {rest[1]}"


def _number_difference(expected: numbers.Real, got: Any, *, rtol: float, atol: float) -> str | None:
    if isinstance(got, (torch.Tensor, np.ndarray)) and got.ndim == 0:
        got = got.item()
    if not isinstance(got, numbers.Real) or isinstance(got, bool):
        return f"a number is expected, not {_kind(got)}"
    if isinstance(expected, numbers.Integral):
        if not isinstance(got, numbers.Integral):
            return f"a whole number (int) is expected, not the float {_describe(got)}"
        return None if expected == got else f"{_describe(expected)} is expected, not {_describe(got)}"
    want, value = float(expected), float(got)
    same = want == value or abs(want - value) <= atol + rtol * abs(want) or (math.isnan(want) and math.isnan(value))
    return None if same else f"{_describe(want)} is expected, not {_describe(value)}"


def _array_difference(expected: Any, got: Any, *, rtol: float, atol: float) -> str | None:
    if isinstance(expected, torch.Tensor) != isinstance(got, torch.Tensor) or not hasattr(got, "shape"):
        return f"{_kind(expected)} is expected, not {_kind(got)}"
    if tuple(expected.shape) != tuple(got.shape):
        return f"the shape {tuple(expected.shape)} is expected, not {tuple(got.shape)}"
    if expected.dtype != got.dtype:
        return f"the dtype {_dtype(expected)} is expected, not {_dtype(got)}"
    want, value = (torch.as_tensor(item).detach().cpu() for item in (expected, got))
    if not (want.is_floating_point() or want.is_complex()):
        rtol = atol = 0  # whole numbers are counts, places or colours: a near one is another one
    close = torch.isclose(value, want, rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return None
    place = tuple(int(index) for index in (~close).nonzero()[0])
    there = f"first at {list(place)}: " if place else ""
    numbers_there = f"{_describe(want[place].item())} expected, not {_describe(value[place].item())}"
    return f"{int((~close).sum())} of {close.numel()} values differ, {there}{numbers_there}"


def _dtype(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def _kind(value: Any) -> str:
    """`a tensor`, `a list`, `None`: what sort of thing a value is."""
    if value is None or value is Ellipsis:
        return "None" if value is None else "..."
    names = {torch.Tensor: "tensor", np.ndarray: "array"}
    name = names.get(type(value), type(value).__name__)
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


def _describe(value: Any) -> str:
    """A value in a few words, the same on every run: no memory addresses, no long listings."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        small = f" = {_describe(value.tolist())}" if math.prod(value.shape) <= 8 else ""
        return f"{_kind(value)} of shape {tuple(value.shape)}, {_dtype(value)}{small}"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return repr(value) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, (str, int, complex)) or value is None or value is Ellipsis:
        text = "..." if value is Ellipsis else repr(value)
    elif isinstance(value, (tuple, list)):
        items = ", ".join(_describe(item) for item in value)
        text = f"[{items}]" if isinstance(value, list) else f"({items}{',' if len(value) == 1 else ''})"
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{_describe(key)}: {_describe(item)}" for key, item in value.items()) + "}"
    else:
        text = _kind(value)
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + "..."


def _raised(error: BaseException, answer: Callable[..., Any]) -> str:
    """`ZeroDivisionError: division by zero, in line 2: return 1 / 0`, without addresses and on one line."""
    message = " ".join(re.sub(r"\b0x[0-9a-fA-F]+", "0x...", str(error)).split())[:MESSAGE_LENGTH]
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    code = getattr(answer, "__code__", None)
    line = _last_line(error.__traceback__, code.co_filename) if code else None
    if code is None or line is None:  # called with the wrong number of arguments, say
        return f"{text.rstrip('.')}."
    source = linecache.getline(code.co_filename, line).strip()
    return f"{text.rstrip('.')}, in line {line} of its cell" + (f": {source}" if source else ".")


def _last_line(traceback: TracebackType | None, filename: str) -> int | None:
    """The innermost line of a traceback that stands in `filename`: the learner's own, not a library's."""
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == filename:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _collect(kind: str) -> dict[str, Any]:
    """The exercises or quizzes of every `lesson_NN.py` beside this file, by name, in the order of the lessons.

    kind: the name of the tuple that holds them.
    """
    found: dict[str, Any] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if not module.name.startswith("lesson_"):
            continue
        number = module.name.removeprefix("lesson_")
        for item in getattr(importlib.import_module(f"{__name__}.{module.name}"), kind, ()):
            if not item.name.startswith(f"{number}.") or item.name in found:
                raise ValueError(f"{module.name}.py: {item.name!r} must start with {number!r} and be there once")
            found[item.name] = item
    return found


_asked: Counter[str] = Counter()  # hints given, by exercise

# Last, because the lessons' modules import Exercise and the like from here.
EXERCISES: dict[str, Exercise] = _collect("EXERCISES")
QUIZZES: dict[str, Quiz] = _collect("QUIZZES")
