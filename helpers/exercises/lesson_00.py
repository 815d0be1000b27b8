"""The exercises of lesson 00: a shape, what it saves, a law to be found by counting, the small words of a prompt."""

import torch
from torch import Tensor

from helpers.exercises import Exercise, Mistake, Option, Quiz
from helpers.scenes import Thing, with_article

# Stable Diffusion's VAE: 8 x 8 pixels become one place of the latent; 3 colours become 4 channels.
FACTOR, COLOURS, CHANNELS = 8, 3, 4


def latent_shape(height: int, width: int, batch: int = 1) -> tuple[int, int, int, int]:
    """The shape of the latents for `batch` pictures of `height` x `width` pixels."""
    return (batch, CHANNELS, height // FACTOR, width // FACTOR)


def compression(picture: Tensor, latent: Tensor) -> float:
    """How many bytes of a picture stand behind one byte of its latent."""
    return _bytes(picture) / _bytes(latent)


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def unet_calls(steps: int, pictures: int, guidance: float) -> int:
    """How often the U-Net looks at a latent: twice a step with classifier-free guidance, which is off up to 1."""
    return steps * pictures * (2 if guidance > 1 else 1)


def caption(word: str, colour: str | None, place: str, style: str) -> str:
    """The prompt for one thing, in the grammar that Pocket learnt."""
    return f"{Thing(word, colour).phrase} {place}, {style} style"


def _sentence(article: str, word: str, colour: str | None, place: str, style: str) -> str:
    """The same sentence with the article left to the caller: the usual mistakes are about that."""
    return f"{' '.join(filter(None, (article, colour, word)))} {place}, {style} style"


def _by_letter(text: str) -> str:
    return "an" if text[0] in "aeiou" else "a"


def _article(word: str) -> str:
    """What `with_article` puts before a word: nothing before a plural."""
    return with_article(word).removesuffix(word).strip()


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


def _pictures_and_latents() -> list[tuple[Tensor, Tensor]]:
    """Empty ones, of Pocket's size and Stable Diffusion's; the last picture is in the numbers that the VAE works on."""
    sizes = ((1, 128, 128, torch.uint8, torch.float32), (2, 512, 768, torch.uint8, torch.float16))
    cases = []
    for batch, height, width, of_picture, of_latent in (*sizes, (1, 128, 128, torch.float32, torch.float32)):
        picture = torch.zeros((batch, COLOURS, height, width), dtype=of_picture)
        cases.append((picture, torch.zeros(latent_shape(height, width, batch), dtype=of_latent)))
    return cases


COMPRESSION = Exercise(
    name="00.compression",
    solution=compression,
    cases=_pictures_and_latents,
    hints=(
        "The bytes of a tensor are the count of its numbers times the bytes that each of them takes.",
        "A uint8 takes one byte. How many does a float32 take, and how many a float16?",
        "x.numel() counts the numbers of a tensor, and x.element_size() says how many bytes each takes.",
    ),
    mistakes=(
        Mistake(
            lambda picture, latent: picture.numel() / latent.numel(),
            "this counts numbers. A number of the latent does not take as many bytes as one of the picture.",
        ),
        Mistake(
            lambda picture, latent: _bytes(latent) / _bytes(picture),
            "the fraction is upside down. Divide the picture's bytes by the latent's.",
        ),
        Mistake(
            lambda picture, latent: picture.numel() / _bytes(latent),
            "this takes one byte for each number of the picture, whatever its type. Ask the picture, too.",
        ),
        Mistake(
            lambda picture, latent: picture.numel() / (latent.numel() * 4),
            "4 bytes are those of a float32. A float16 takes 2, and a uint8 takes 1: ask each tensor for its own.",
        ),
        Mistake(
            lambda picture, latent: picture.element_size() / latent.element_size(),
            "this compares one number with one number. Count how many there are of each, too.",
        ),
        Mistake(
            lambda picture, latent: _bytes(picture) - _bytes(latent),
            "this is how many bytes are saved. Asked for is how many times fewer they are.",
        ),
    ),
)

UNET_CALLS = Exercise(
    name="00.unet_calls",
    solution=unet_calls,
    # Guidance 1 is the border: off, as in diffusers, since uncond + 1 * (cond - uncond) = cond.
    cases=((20, 1, 7.5), (20, 3, 1.0), (50, 2, 4.0)),
    hints=(
        "Change one argument at a time: looks(2, 1, 4.0), then looks(4, 1, 4.0). What happens to the count?",
        "Two of the arguments multiply the count. Now try guidance 7.5, 1.5, 1 and 0.5.",
        "Guidance compares two answers, with and without the words. Where does the count fall to a half?",
    ),
    mistakes=(
        Mistake(
            lambda steps, pictures, guidance: steps * pictures,
            "with guidance above 1 each step looks at a latent twice: compare looks(2, 1, 4.0) with looks(2, 1, 1.0).",
        ),
        Mistake(
            lambda steps, pictures, guidance: 2 * steps * pictures,
            "you always count two. Measure with guidance 1, and below.",
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
    # A colour and a word of which one begins with a vowel, both ways round; a vowel that is none; a plural.
    cases=(
        ("fox", "orange", "in the snow", "flat"),
        ("owl", "blue", "at night", "noto"),
        ("rocket", None, "in space", "glossy"),
        ("elephant", None, "on a white background", "twemoji"),
        ("unicorn", None, "on grass", "flat"),
        ("grapes", None, "on grass", "noto"),
        ("grapes", "blue", "under water", "noto"),
    ),
    hints=(
        "Start without a colour: there with_article does all the work. Then comma and style.",
        "With a colour, the article depends on the colour: with_article(colour) knows it, and the word comes after.",
        "Words that need no article, such as grapes, are those that with_article gives back unchanged.",
    ),
    mistakes=(
        Mistake(
            lambda *words: caption(*words).replace(",", ""),
            "there is a comma before the style: `..., flat style`.",
        ),
        Mistake(
            lambda word, colour, *rest: _sentence("a", word, colour, *rest),
            "`a` becomes `an` before a vowel: `an owl`, `an orange fox`. And `grapes` need none.",
        ),
        Mistake(
            lambda word, colour, *rest: _sentence(_by_letter(colour or word), word, colour, *rest),
            "the first letter is not enough: it is `a unicorn`, and `grapes` have no article. with_article knows both.",
        ),
        Mistake(
            lambda word, colour, *rest: _sentence(
                _by_letter(colour or word) if colour or word != "unicorn" else "a", word, colour, *rest
            ),
            "`grapes` are many: they need no article, with a colour or without.",
        ),
        Mistake(
            lambda word, colour, *rest: _sentence(
                with_article(colour).split()[0] if colour else _article(word), word, colour, *rest
            ),
            "without a colour all is well. With one, `grapes` still need no article: `blue grapes`.",
        ),
        Mistake(
            lambda word, colour, *rest: _sentence(_article(word), word, colour, *rest),
            "the article stands before the colour, so it depends on the colour: `an orange fox`, `a blue owl`.",
        ),
        Mistake(
            lambda word, colour, place, style: f"{with_article(str(colour))} {word} {place}, {style} style",
            "without a colour your sentence says None. Leave the colour out of it then.",
        ),
        Mistake(
            lambda word, colour, *rest: _sentence(
                _article(word), word if colour is None else f"{word} {colour}", None, *rest
            ),
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
            "At each step it looks at the latent as it is by then and predicts the noise in it. So it works twenty "
            "times where the other parts work once.",
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
