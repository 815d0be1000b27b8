"""The exercises of lesson 00: sizes, counts and sentences that the first picture already lets you work out."""

from helpers.exercises import Exercise, Mistake, Option, Quiz
from helpers.scenes import Scene, Thing, with_article

# Stable Diffusion's VAE: 8 x 8 pixels become one place of the latent; 3 colours become 4 channels.
FACTOR, COLOURS, CHANNELS = 8, 3, 4


def latent_shape(height: int, width: int, batch: int = 1) -> tuple[int, int, int, int]:
    """The shape of the latents for `batch` pictures of `height` x `width` pixels."""
    return (batch, CHANNELS, height // FACTOR, width // FACTOR)


def compression(height: int, width: int) -> float:
    """How many numbers of a picture stand behind one number of its latent."""
    return (COLOURS * height * width) / (CHANNELS * (height // FACTOR) * (width // FACTOR))


def unet_evaluations(steps: int, pictures: int, guidance: float) -> int:
    """How often the U-Net looks at a latent: twice a step with classifier-free guidance, which is off up to 1."""
    return steps * pictures * (2 if guidance > 1 else 1)


def compose(word: str, other: str, relation: str, background: str, style: str) -> str:
    """The prompt for two objects, in the grammar that Pocket learnt."""
    return Scene((Thing(word), Thing(other)), relation, ground=background, style=style).caption()


def _compose(
    word: str, other: str, relation: str, background: str, style: str, *, article=with_article, article_2=None
) -> str:
    """The same sentence with the articles left to the caller: the usual mistakes are about those."""
    article_2 = article_2 or article
    return f"{article(word)} {relation} {article(other)} on {article_2(background)} background, {style} style"


LATENT_SHAPE = Exercise(
    name="00.latent_shape",
    solution=latent_shape,
    # The second is not square, and the third has several pictures: otherwise half of the mistakes would pass.
    cases=((128, 128), (512, 768), (96, 128, 4)),
    hints=(
        "Print the shape of a latent above. What does each of its four numbers count?",
        "In PyTorch's order these are pictures, channels, height, width. Only the last two depend on the picture's "
        "size.",
        "One place of the latent stands for 8 x 8 pixels, and a shape holds whole numbers: divide with //.",
    ),
    mistakes=(
        Mistake(
            lambda h, w, batch=1: (CHANNELS, h // FACTOR, w // FACTOR),
            "the shape has four entries. The first says how many pictures there are, even when it is one.",
        ),
        Mistake(
            lambda h, w, batch=1: (1, CHANNELS, h // FACTOR, w // FACTOR),
            "the first entry is always 1. It has to be the number of pictures, batch.",
        ),
        Mistake(
            lambda h, w, batch=1: (batch, COLOURS, h // FACTOR, w // FACTOR),
            "three channels are the colours of a picture. Look at the latents above: how many channels have they?",
        ),
        Mistake(
            lambda h, w, batch=1: (batch, CHANNELS, h, w),
            "this is as tall and wide as the picture. One place of the latent stands for 8 x 8 pixels.",
        ),
        Mistake(
            lambda h, w, batch=1: (batch, CHANNELS, w // FACTOR, h // FACTOR),
            "height and width have changed places. PyTorch puts height first: (batch, channels, height, width).",
        ),
        Mistake(
            lambda h, w, batch=1: (batch, CHANNELS, h / FACTOR, w / FACTOR),
            "the numbers are right, but / gives floats, and a size is a whole number. Divide with //.",
        ),
        Mistake(
            lambda h, w, batch=1: (batch, h // FACTOR, w // FACTOR, CHANNELS),
            "the channels stand last, as in a picture file. PyTorch wants them second, right after the batch.",
        ),
    ),
)

COMPRESSION = Exercise(
    name="00.compression",
    solution=compression,
    cases=((128, 128), (512, 512), (512, 768)),
    hints=(
        "Count the numbers in a picture, then the numbers in its latent, and divide.",
        "A pixel has three numbers. A place of the latent has four, and there are fewer places than pixels.",
        "The latent is 8 times smaller in height and 8 times in width, so 64 pixels share one place.",
    ),
    mistakes=(
        Mistake(
            lambda h, w: (h * w) / ((h // FACTOR) * (w // FACTOR)),
            "64 compares pixels with places. A pixel holds three numbers, a place of the latent four: count numbers.",
        ),
        Mistake(
            lambda h, w: (CHANNELS * (h // FACTOR) * (w // FACTOR)) / (COLOURS * h * w),
            "the fraction is upside down. Divide the picture's numbers by the latent's.",
        ),
        Mistake(
            lambda h, w: (COLOURS * h * w) / ((h // FACTOR) * (w // FACTOR)),
            "192 counts one number for each place of the latent. Each place has one for every channel.",
        ),
        Mistake(
            lambda h, w: (h * w) / (CHANNELS * (h // FACTOR) * (w // FACTOR)),
            "16 counts one number for each pixel. A pixel has a red, a green and a blue one.",
        ),
        Mistake(
            lambda h, w: (COLOURS * h * w) / (CHANNELS * h * w / FACTOR),
            "6 divides by 8 only once. The latent is 8 times smaller in height and 8 times in width.",
        ),
        Mistake(
            lambda h, w: COLOURS / CHANNELS,
            "three colours against four channels is only half of it: the latent is also smaller in height and width.",
        ),
    ),
)

UNET_CALLS = Exercise(
    name="00.unet_calls",
    solution=unet_evaluations,
    # Guidance 1 is the border: off, as in diffusers, since uncond + 1 * (cond - uncond) = cond.
    cases=((20, 1, 7.5), (20, 3, 1.0), (50, 2, 4.0)),
    hints=(
        "Start with one picture and guidance 1: how often does the U-Net look at the latent?",
        "Every picture has a latent of its own, so the count grows with their number.",
        "Guidance compares two answers, with and without the words. From which guidance on are both needed?",
    ),
    mistakes=(
        Mistake(
            lambda steps, pictures, guidance: steps * pictures,
            "with guidance above 1 each step looks at a latent twice: with the prompt, and without it.",
        ),
        Mistake(
            lambda steps, pictures, guidance: 2 * steps * pictures,
            "you always count two. With guidance 1 the look without the prompt would change nothing and is left out.",
        ),
        Mistake(
            lambda steps, pictures, guidance: steps * (2 if guidance > 1 else 1),
            "this is the count for one picture. Every picture has a latent of its own.",
        ),
        Mistake(
            lambda steps, pictures, guidance: steps * pictures * guidance,
            "guidance is a strength, not a count. It only decides whether each step looks once or twice.",
        ),
        Mistake(
            lambda steps, pictures, guidance: steps * pictures * (1 if guidance > 1 else 2),
            "the two cases have changed places: guidance above 1 is the one that costs twice.",
        ),
    ),
)

CAPTION = Exercise(
    name="00.caption",
    solution=compose,
    cases=(
        ("fox", "pizza", "left of", "white", "glossy"),
        ("owl", "house", "above", "orange", "noto"),
        ("star", "umbrella", "right of", "blue", "flat"),
    ),
    hints=(
        "Write one prompt of the lesson by hand and mark which of its words are arguments.",
        "The order is: first object, relation, second object, `on`, background, then a comma and the style.",
        "Three articles depend on the word after them: those of both objects and that of the colour.",
    ),
    mistakes=(
        Mistake(
            lambda *words: compose(*words).replace(",", ""),
            "there is a comma before the style: `..., glossy style`.",
        ),
        Mistake(
            lambda *words: _compose(*words, article=lambda word: f"a {word}"),
            "`a` becomes `an` before a vowel: `an owl`, `an orange background`.",
        ),
        Mistake(
            lambda *words: _compose(*words, article_2=lambda word: f"a {word}"),
            "the objects are right, but the colour needs its `an` too: `an orange background`.",
        ),
        Mistake(
            lambda word, other, *rest: compose(other, word, *rest),
            "the two objects have changed places: the first word stands before the relation.",
        ),
        Mistake(
            lambda *words: _compose(*words, article=lambda word: word, article_2=with_article),
            "the objects need their articles: `a fox`, `an owl`.",
        ),
        Mistake(
            lambda *words: compose(*words).removesuffix(" style"),
            "the sentence ends with the word `style`: `..., glossy style`.",
        ),
    ),
)

EXERCISES = (LATENT_SHAPE, COMPRESSION, UNET_CALLS, CAPTION)

EVERY_STEP = Quiz(
    name="00.every_step",
    question="You draw one picture in 20 steps. Which part of the pipeline works again at every step?",
    options=(
        Option(
            "The text encoder",
            "It reads the sentence once, before the first step. The vectors that it makes stay the same for all 20 "
            "steps.",
        ),
        Option(
            "The U-Net",
            "At each step it looks at the latent as it is by then and predicts the noise in it. That is why nearly "
            "all of "
            "the time goes into this part.",
            right=True,
        ),
        Option(
            "The VAE's decoder",
            "All steps happen on the latent. The decoder makes a picture of it once, after the last step; the "
            "pictures on "
            "the way are decoded only for you to look at.",
        ),
        Option(
            "All of them, one after the other",
            "Only what changes from step to step has to be computed again. The sentence does not change, and the "
            "picture is "
            "not needed before the end.",
        ),
    ),
)

QUIZZES = (EVERY_STEP,)
