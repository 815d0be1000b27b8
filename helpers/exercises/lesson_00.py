"""The exercises of lesson 00: a shape, and a rule to be found by counting."""

from helpers.exercises import Exercise, Mistake, Option, Quiz

# Stable Diffusion's VAE: 8 x 8 pixels become one place of the latent; 3 colours become 4 channels.
FACTOR, COLOURS, CHANNELS = 8, 3, 4


def latent_shape(height: int, width: int, batch: int = 1) -> tuple[int, int, int, int]:
    """The shape of the latents for `batch` pictures of `height` x `width` pixels."""
    return (batch, CHANNELS, height // FACTOR, width // FACTOR)


def latents_shown(steps: int, pictures: int, guidance: float) -> int:
    """How many latents the U-Net is shown: each twice a step with guidance, which the library switches off up to 1."""
    return steps * pictures * (2 if guidance > 1 else 1)


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


LATENTS_SHOWN = Exercise(
    name="00.latents_shown",
    solution=latents_shown,
    # Guidance 1 is the border: off, as in diffusers, since uncond + 1 * (cond - uncond) = cond.
    cases=((20, 1, 7.5), (20, 3, 1.0), (50, 2, 4.0), (8, 3, 0.5)),
    hints=(
        "Change one argument at a time: count_latents(2, 1, 4.0), then count_latents(4, 1, 4.0). What happens?",
        "Two of the arguments multiply the count. Now try guidance 7.5, 1.5, 1 and 0.5.",
        "Guidance compares two answers, with and without the words. Where does the count fall to a half?",
    ),
    mistakes=(
        Mistake(
            lambda steps, pictures, guidance: steps * pictures,
            "with guidance above 1 each latent is shown twice a step: compare count_latents(2, 1, 4.0) with "
            "count_latents(2, 1, 1.0).",
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
            "guidance is a strength, not a count. It only decides whether a latent is shown once or twice a step.",
        ),
        Mistake(
            lambda steps, pictures, guidance: steps * pictures * (1 if guidance == 1 else 2),
            "at exactly 1 you are right. Measure below it, too: count_latents(2, 1, 0.5).",
        ),
        Mistake(
            lambda steps, pictures, guidance: steps * pictures * (1 if guidance > 1 else 2),
            "the two cases have changed places: guidance above 1 is the one that costs twice.",
        ),
    ),
)

EXERCISES = (LATENT_SHAPE, LATENTS_SHOWN)

EVERY_STEP = Quiz(
    name="00.every_step",
    question="You draw one picture in 20 steps. Which of the networks works again at every step?",
    options=(
        Option(
            "The text encoder",
            "It reads your sentence and the empty one before the first step. The vectors that it makes stay the same "
            "for all 20 steps.",
        ),
        Option(
            "The U-Net",
            "At each step it looks at the latent as it is by then and says what in it is noise. The text encoder is "
            "done before the first step, and the decoder begins after the last. The scheduler works at every step, "
            "too, but it is arithmetic, not a network.",
            right=True,
        ),
        Option(
            "The VAE's decoder",
            "All steps happen on the latent. The decoder makes a picture of it once, after the last step; the "
            "pictures on the way are decoded only for you to look at.",
        ),
        Option(
            "All of them, one after the other",
            "Only what changes from step to step has to be computed again. The sentence does not change, and the "
            "picture is not needed before the end.",
        ),
    ),
)

SAME_NOISE = Quiz(
    name="00.same_noise",
    question="You keep the seed and change one word of the prompt. What is exactly the same in both runs?",
    options=(
        Option(
            "The latent before the first step",
            "The seed alone makes the noise at the start; the prompt has no part in it. After the first step the "
            "latents differ.",
            right=True,
        ),
        Option(
            "Both of the U-Net's answers at the first step",
            "Only its answer without words is. With other words it is given other vectors, so its second answer "
            "differs, and so does what guidance makes of the two.",
        ),
        Option(
            "The vectors of all words but the changed one",
            "A vector depends on the words before its own. So those before the changed word stay, and those after it "
            "change.",
        ),
        Option(
            "All of the picture but the thing that the word names",
            "Some of it may look alike, such as a planet's corner above, but every pixel is computed anew and may "
            "change.",
        ),
    ),
)

QUIZZES = (EVERY_STEP, SAME_NOISE)
