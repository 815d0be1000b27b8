"""The exercises of lesson 00b: the nearest of many pictures, and the words that a tokenizer cuts into pieces."""

from collections.abc import Callable, Sequence

import numpy as np

from helpers.exercises import Exercise, Mistake, Option, Quiz


def nearest(picture: np.ndarray, known: Sequence[np.ndarray]) -> int:
    """The number of the known picture from which `picture` differs least, on average over all numbers."""
    return int(np.argmin([np.abs(picture.astype(float) - other).mean() for other in known]))


def strange_words(sentence: str, tokenize: Callable[[str], list[str]]) -> list[str]:
    """The words of a sentence that are cut into more than one token."""
    return [word for word in sentence.split() if len(tokenize(word)) > 1]


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

# Pieces as a tokenizer might give them.
_PIECES = {
    "a": ["a</w>"],
    "fox": ["fox</w>"],
    "no": ["n", "o</w>"],
    "hat": ["h", "at</w>"],
    "on": ["on</w>"],
    "old": ["ol", "d</w>"],
    "grass": ["grass</w>"],
    "snowman": ["snowman</w>"],
}


def _tokenize(text: str) -> list[str]:
    return [piece for word in text.split() for piece in _PIECES[word]]


STRANGE_WORDS = Exercise(
    name="00b.strange_words",
    solution=strange_words,
    cases=(
        ("no fox on grass", _tokenize),
        ("a snowman on grass", _tokenize),
        ("an old hat", lambda text: ["x"] * len(text)),
    ),
    hints=(
        "sentence.split() gives the words. What does tokenize give for one that the tokenizer knows whole?",
        "A word that is known whole is one token, however long. Any other is a list of several.",
        "Go through the words, and keep those for which len(tokenize(word)) is above 1.",
    ),
    mistakes=(
        Mistake(
            lambda sentence, tokenize: [word for word in sentence.split() if len(tokenize(word)) == 1],
            "these are the words that it knows whole. Keep the others.",
        ),
        Mistake(
            lambda sentence, tokenize: [
                piece for word in sentence.split() if len(tokenize(word)) > 1 for piece in tokenize(word)
            ],
            "these are the pieces. Give the words that were cut.",
        ),
        Mistake(
            lambda sentence, tokenize: sum(len(tokenize(word)) > 1 for word in sentence.split()),
            "this is how many there are. Give the words themselves, in a list.",
        ),
        Mistake(
            lambda sentence, tokenize: tokenize(sentence),
            "these are the tokens of the whole sentence. Ask for one word at a time.",
        ),
    ),
)

EXERCISES = (NEAREST, STRANGE_WORDS)

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

UNKNOWN_WORD = Quiz(
    name="00b.unknown_word",
    question="Pocket was never trained on the word `dragon`. What happens to it inside the pipeline?",
    options=(
        Option(
            "It is left out, as if you had not written it",
            "This tokenizer leaves no word out, unless the prompt is too long. `a dragon` and `a` have different "
            "tokens, and so different vectors.",
        ),
        Option(
            "The nearest word that it knows takes its place",
            "Nothing in the pipeline looks for near words. The printed line compares letters, and it is there for you "
            "only.",
        ),
        Option(
            "It is cut into pieces, and the U-Net is steered by their vectors",
            "Pieces of words are tokens too, in the end single letters. Their vectors steer towards something, but no "
            "sentence of the training said what a dragon is.",
            right=True,
        ),
    ),
)

QUIZZES = (NO_FOX, UNKNOWN_WORD)
