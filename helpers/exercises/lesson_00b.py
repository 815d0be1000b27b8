"""The exercise of lesson 00b, the nearest of many pictures, and its quiz."""

from collections.abc import Sequence

import numpy as np

from helpers.exercises import Exercise, Mistake, Option, Quiz


def nearest(picture: np.ndarray, known: Sequence[np.ndarray]) -> int:
    """The number of the known picture from which `picture` differs least, on average over all numbers."""
    return int(np.argmin([np.abs(picture.astype(float) - other).mean() for other in known]))


def _flat(*values: int) -> np.ndarray:
    """A picture of one row, each pixel grey."""
    return np.repeat(np.array([values], np.uint8)[..., None], 3, axis=-1)


# Chosen so that differences below zero, kept or wrapped round, and squares each lead to another picture.
_DARKER = (_flat(200, 200, 200, 200), [_flat(190, 190, 190, 190), _flat(220, 220, 220, 220), _flat(0, 0, 0, 0)])
_LIGHTER = (_flat(10, 10, 10, 10), [_flat(255, 255, 255, 255), _flat(14, 14, 14, 14), _flat(2, 2, 2, 2)])
_ONE_PIXEL = (
    _flat(100, 100, 100, 100),
    [_flat(115, 115, 115, 115), _flat(100, 100, 100, 150), _flat(60, 140, 60, 140)],
)

NEAREST = Exercise(
    name="00b.nearest",
    solution=nearest,
    cases=(_DARKER, _LIGHTER, _ONE_PIXEL),
    hints=(
        "Compare with one known picture first: by how much do two pictures differ, on average over all their numbers?",
        "The pictures hold whole numbers from 0 to 255 that cannot go below zero: picture.astype(float) can.",
        "Make a list with one difference for each known picture; np.argmin(the list) is the place of the smallest.",
    ),
    mistakes=(
        Mistake(
            lambda picture, known: int(np.argmin([np.abs(picture - other).mean() for other in known])),
            "the pictures are uint8: 10 - 14 is not -4 there but 252. Turn one of them into floats first.",
        ),
        Mistake(
            lambda picture, known: int(np.argmin([(picture.astype(float) - other).mean() for other in known])),
            "differences of both signs cancel, and the lightest picture wins. Take np.abs before the mean.",
        ),
        Mistake(
            lambda picture, known: int(np.argmax([np.abs(picture.astype(float) - other).mean() for other in known])),
            "this is the picture that differs most. Take the smallest difference.",
        ),
        Mistake(
            lambda picture, known: float(min(np.abs(picture.astype(float) - other).mean() for other in known)),
            "this is the smallest difference itself. Asked for is which picture has it: np.argmin.",
        ),
        Mistake(
            lambda picture, known: int(np.argmin([((picture.astype(float) - other) ** 2).mean() for other in known])),
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
