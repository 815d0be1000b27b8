"""One step of the denoising loop to scale: a short way along the quarter circle between noise and picture."""

import math

import torch

from helpers.latents import decode
from helpers.sampling import ddpm_step, predict_x0, run
from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing, Point

PROMPT, SEED, STEPS, T, GUIDANCE = "a rocket in space", 5, 10, 601, 1.0
ORIGIN, RADIUS = (150.0, 462.0), 306.0
TILE, WIDE = 96, 128
RIGHT = 624  # where the column of formulas begins


def draw() -> list[Drawing]:
    pipe = example.pocket()
    alpha_bar = pipe.scheduler.alphas_cumprod
    steps = run(pipe, PROMPT, steps=STEPS, guidance=GUIDANCE, seed=SEED).steps
    times = [step.t for step in steps]
    at = times.index(T)
    step, after = steps[at : at + 2]
    a, a_next = float(alpha_bar[T]), float(alpha_bar[after.t])
    sigma = math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
    kept = math.sqrt(1 - a_next - sigma**2)
    x0 = predict_x0(step.latents, step.noise, T, alpha_bar)
    _check(step, after, x0, (math.sqrt(a_next), kept, sigma), alpha_bar)
    signal, noise = (math.sqrt(a), math.sqrt(a_next)), (math.sqrt(1 - a), math.sqrt(1 - a_next))

    drawing = Drawing(
        "one_step",
        544,
        f"One step of the loop: out to the estimate of the picture, and {_degrees(a, a_next):.0f}° along the arc",
        f"A quarter circle. Its upright axis is the predicted noise, its level axis the estimate of the picture, and a "
        f"noisy latent at timestep t lies on the arc between them, for its shares of both are the sine and cosine of "
        f"one angle. Dots mark the {STEPS} timesteps of a run of “{PROMPT}” (seed {SEED}, guidance {GUIDANCE:g}); "
        f"signal and noise are equal at 45°. From x at t = {T}, {signal[0]:.2f} of picture and {noise[0]:.2f} of "
        f"noise, a line leads out to the estimate, a rocket; the step goes only to t = {after.t}, {signal[1]:.2f} and "
        f"{noise[1]:.2f}. At the right the formulas: ask, estimate, step; and DDPM, which keeps {kept:.2f} of the "
        f"predicted noise and adds {sigma:.2f} of fresh noise.",
    )
    _circle(drawing, [float(alpha_bar[t]) for t in times], at)
    _latents(drawing, step, after, decode(pipe, x0)[0], a, a_next)
    _formulas(drawing, signal, noise, kept, sigma, after.t)
    return [drawing]


def _check(step, after, x0, shares: tuple[float, float, float], alpha_bar: torch.Tensor) -> None:
    """The formulas that are drawn are the run's own step, and DDPM's."""
    of_x0, kept, sigma = shares
    rest = math.sqrt(kept**2 + sigma**2)
    torch.testing.assert_close(of_x0 * x0 + rest * step.noise, after.latents, rtol=0, atol=1e-4)
    z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    ddpm = ddpm_step(step.latents, step.noise, step.t, after.t, alpha_bar, z)
    torch.testing.assert_close(of_x0 * x0 + kept * step.noise + sigma * z, ddpm, rtol=0, atol=1e-4)


def _degrees(a: float, a_next: float) -> float:
    return math.degrees(math.acos(math.sqrt(a)) - math.acos(math.sqrt(a_next)))


def _place(a: float, radius: float = RADIUS) -> Point:
    return ORIGIN[0] + radius * math.sqrt(a), ORIGIN[1] - radius * math.sqrt(1 - a)


def _circle(drawing: Drawing, bars: list[float], at: int) -> None:
    """Axes, the arc with a dot for each timestep, and the step itself."""
    x, y = ORIGIN
    corner = (x + RADIUS, y)
    drawing.path(
        f"M{x},{y - RADIUS} A{RADIUS},{RADIUS} 0 0 1 {x + RADIUS},{y} L{x},{y} Z", fill=kit.PANEL, fill_opacity=0.55
    )
    drawing.arrow([ORIGIN, (x, y - RADIUS)], kit.EPS, line=2.5, tip=10)
    drawing.arrow([ORIGIN, corner], kit.X0, line=2.5, tip=10)
    drawing.path(f"M{x},{y - RADIUS} A{RADIUS},{RADIUS} 0 0 1 {x + RADIUS},{y}", stroke=kit.LINE, line=1.5)
    here, there = _place(bars[at]), _place(bars[at + 1])
    foot = (here[0], y)
    drawing.line([here, foot], kit.EPS, line=2, dash="2 4")
    drawing.line([here, (x, here[1])], kit.X0, line=1.25, dash="6 3")
    drawing.arrow([here, corner], kit.X0, line=2.5, tip=11)
    for index, a in enumerate(bars):
        if index not in (at, at + 1):
            cx, cy = _place(a)
            drawing.add("circle", cx=cx, cy=cy, r=3.5, fill=kit.XT, fill_opacity=0.45)
    bend = _place((bars[at] + bars[at + 1]) / 2, RADIUS + 1)
    drawing.path(
        f"M{here[0]:.1f},{here[1]:.1f} Q{bend[0]:.1f},{bend[1]:.1f} {there[0]:.1f},{there[1]:.1f}",
        stroke=kit.XT,
        line=6,
    )
    for place in (here, there):
        drawing.add("circle", cx=place[0], cy=place[1], r=7, fill=kit.WHITE, stroke=kit.XT, stroke_width=2.5)
    middle, outer = _place(0.5, RADIUS - 7), _place(0.5, RADIUS + 8)
    drawing.line([middle, outer], kit.INK, line=1.5)
    drawing.text(outer[0] + 6, outer[1] + 1, "SNR = 1", size=kit.SMALL, colour=kit.SECOND)
    drawing.line([(foot[0], y - 6), (foot[0], y + 6)], kit.X0)
    drawing.line([(x - 6, here[1]), (x + 6, here[1])], kit.EPS)
    drawing.text(foot[0], y + 22, f"{math.sqrt(bars[at]):.2f} $x̂_0$", colour=kit.X0, anchor="middle")
    drawing.text(x - 12, here[1] + 5, f"{math.sqrt(1 - bars[at]):.2f} $ε_θ$", colour=kit.EPS, anchor="end")
    drawing.text(x + RADIUS + 2, y + 22, "1 $x̂_0$", colour=kit.X0, anchor="end")
    drawing.text(x - 12, y - RADIUS + 5, "1 $ε_θ$", colour=kit.EPS, anchor="end")


def _latents(drawing: Drawing, step, after, picture, a: float, a_next: float) -> None:
    x, y = ORIGIN
    top = y - RADIUS
    drawing.picture(28, top - 112, TILE, TILE, example.as_colours(step.noise), frame=kit.EPS)
    drawing.text(28, top - 122, "predicted noise $ε_θ$", colour=kit.EPS)
    drawing.line([(28 + TILE, top - 14), (x - 5, top - 1)], kit.EPS, line=1.25)
    drawing.picture(x + RADIUS + 10, y - WIDE + 36, WIDE, WIDE, picture, smooth=True, frame=kit.X0)
    drawing.text(x + RADIUS + 10 + WIDE / 2, y + 56, "estimate $x̂_0$", colour=kit.X0, anchor="middle")
    for step_, a_, left, head in ((step, a, x + 44, 30), (after, a_next, x + 176, 60)):
        place = _place(a_)
        drawing.line([place, (left + TILE / 2, head + TILE)], kit.XT, line=1.25)
        drawing.picture(left, head, TILE, TILE, example.as_colours(step_.latents), frame=kit.XT)
        drawing.text(
            left + TILE + 8 if step_ is after else left - 8,
            head + 16,
            f"$x_{{{step_.t}}}$",
            size=19,
            colour=kit.XT,
            anchor="start" if step_ is after else "end",
        )
        drawing.add("circle", cx=place[0], cy=place[1], r=7, fill=kit.WHITE, stroke=kit.XT, stroke_width=2.5)


def _formulas(drawing: Drawing, signal, noise, kept: float, sigma: float, t_next: int) -> None:
    x = RIGHT + 12
    drawing.station(x, 52, 1, "Ask", "which part is noise?")
    drawing.unet(RIGHT + 222, 28, 86, 48)
    _formula(
        drawing,
        104,
        [
            ("$ε_θ$", kit.EPS),
            (" = U-Net(", kit.INK),
            (f"$x_{{{T}}}$", kit.XT),
            (f", {T}, ", kit.INK),
            ("words", kit.WORDS),
            (")", kit.INK),
        ],
    )
    drawing.station(x, 172, 2, "Estimate", "take it all out")
    _formula(
        drawing,
        214,
        [
            ("$x̂_0$", kit.X0),
            (" = (", kit.INK),
            (f"$x_{{{T}}}$", kit.XT),
            (" − ", kit.INK),
            (f"{noise[0]:.2f} $ε_θ$", kit.EPS),
            (f") / {signal[0]:.2f}", kit.INK),
        ],
    )
    drawing.station(x, 266, 3, "Step", "mix again, a little less noise")
    _formula(
        drawing,
        308,
        [
            (f"$x_{{{t_next}}}$", kit.XT),
            (" = ", kit.INK),
            (f"{signal[1]:.2f} $x̂_0$", kit.X0),
            (" + ", kit.INK),
            (f"{noise[1]:.2f} $ε_θ$", kit.EPS),
        ],
    )
    _bar(drawing, 324, [(signal[1], kit.X0), (noise[1], kit.EPS)])
    drawing.text(RIGHT, 362, "The bar shows the squares: they add up to 1.", size=kit.SMALL, colour=kit.SECOND)
    drawing.station(x, 406, "", "DDPM", "throws dice for a part of it")
    _die(drawing, x, 406)
    _formula(
        drawing,
        448,
        [
            (f"$x_{{{t_next}}}$", kit.XT),
            (" = ", kit.INK),
            (f"{signal[1]:.2f} $x̂_0$", kit.X0),
            (" + ", kit.INK),
            (f"{kept:.2f} $ε_θ$", kit.EPS),
            (" + ", kit.INK),
            (f"{sigma:.2f} $z$", kit.INK),
        ],
    )
    _bar(drawing, 464, [(signal[1], kit.X0), (kept, kit.EPS), (sigma, kit.SECOND)])
    drawing.text(RIGHT, 502, "The same sum, a part of it fresh noise, $z$.", size=kit.SMALL, colour=kit.SECOND)


def _formula(drawing: Drawing, y: float, parts: list[tuple[str, str]]) -> None:
    drawing.formula(RIGHT, y, parts, font_size=18)


def _bar(drawing: Drawing, y: float, parts: list[tuple[float, str]]) -> None:
    """Shares of the variance, in one bar."""
    x, whole = float(RIGHT), 308
    for share, colour in parts:
        width = whole * share**2
        drawing.rect(x, y, width - 2, 18, fill=colour, radius=2)
        drawing.text(
            x + (width - 2) / 2, y + 13.4, f"{share**2:.3f}", size=kit.SMALL, colour=kit.WHITE, anchor="middle"
        )
        x += width


def _die(drawing: Drawing, x: float, y: float) -> None:
    drawing.rect(x - 12, y - 12, 24, 24, fill=kit.INK, radius=5)
    for dx, dy in ((-6, -6), (6, -6), (0, 0), (-6, 6), (6, 6)):
        drawing.add("circle", cx=x + dx, cy=y + dy, r=2.2, fill=kit.WHITE)
