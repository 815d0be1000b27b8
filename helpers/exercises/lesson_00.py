"""The exercises of lesson 00: sizes, counts and sentences that the first picture already lets you work out."""

from helpers.exercises import Exercise, Mistake, Option, Quiz
from helpers.scenes import Thing, with_article

# Stable Diffusion's VAE: 8 x 8 pixels become one place of the latent; 3 colours become 4 channels.
FACTOR, COLOURS, CHANNELS = 8, 3, 4


def latent_shape(height: int, width: int, batch: int = 1) -> tuple[int, int, int, int]:
    """The shape of the latents for `batch` pictures of `height` x `width` pixels."""
    return (batch, CHANNELS, height // FACTOR, width // FACTOR)


def compression(height: int, width: int) -> float:
    """How many numbers of a picture stand behind one number of its latent."""
    return (COLOURS * height * width) / (CHANNELS * (height // FACTOR) * (width // FACTOR))


def unet_calls(steps: int, pictures: int, guidance: float) -> int:
    """How often the U-Net looks at a latent: twice a step with classifier-free guidance, which is off up to 1."""
    return steps * pictures * (2 if guidance > 1 else 1)


def caption(word: str, colour: str | None, place: str, style: str) -> str:
    """The prompt for one thing, in the grammar that Pocket learnt."""
    return f"{Thing(word, colour).phrase} {place}, {style} style"


def _sentence(article: str, word: str, colour: str | None, place: str, style: str) -> str:
    """The same sentence with the article left to the caller: the usual mistakes are about that."""
    return f"{' '.join(filter(None, (article, colour, word)))} {place}, {style} style"


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
    solution=unet_calls,
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
    solution=caption,
    # A colour and a word of which one begins with a vowel, both ways round; and both kinds of word without a colour.
    cases=(
        ("fox", "orange", "in the snow", "flat"),
        ("owl", "blue", "at night", "noto"),
        ("rocket", None, "in space", "glossy"),
        ("elephant", None, "on a white background", "twemoji"),
    ),
    hints=(
        "Write one prompt of the lesson by hand and mark which of its words are arguments.",
        "First put the colour, if there is one, and the word together. Then article, place, comma and style.",
        "The article depends on the first letter of what follows it, which is the colour's where there is one.",
    ),
    mistakes=(
        Mistake(
            lambda *words: caption(*words).replace(",", ""),
            "there is a comma before the style: `..., flat style`.",
        ),
        Mistake(
            lambda word, colour, *rest: _sentence("a", word, colour, *rest),
            "`a` becomes `an` before a vowel: `an owl`, `an orange fox`.",
        ),
        Mistake(
            lambda word, colour, *rest: _sentence(with_article(word).split()[0], word, colour, *rest),
            "the article stands before the colour, so it depends on the colour: `an orange fox`, `a blue owl`.",
        ),
        Mistake(
            lambda word, colour, place, style: f"{with_article(str(colour))} {word} {place}, {style} style",
            "without a colour your sentence says None. Leave the colour out of it then.",
        ),
        Mistake(
            lambda word, colour, *rest: _sentence(caption(word, colour, *rest).split()[0], colour or "", word, *rest),
            "the colour stands before the thing: `a blue fox`, not `a fox blue`.",
        ),
        Mistake(
            lambda *words: caption(*words).removesuffix(" style"),
            "the sentence ends with the word `style`: `..., flat style`.",
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

SAME_NOISE = Quiz(
    name="00.same_noise",
    question="You keep the seed and change one word of the prompt. What is exactly the same in both runs?",
    options=(
        Option(
            "The latent before the first step",
            "The seed fixes the noise at the start, without the prompt. From the first step on the runs differ.",
            right=True,
        ),
        Option(
            "The U-Net's answer at the first step",
            "It looks at the same latent, but it is given other vectors, so it already answers a little differently.",
        ),
        Option(
            "The vectors of the words that stay the same",
            "A vector depends on the words before its own, too. Those after the changed word change with it.",
        ),
        Option(
            "All of the picture but the thing that the word names",
            "Much of it may look alike, as in the columns above, but every pixel is computed anew and may change.",
        ),
    ),
)

UNKNOWN_WORD = Quiz(
    name="00.unknown_word",
    question="Pocket was never trained on the word `dragon`. What happens to it inside the pipeline?",
    options=(
        Option(
            "It is left out, as if you had not written it",
            "A tokenizer leaves nothing out. `a dragon` and `a` have different tokens, and so different vectors.",
        ),
        Option(
            "The nearest word that it knows takes its place",
            "Nothing in the pipeline looks for near words. The printed line compares letters, and it is there for you "
            "only.",
        ),
        Option(
            "It is cut into pieces, and the U-Net is steered by their vectors",
            "Pieces of words are tokens too, in the end single letters. Their vectors steer towards something, but "
            "towards nothing that training had a name for.",
            right=True,
        ),
    ),
)

QUIZZES = (EVERY_STEP, SAME_NOISE, UNKNOWN_WORD)
