"""From a picture to the latent that diffusion works on, and back: encoder, mu and sigma, z = mu, × s; ÷ s, decoder."""

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.latents import channel_pictures, decode
from helpers.measures import psnr
from helpers.scenes import GROUNDS, Scene, Thing
from helpers.scenes import draw as draw_scene
from tools.diagrams import example, kit
from tools.diagrams.kit import Drawing

SCENE = Scene((Thing("owl"),), ground="sunset", style="glossy")
SEED = 0
SD15_SCALE = 0.18215  # Rombach et al. (2022), and the library's default
LIMIT = 4.0  # what the strongest blue and red stand for in mu, z, x0 and the noise alike
UPPER, LOWER = 190, 442  # the middle of the way to the right and of the way back
MU, SIGMA = UPPER - 78, UPPER + 78
STACK, STEP = 80, 7  # the side of a latent's front channel, and how far the next peeps out
PARAMETERS, JOIN, DRAW, Z, GATE, X0, TURN = 304, 458, 494, 506, 656, 716, 872  # from left to right
SUM, ENTER = (UPPER + SIGMA) // 2, LOWER - 18  # where the draw is made, and where it enters the decoder
NOTE = {"anchor": "middle", "size": kit.SMALL, "colour": kit.SECOND}


def draw() -> list[Drawing]:
    pipe = example.pocket()
    scale = pipe.vae.config.scaling_factor
    picture = draw_scene(SCENE)
    pixels = torch.from_numpy(np.array(picture)).movedim(-1, 0)[None] / 127.5 - 1  # (1, 3, H, W), -1 to 1
    with torch.no_grad():
        normal = pipe.vae.encode(pixels).latent_dist
    noise = torch.randn(normal.mean.shape, generator=torch.Generator().manual_seed(SEED))
    z = normal.mean  # as in the latents that Pocket's U-Net was trained on
    x0 = z * scale
    back = decode(pipe, x0)[0]  # divides by the scale itself
    fewer = pixels.numel() // z.numel()
    drawing = Drawing(
        "vae",
        560,
        f"The VAE keeps a picture in {fewer} times fewer numbers; times s on the way in and divided by s on the way "
        "out are a pair",
        f"Upper way, left to right: an {SCENE.words[0]} {GROUNDS[SCENE.ground]}, {pixels.numel():,} numbers. The "
        f"encoder gives a mean mu and a standard deviation sigma for each of {z.numel():,} latent numbers. Sigma, "
        f"darker where it is larger, is {normal.std.mean():.3f} on average, small beside the spread of mu, "
        f"{normal.mean.std():.2f}. The mean is the latent z; the U-Net of Pocket was trained on s times it. Dashed, "
        f"what happens while the VAE is trained: sigma times xi, noise of its own (seed {SEED}), not the noise of "
        f"diffusion, is added to the mean, and the sum, the draw, goes straight to the decoder. "
        f"Times s = {scale:.4f} makes z into x0, paler, with a standard deviation of {x0.std():.2f} here and of 1 over "
        "many pictures: the latent that diffusion starts from. At the right, lessons 01 and 02 add noise and take it "
        "away again; here a dashed wire leaves "
        "that out. Lower way, right to left: the same latent is divided by s, and the decoder paints it. Its PSNR "
        f"against the picture above is {psnr(picture, back):.1f} dB.",
    )
    drawing.rect(GATE, 28, 932 - GATE, 504, fill=kit.WHITE, stroke=kit.HAIRLINE)
    drawing.text(28, 58, "the VAE’s numbers", size=kit.HEAD, bold=True)
    drawing.text((GATE + 932) / 2, 58, "the numbers of diffusion", size=kit.HEAD, bold=True, anchor="middle")
    _ways(drawing)
    _gates(drawing, scale)
    _latent(drawing, PARAMETERS, MU, normal.mean, "$μ$", f"std {normal.mean.std():.2f}", kit.VAE)
    _latent(drawing, PARAMETERS, SIGMA, normal.std, "$σ$", f"mean {normal.std.mean():.3f}", kit.VAE)
    _latent(drawing, Z, UPPER, z, "$z = μ$", f"std {z.std():.2f}", kit.VAE)
    _latent(drawing, X0, UPPER, x0, "$x_0$", f"std {x0.std():.2f}", kit.X0)
    drawing.text(X0 + STACK / 2, UPPER + STACK / 2 + 36, "over many pictures: about 1", **NOTE)
    _latent(drawing, X0, LOWER, x0, "$x_0$", f"std {x0.std():.2f}", kit.X0)
    _latent(drawing, Z, LOWER, x0 / scale, "$z$", f"std {(x0 / scale).std():.2f}", kit.VAE)
    drawing.picture(JOIN - 24, SIGMA + 36, 48, 48, channel_pictures(noise, limit=LIMIT)[0][0], frame=kit.VAE)
    drawing.text(JOIN - 32, SIGMA + 57, "$ξ$", size=19, colour=kit.VAE, anchor="end")
    drawing.text(JOIN - 32, SIGMA + 78, "noise, std 1", size=kit.SMALL, colour=kit.SECOND, anchor="end")
    use = "a draw: to train the VAE"
    drawing.text(DRAW - 14, ENTER - 9, use, size=kit.SMALL, colour=kit.SECOND, anchor="end")
    _pictures(drawing, picture, back, z)
    return [drawing]


def _ways(drawing: Drawing) -> None:
    """Ribbons, the encoder and the decoder, and, dashed, the draw that is decoded while the VAE is trained."""
    for y, colour in ((MU, kit.VAE), (SIGMA, kit.VAE)):
        drawing.ribbon([(250, UPPER), (276, UPPER), (276, y), (PARAMETERS, y)], colour, width=7)
    drawing.ribbon([(PARAMETERS + STACK, MU), (JOIN, MU), (JOIN, UPPER), (GATE, UPPER)], kit.VAE)
    gap = [(TURN, (UPPER + LOWER) / 2 + side * 50) for side in (-1, 1)]
    drawing.ribbon([(GATE, UPPER), (TURN, UPPER), gap[0]], kit.X0)
    drawing.line(gap, kit.X0, dash="6 5")
    drawing.ribbon([gap[1], (TURN, LOWER), (GATE, LOWER)], kit.X0)
    drawing.ribbon([(GATE, LOWER), (250, LOWER)], kit.VAE)
    drawing.ribbon([(156, UPPER), (200, UPPER)], kit.VAE)
    drawing.dots([(Z + STACK + 3 * STEP, UPPER), (TURN, UPPER), gap[0]], kit.WHITE)
    drawing.dots([gap[1], (TURN, LOWER), (250, LOWER)], kit.WHITE)
    end = PARAMETERS + STACK + 3 * STEP
    drawing.arrow([(end, SIGMA), (JOIN - 11, SIGMA)], kit.VAE, dash="5 4")
    drawing.arrow([(JOIN, SIGMA), (JOIN, SUM + 11)], kit.VAE, dash="5 4")
    drawing.arrow([(JOIN, UPPER), (JOIN, SUM - 11)], kit.VAE, dash="5 4")
    drawing.arrow([(JOIN, SUM), (DRAW, SUM), (DRAW, ENTER), (254, ENTER)], kit.VAE, dash="5 4")
    drawing.arrow([(JOIN, SIGMA + 34), (JOIN, SIGMA + 11)], kit.VAE, dash="5 4")
    for x, y, towards in ((TURN, 248, "down"), (TURN, 396, "down"), (380, LOWER, "left"), (482, UPPER, "right")):
        drawing.pointer(x, y, towards, kit.WHITE, kit.X0 if x == TURN else kit.VAE)
    drawing.path(f"M170,{LOWER - 8} L158,{LOWER} L170,{LOWER + 8} Z", fill=kit.VAE)
    drawing.disc(JOIN, SUM, "+")
    drawing.disc(JOIN, SIGMA, "×")
    for y, name in ((UPPER, "encoder"), (LOWER, "decoder")):
        funnel = (
            f"M178,{y - 56} Q172,{y - 60} 172,{y - 52} V{y + 52} Q172,{y + 60} 178,{y + 56} L252,{y + 24} V{y - 24} Z"
        )
        drawing.path(funnel, fill=kit.VAE_TINT, stroke=kit.VAE, line=1.5)
        drawing.text(210, y + 4.5, name, size=kit.SMALL, colour=kit.VAE, anchor="middle", bold=True)


def _gates(drawing: Drawing, scale: float) -> None:
    """Times s and divided by s, one above the other, and at the turn what the wire leaves out."""
    drawing.line([(GATE, UPPER), (GATE, LOWER)], kit.INK)
    for y, sign in ((UPPER, "×"), (LOWER, "÷")):
        drawing.rect(GATE - 48, y - 21, 96, 42, fill=kit.INK, stroke=kit.CARD, line=3, radius=21)
        drawing.text(GATE, y + 6, f"{sign} {scale:.4f}", size=16, colour=kit.WHITE, anchor="middle", bold=True)
    middle = (UPPER + LOWER) / 2
    drawing.rect(GATE - 66, middle - 30, 132, 56, fill=kit.CARD, stroke=kit.INK, line=1.25)
    drawing.text(GATE, middle - 8, "scaling factor $s$", anchor="middle", bold=True)
    drawing.text(GATE, middle + 12, f"of SD 1.5: {SD15_SCALE}", size=kit.SMALL, colour=kit.SECOND, anchor="middle")
    words = ("lessons 01 and 02", "add and remove", "noise here; this", "picture does not")
    drawing.lines(TURN - 14, middle - 23, words, size=kit.SMALL, colour=kit.SECOND, anchor="end")


def _pictures(drawing: Drawing, picture: Image.Image, back: Image.Image, z: Tensor) -> None:
    """The picture at both ends, and how many numbers it is."""
    drawing.picture(28, UPPER - 64, 128, 128, picture, smooth=True)
    drawing.text(92, UPPER + 84, f"3 × {picture.height} × {picture.width} =", **NOTE)
    drawing.text(92, UPPER + 102, f"{3 * picture.height * picture.width:,} numbers", **NOTE)
    drawing.picture(28, LOWER - 64, 128, 128, back, smooth=True)
    drawing.text(92, LOWER + 84, f"PSNR {psnr(picture, back):.1f} dB", **NOTE)
    drawing.text(92, LOWER + 102, "to the one above", **NOTE)
    fewer = 3 * picture.height * picture.width // z.numel()
    size = (f"{' × '.join(map(str, z.shape[1:]))} =", f"{z.numel():,} numbers,", f"{fewer} times fewer")
    drawing.lines(Z + STACK / 2, 55, size, leading=17, **NOTE)


def _latent(drawing: Drawing, x: float, y: float, latent: Tensor, name: str, note: str, colour: str) -> None:
    """A latent with its name above it and a number below; y is the middle of its front channel."""
    if name == "$σ$":
        shades = matplotlib.colormaps["Greys"](latent[0].numpy() / latent.max().item(), bytes=True)[..., :3]
        layers = list(shades)
    else:
        layers = channel_pictures(latent, limit=LIMIT)[0]
    drawing.stack(x, y - STACK / 2, STACK, layers, colour=colour, step=STEP)
    drawing.text(x + STACK / 2 + 10, y - STACK / 2 - 29, name, size=19, colour=colour, anchor="middle")
    drawing.text(x + STACK / 2, y + STACK / 2 + 18, note, size=kit.SMALL, colour=kit.SECOND, anchor="middle")
