"""The dial of guidance: two prompts drawn from one noise at seven scales, from no words to harsh colours."""

from helpers import latents, sampling
from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing

PROMPTS, SEED, STEPS = ("a fox", "a red car right of a blue house"), 3, 20
SCALES = {
    0: "without words",
    1: "plain answer",
    2: "",
    4: "Pocket’s usual",
    7.5: "SD 1.5’s usual",
    12: "",
    20: "",
}  # with a note
TILE, GAP, TOP, PITCH = 120, 64 / 6, 152, 172
COLOURS = {0: kit.SECOND, 1: kit.WORDS}  # by scale; the others are guided


def draw() -> list[Drawing]:
    pipe = example.pocket()
    scales = ", ".join(f"{s:g}" for s in SCALES)
    drawing = Drawing(
        "dial",
        TOP + PITCH * len(PROMPTS) - 20,
        f"One noise, guidance turned up: at s = 0 both prompts give one picture, at {max(SCALES):g} harsh colours",
        f"Two rows of pictures, all drawn from one noise (seed {SEED}) in {STEPS} steps, at the scales {scales}: "
        f"“{PROMPTS[0]}” and “{PROMPTS[1]}”. At 0 the words count for nothing and both rows show one picture, at 1 "
        "the plain answer is taken; from there things grow clear, then hard and bright. Over them a wedge, the dial. "
        "Stable Diffusion is usually used at 7.5, Pocket at 4.",
    )
    middles = [kit.MARGIN + number * (TILE + GAP) + TILE / 2 for number in range(len(SCALES))]
    level = 66
    edge = [(x, 8 * s / max(SCALES)) for x, s in zip(middles, SCALES, strict=True)]  # as thick as s is large
    corners = [(x, level - half) for x, half in edge] + [(x, level + half) for x, half in reversed(edge)]
    drawing.add("polygon", points=" ".join(f"{x:.1f},{y:.2f}" for x, y in corners), fill=kit.GUIDANCE)
    for x, (s, note) in zip(middles, SCALES.items(), strict=True):
        colour = COLOURS.get(s, kit.GUIDANCE)
        drawing.add("circle", cx=x, cy=level, r=6, fill=kit.WHITE, stroke=colour, stroke_width=2.5)
        drawing.text(x, level - 22, f"$s$ = {s:g}", size=kit.HEAD, bold=True, colour=colour, anchor="middle")
        drawing.text(x, level + 27, note, size=kit.SMALL, colour=kit.SECOND, anchor="middle")
    for row, prompt in enumerate(PROMPTS):
        y = TOP + row * PITCH
        drawing.chip(kit.MARGIN, y - 27, prompt)
        for x, s in zip(middles, SCALES, strict=True):
            run = sampling.run(pipe, prompt, seed=SEED, steps=STEPS, guidance=s)
            drawing.picture(x - TILE / 2, y, TILE, TILE, latents.decode(pipe, run.latents)[0], smooth=True)
    return [drawing]
