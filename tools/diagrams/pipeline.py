"""Stable Diffusion as seven stations, with what one run of Pocket holds at each."""

import matplotlib
import numpy as np

from helpers.latents import decode
from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing

PICTURED = 12  # the step that stands in the loop
EVERY = 3  # steps between the columns of the strip
VECTOR_LIMIT = 1.0  # what the strongest blue and red of a vector stand for
TILE = 96
VECTORS = 426  # where the heat map begins


def draw() -> list[Drawing]:
    run = example.fox()
    t = run.steps[PICTURED].t
    drawing = Drawing(
        "pipeline",
        828,
        "A sentence becomes a picture at seven stations; the loop at station 5 turns noise into the picture's latent",
        f"Top, left to right: the prompt ({example.SAID}); its tokens with their numbers; the text encoder; a vector "
        "for each token, as a heat map. The vectors drop into the U-Net in the loop. The loop starts at the left "
        "from a latent of pure "
        f"noise. In each of its {example.STEPS} rounds (shown: t = {t}) the U-Net hears t and is asked twice what "
        "is noise, "
        "without and with the words; guidance walks on from the first answer to the second; and the scheduler takes a "
        "part of it away from the latent. After the last round the clean latent leaves to the right, and above it the "
        "VAE's decoder makes it the picture: a blue fox in the snow. Bottom: the latent before every third round, from "
        "noise to fox, and below it the picture that each guided answer implies: a blurred fox already in the first "
        "round.",
    )
    _words(drawing)
    _ring(drawing)
    _loop(drawing, run.steps[PICTURED])
    _ends(drawing, run)
    _strip(drawing, run)
    return [drawing]


def _words(drawing: Drawing) -> None:
    """Stations 1 to 3: the prompt, its tokens, and the vectors that the text encoder makes of them."""
    words, ids, vectors = example.tokens()
    drawing.station(39, 36, 1, "Prompt")
    bubble = "M38,58 H166 Q176,58 176,68 V132 Q176,142 166,142 H58 L44,156 V142 H38 Q28,142 28,132 V68 Q28,58 38,58 Z"
    drawing.path(bubble, fill=kit.WHITE, stroke=kit.WORDS, line=1.5)
    drawing.lines(38, 83, example.PROMPT, leading=21, size=15, colour=kit.WORDS)
    drawing.arrow([(182, 100), (206, 100)], kit.WORDS)

    padding = len(vectors) - len(ids)
    drawing.station(223, 36, 2, "Tokens")
    drawing.station(437, 36, 3, "Vectors", f"{len(vectors)} × {vectors.shape[1]} numbers")
    colours = matplotlib.colormaps["RdBu_r"]((vectors.numpy() / VECTOR_LIMIT + 1) / 2, bytes=True)[..., :3]
    rows = [
        *zip(words, ids, colours[: len(ids), None], strict=True),
        (f"end × {padding}", ids[-1], colours[len(ids) :]),
    ]
    for number, (word, token, row) in enumerate(rows):
        y = 58 + 18 * number
        inside = not word.startswith(("start", "end"))
        drawing.chip(209, y, word, width=94, height=17, fill=kit.WORDS_TINT if inside else kit.WHITE)
        drawing.text(333, y + 13, str(token), size=kit.SMALL, colour=kit.SECOND, anchor="end")
        drawing.picture(VECTORS, y + 0.5, 256, max(16, len(row)), row, frame=None)
    drawing.arrow([(334, 167), (344, 167)], kit.WORDS, tip=7)
    drawing.rect(346, 59, 64, 217, fill=kit.WORDS_TINT, stroke=kit.WORDS, line=1.5)
    drawing.text(378, 163, "text", colour=kit.WORDS, anchor="middle", bold=True)
    drawing.text(378, 181, "encoder", size=kit.SMALL, colour=kit.WORDS, anchor="middle")
    drawing.arrow([(411, 167), (424, 167)], kit.WORDS, tip=7)
    scale = matplotlib.colormaps["RdBu_r"](np.linspace(1, 0, 65), bytes=True)[:, None, :3]
    drawing.picture(VECTORS + 262, 59, 9, 86, scale, smooth=True, frame=None)
    for y, value in ((64, VECTOR_LIMIT), (107, 0), (150, -VECTOR_LIMIT)):
        drawing.text(VECTORS + 274, y, f"{value:g}".replace("-", "−"), size=kit.SMALL, colour=kit.SECOND)

    drawing.text(28, 208, "Stable Diffusion 1.5", size=kit.SMALL, colour=kit.SECOND, bold=True)
    sizes = ("77 × 768 at station 3,", "4 × 64 × 64 at 4 to 6,", "3 × 512 × 512 at 7")
    drawing.lines(28, 227, sizes, size=kit.SMALL, colour=kit.SECOND)


def _ring(drawing: Drawing) -> None:
    """The loop's way, and the words that come in from above."""
    upper = [(238, 434), (238, 344), (700, 344), (700, 434)]
    lower = [(700, 434), (700, 528), (238, 528), (238, 434)]
    drawing.rect(238, 344, 462, 184, fill=kit.WHITE, radius=16)
    for half in (upper, lower):
        drawing.ribbon(half, kit.XT_TINT, radius=16)
        drawing.dots(half, kit.XT, radius=16)
    for x, y, towards in ((300, 344, "right"), (600, 344, "right"), (300, 528, "left"), (600, 528, "left")):
        drawing.pointer(x, y, towards, kit.XT, kit.XT_TINT)
    words = [(462, 282), (462, 310), (372, 310), (372, 376)]
    drawing.ribbon(words, "#CFE6E0", halo=True)
    drawing.dots(words, kit.WORDS)
    drawing.text(478, 303, "the words, in every round", colour=kit.WORDS)
    drawing.text(690, 331, "$x_t$ goes to the scheduler, too", colour=kit.XT, anchor="end")
    drawing.text(469, 553, "a little less noise: the next round starts from here", colour=kit.XT, anchor="middle")


def _loop(drawing: Drawing, step) -> None:
    """Station 5: one round, from x_t over both answers to the scheduler."""
    drawing.station(217, 312, 5, "Loop", f"{example.STEPS} rounds")
    drawing.rect(202, 396, 72, 76, fill=kit.WHITE, radius=0)
    drawing.picture(206, 402, 64, 64, example.as_colours(step.latents), frame=kit.XT)
    drawing.text(254, 390, "$x_t$", size=18, colour=kit.XT)
    drawing.rect(250, 494, 62, 20, fill=kit.WHITE, stroke=kit.SECOND, line=1.25, radius=10)
    drawing.text(281, 508.5, f"$t$ = {step.t}", size=kit.SMALL, anchor="middle")
    drawing.arrow([(312, 504), (326, 504), (326, 491)], kit.SECOND, line=1.5, tip=7, radius=5)
    drawing.arrow([(274, 434), (300, 434)], kit.XT)
    drawing.unet(304, 378)
    drawing.text(336, 510, "**U-Net**")

    answers = ((400, step.noise_uncond, kit.SECOND, "5 4"), (472, step.noise_text, kit.WORDS, None))
    for y, noise, colour, dash in answers:
        drawing.arrow([(440, y), (478, y)], colour, dash=dash)
        drawing.picture(484, y - 24, 48, 48, example.as_colours(noise), frame=colour)
        drawing.line([(536, y), (562, y), (562, 434)], colour, dash=dash, radius=12)
    drawing.text(508, 369, "noise, without words", size=kit.SMALL, colour=kit.SECOND, anchor="middle")
    drawing.text(508, 512, "noise, with words", size=kit.SMALL, colour=kit.WORDS, anchor="middle")
    drawing.arrow([(562, 434), (588, 434)], kit.GUIDANCE, line=3)
    drawing.add("circle", cx=562, cy=434, r=4.5, fill=kit.GUIDANCE)
    drawing.picture(594, 410, 48, 48, example.as_colours(step.noise), frame=kit.GUIDANCE)
    drawing.text(618, 400, "guided", colour=kit.GUIDANCE, anchor="middle", bold=True)
    drawing.text(618, 477, f"$s$ = {example.GUIDANCE:g}", colour=kit.GUIDANCE, anchor="middle")
    drawing.arrow([(643, 434), (657, 434)], kit.GUIDANCE, line=3)
    drawing.rect(658, 408, 84, 52, fill=kit.INK, radius=26)
    drawing.text(700, 432, "scheduler", size=kit.SMALL, colour=kit.WHITE, anchor="middle", bold=True)
    drawing.text(700, 448, "step", size=kit.SMALL, colour=kit.WHITE, anchor="middle")


def _ends(drawing: Drawing, run) -> None:
    """Stations 4, 6 and 7: the noise that the loop starts from, the latent it ends with, the picture."""
    noise, clean = run.steps[0].latents, run.latents
    size = " × ".join(map(str, noise.shape[1:]))
    drawing.station(39, 312, 4, "Noise")
    drawing.text(28, 514, size, size=kit.SMALL, colour=kit.SECOND)
    drawing.text(28, 531, "red and blue: one", size=kit.SMALL, colour=kit.SECOND)
    drawing.text(28, 548, "channel at a time", size=kit.SMALL, colour=kit.SECOND)
    drawing.stack(29, 398, 96, example.channels(noise), colour=kit.XT)
    drawing.arrow([(156, 434), (198, 434)], kit.XT)

    drawing.arrow([(746, 434), (780, 434)], kit.X0)
    drawing.text(759, 456, "after", size=kit.SMALL, colour=kit.X0, anchor="middle")
    drawing.text(759, 472, str(len(run.steps)), size=kit.SMALL, colour=kit.X0, anchor="middle")
    drawing.stack(786, 402, 80, example.channels(clean), colour=kit.X0)
    drawing.station(797, 506, 6, "Latent")
    drawing.text(815, 528, size, size=kit.SMALL, colour=kit.SECOND)

    drawing.path(
        "M806,366 H866 L913,292 Q917,284 908,284 H764 Q755,284 759,292 Z", fill=kit.VAE_TINT, stroke=kit.VAE, line=1.5
    )
    drawing.text(836, 315, "VAE", colour=kit.VAE, anchor="middle", bold=True)
    drawing.text(836, 332, "decoder", colour=kit.VAE, anchor="middle")
    drawing.dots([(836, 372), (836, 342)], kit.VAE)
    drawing.path("M826,277 L836,265 L846,277 Z", fill=kit.VAE)
    picture = decode(example.pocket(), clean)[0]
    drawing.station(743, 36, 7, "Picture", f"3 × {picture.height} × {picture.width}")
    drawing.picture(733, 58, 198, 198, picture, smooth=True, frame=kit.X0)


def _strip(drawing: Drawing, run) -> None:
    """The latent before every third round, and the picture that each answer implies."""
    shown = run.steps[::EVERY]
    drawing.lines(28, 644, ("**latent** $x_t$,", "its 4 channels", "as colours"), size=kit.SMALL, colour=kit.SECOND)
    drawing.lines(28, 742, ("**estimate** $x̂_0$,", "decoded"), size=kit.SMALL, colour=kit.SECOND)
    for number, step in enumerate(shown):
        x = 932 - TILE - (904 - 110 - TILE) / (len(shown) - 1) * (len(shown) - 1 - number)
        head = f"{step.t}" if number else f"$t$ = {step.t}"
        drawing.text(x + TILE / 2, 588, head, size=kit.SMALL, colour=kit.SECOND, anchor="middle")
        drawing.picture(x, 598, TILE, TILE, example.as_colours(step.latents), frame=kit.XT)
        picture = decode(example.pocket(), step.x0)[0]
        drawing.picture(x, 704, TILE, TILE, picture, smooth=True, frame=kit.X0)
