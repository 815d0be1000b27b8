"""The exercise of lesson 00b, the nearest of many pictures, and its quiz."""

from collections.abc import Sequence

import numpy as np

from helpers.exercises import Exercise, Mistake, Option, Quiz


def nearest(picture: np.ndarray, known: Sequence[np.ndarray]) -> float:
    """The smallest mean absolute difference of `picture` from the known ones, each as it is or mirrored."""
    return float(min(_differences(picture, [*known, *(one[:, ::-1] for one in known)])))


def _differences(picture: np.ndarray, known: Sequence[np.ndarray]) -> list[float]:
    return [np.abs(picture.astype(float) - other).mean() for other in known]


def _rows(*rows: Sequence[int]) -> np.ndarray:
    """A picture, each pixel grey."""
    return np.repeat(np.array(rows, np.uint8)[..., None], 3, axis=-1)


# Chosen so that differences below zero, kept or wrapped round, squares and each wrong mirror lead to other numbers.
_DARKER = (_rows([200, 200, 200, 200]), [_rows([190, 190, 190, 190]), _rows([220, 220, 220, 220])])
_LIGHTER = (_rows([10, 10, 10, 10]), [_rows([255, 255, 255, 255]), _rows([14, 14, 14, 14]), _rows([2, 2, 2, 2])])
_MIRRORED = (
    _rows([10, 80, 200], [30, 90, 250]),
    [_rows([202, 83, 15], [245, 90, 31]), _rows([40, 90, 240], [10, 120, 210])],
)
_AS_IT_IS = (_rows([10, 80, 200], [30, 90, 250]), [_rows([0, 90, 190], [40, 80, 255]), _rows([250] * 3, [9] * 3)])

NEAREST = Exercise(
    name="00b.nearest",
    solution=nearest,
    cases=(_DARKER, _LIGHTER, _MIRRORED, _AS_IT_IS),
    hints=(
        "Compare with one known picture first: by how much do two pictures differ, on average over all their numbers? "
        "They hold whole numbers from 0 to 255 that cannot go below zero: picture.astype(float) can.",
        "one[:, ::-1] is the mirrored picture: the second axis, that of the columns, backwards.",
        "Make a list with two differences for each known picture, as it is and mirrored, and take its min.",
    ),
    mistakes=(
        Mistake(
            lambda picture, known: min(_differences(picture, known)),
            "each known picture counts mirrored as well. Compare with one[:, ::-1], too.",
        ),
        Mistake(
            lambda picture, known: min(_differences(picture, [one[:, ::-1] for one in known])),
            "this compares with the mirrored pictures alone. Take those as they are, too.",
        ),
        Mistake(
            lambda picture, known: min(_differences(picture, [*known, *(one[::-1] for one in known)])),
            "this turns the pictures upside down: the first axis is that of the rows. Mirror the second one.",
        ),
        Mistake(
            lambda picture, known: min(
                np.abs(picture - other).mean() for one in known for other in (one, one[:, ::-1])
            ),
            "the pictures are uint8: 10 - 14 is not -4 there but 252. Turn one of them into floats first.",
        ),
        Mistake(
            lambda picture, known: min(
                (picture.astype(float) - other).mean() for one in known for other in (one, one[:, ::-1])
            ),
            "differences of both signs cancel, and the lightest picture wins. Take np.abs before the mean.",
        ),
        Mistake(
            lambda picture, known: max(_differences(picture, [*known, *(one[:, ::-1] for one in known)])),
            "this is the largest difference. Take the smallest.",
        ),
        Mistake(
            lambda picture, known: int(np.argmin([nearest(picture, [one]) for one in known])),
            "this says which picture is the nearest. Asked for is its difference: min in place of np.argmin.",
        ),
        Mistake(
            lambda picture, known: min(
                ((picture.astype(float) - other) ** 2).mean() for one in known for other in (one, one[:, ::-1])
            ),
            "squares count one large difference more than many small ones. Take the mean of np.abs.",
        ),
    ),
)

EXERCISES = (NEAREST,)

NO_FOX = Quiz(
    name="00b.no_fox",
    question="You ask for `no fox in the snow, noto style`. What does Pocket draw?",
    options=(
        Option(
            "Snow with nothing in it",
            "The sentences of its training say what a picture shows, never what it does not. So it cannot have learnt "
            "to leave out what a sentence names.",
        ),
        Option(
            "A fox in the snow",
            "Its training had no sentence with this word, and the token of `fox` is there as ever. To keep something "
            "out takes another input, a negative prompt (lesson 06b).",
            right=True,
        ),
        Option(
            "Some other thing in the snow",
            "That may happen where no word of the sentence names a thing that it knows. Here one does: fox.",
        ),
        Option(
            "Nothing: the unknown word is an error",
            "No word stops the pipeline. What the tokenizer does not know whole it cuts into pieces, and goes on.",
        ),
    ),
)

QUIZZES = (NO_FOX,)
