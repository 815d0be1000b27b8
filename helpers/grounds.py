"""What stands behind the things of a scene: ten plain colours and eight places, drawn by a few lines each.

A place comes in eight variants, which no caption names: another horizon, other clouds, other stars. Everything is drawn
four times as large as it is shown and then made smaller, so that no edge has steps.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128  # pixels, both sides of a scene
VARIANTS = 8
FINE = 4  # a place is drawn in so many times the size
HORIZON = (84, 97)  # pixels from the top, where the ground of a place begins: lowest and first too low

Colour = tuple[int, int, int]


class Canvas:
    """A picture in the making, in pixels of the scene, and the random numbers of its variant."""

    def __init__(self, *colours: Colour, seed: Sequence[int]):
        """A vertical gradient through `colours`, from top to bottom at even distances."""
        at = np.linspace(0, len(colours) - 1, SIZE * FINE)
        column = np.stack([np.interp(at, range(len(colours)), channel) for channel in zip(*colours, strict=True)], 1)
        gradient = np.broadcast_to(column[:, None], (SIZE * FINE, SIZE * FINE, 3))
        self.image = Image.fromarray(gradient.round().astype(np.uint8))
        self.rng = np.random.default_rng(seed)

    def _paint(
        self, colour: Colour, strength: float, soft: float, shape: Callable[[ImageDraw.ImageDraw], None]
    ) -> None:
        mask = Image.new("L", self.image.size)
        shape(ImageDraw.Draw(mask))
        if soft:
            mask = mask.filter(ImageFilter.GaussianBlur(soft * FINE))
        self.image.paste(colour, mask=mask.point(lambda value: round(value * strength)))

    def land(self, colour: Colour, height: float, wave: float = 3.0) -> None:
        """Everything below `height` pixels from the top, its edge gently waved by at most `wave` pixels."""
        x = np.linspace(0, 1, 65)
        first, second = self.rng.random(2)
        edge = height + wave * (0.7 * np.sin(2 * np.pi * (x + first)) + 0.3 * np.sin(2 * np.pi * (2 * x + second)))
        outline = [(a * SIZE * FINE, b * FINE) for a, b in zip(x, edge, strict=True)]
        corners = [(SIZE * FINE, SIZE * FINE), (0, SIZE * FINE)]
        self._paint(colour, 1.0, 0.25, lambda pen: pen.polygon([*outline, *corners], fill=255))

    def discs(self, colour: Colour, spots: Sequence[tuple[float, float, float]], soft: float, strength: float = 1.0):
        """Filled circles at (x, y) with a radius, in pixels, their edges blurred by `soft` pixels."""

        def shape(pen: ImageDraw.ImageDraw) -> None:
            for spot in spots:
                pen.ellipse(_around(*spot), fill=255)

        self._paint(colour, strength, soft, shape)

    def rings(self, colour: Colour, spots: Sequence[tuple[float, float, float]], width: float, strength: float = 1.0):
        """Circles at (x, y) with a radius, drawn with a line of `width` pixels."""

        def shape(pen: ImageDraw.ImageDraw) -> None:
            for spot in spots:
                pen.ellipse(_around(*spot), outline=255, width=round(FINE * width))

        self._paint(colour, strength, 0.3, shape)

    def scattered(self, count: int, top: float, bottom: float, radius: tuple[float, float]) -> list:
        """`count` spots between two heights, far enough apart to be told from each other."""
        spots: list[tuple[float, float, float]] = []
        while len(spots) < count:
            x, y = self.rng.uniform(4, SIZE - 4), self.rng.uniform(top, bottom)
            if all((x - a) ** 2 + (y - b) ** 2 > 14**2 for a, b, _ in spots):
                spots.append((x, y, self.rng.uniform(*radius)))
        return spots

    def horizon(self) -> float:
        return float(self.rng.integers(*HORIZON))

    def finished(self) -> Image.Image:
        return self.image.resize((SIZE, SIZE), Image.Resampling.BOX)


def _around(x: float, y: float, radius: float) -> list[float]:
    """The box of a circle, in the pixels of the larger picture."""
    return [FINE * (x - radius), FINE * (y - radius), FINE * (x + radius), FINE * (y + radius)]


def _grass(seed: Sequence[int]) -> Canvas:
    canvas = Canvas((136, 200, 252), (214, 238, 255), seed=seed)
    height = canvas.horizon()
    canvas.land((150, 212, 112), height)
    canvas.land((112, 190, 84), height + 13)
    flowers = canvas.scattered(6, height + 20, SIZE - 4, (1.5, 2.0))
    canvas.discs((255, 246, 214), flowers[:3], 0.4)
    canvas.discs((255, 216, 92), flowers[3:], 0.4)
    return canvas


def _snow(seed: Sequence[int]) -> Canvas:
    canvas = Canvas((158, 184, 216), (214, 226, 241), seed=seed)
    height = canvas.horizon()
    canvas.discs((255, 255, 255), canvas.scattered(12, 4, height - 8, (1.5, 2.4)), 0.5)
    canvas.land((232, 239, 249), height)
    canvas.land((250, 252, 255), height + 12)
    return canvas


def _sky(seed: Sequence[int]) -> Canvas:
    canvas = Canvas((78, 152, 240), (176, 216, 255), seed=seed)
    for left, top in canvas.rng.permutation([(20, 18), (106, 18), (20, 108), (106, 108)])[:3]:  # seen beside a thing
        x, y = left + canvas.rng.uniform(-8, 8), top + canvas.rng.uniform(-8, 8)
        puffs = [(x - 10, y + 2, 6), (x, y - 2, 9), (x + 11, y + 2, 7), (x + 2, y + 4, 6)]
        canvas.discs((255, 255, 255), puffs, 0.7, 0.95)
    return canvas


def _water(seed: Sequence[int]) -> Canvas:
    canvas = Canvas((64, 178, 214), (16, 88, 158), seed=seed)
    height = canvas.horizon() + 14
    canvas.land((196, 180, 140), height)
    bubbles = canvas.scattered(7, 6, height - 10, (2.5, 5.0))
    canvas.discs((150, 220, 240), bubbles, 0.4, 0.35)
    canvas.rings((214, 244, 255), bubbles, 1.1)
    return canvas


def _desert(seed: Sequence[int]) -> Canvas:
    canvas = Canvas((252, 206, 140), (255, 236, 196), seed=seed)
    height = canvas.horizon()
    canvas.land((240, 198, 128), height - 6, 6.0)
    canvas.land((222, 168, 96), height + 8, 4.0)
    return canvas


def _night(seed: Sequence[int]) -> Canvas:
    canvas = Canvas((18, 24, 66), (58, 62, 122), seed=seed)
    height = canvas.horizon()
    canvas.discs((255, 244, 200), canvas.scattered(12, 4, height - 6, (1.1, 2.0)), 0.4)
    canvas.land((36, 70, 84), height + 4)
    return canvas


def _sunset(seed: Sequence[int]) -> Canvas:
    canvas = Canvas((112, 76, 150), (238, 116, 110), (255, 190, 104), (255, 214, 140), seed=seed)
    height, x = canvas.horizon(), canvas.rng.choice([0.14, 0.86]) * SIZE + canvas.rng.uniform(-5, 5)
    canvas.discs((255, 240, 180), [(x, height - 8, 14)], 4.0, 0.5)
    canvas.discs((255, 246, 206), [(x, height - 8, 12)], 0.5)
    canvas.land((96, 58, 104), height)
    return canvas


def _space(seed: Sequence[int]) -> Canvas:
    canvas = Canvas((26, 14, 62), (62, 32, 108), seed=seed)
    clouds = canvas.scattered(2, 24, 104, (22, 30))
    canvas.discs((168, 62, 170), clouds[:1], 11.0, 0.5)
    canvas.discs((52, 104, 196), clouds[1:], 11.0, 0.5)
    canvas.discs((255, 255, 255), canvas.scattered(12, 4, SIZE - 4, (1.1, 1.9)), 0.4)
    x, y = canvas.rng.choice([16, SIZE - 16]), canvas.rng.choice([16, SIZE - 16])
    canvas.discs((250, 176, 120), [(x, y, 8.5)], 0.4)
    canvas.discs((226, 132, 96), [(x + 2, y + 3, 5)], 2.0, 0.7)
    return canvas


# The name of each place, how a caption says it, and what draws it.
PLACES: dict[str, tuple[str, Callable[[Sequence[int]], Canvas]]] = {
    "grass": ("on grass", _grass),
    "snow": ("in the snow", _snow),
    "sky": ("in the sky", _sky),
    "water": ("under water", _water),
    "desert": ("in the desert", _desert),
    "night": ("at night", _night),
    "sunset": ("at sunset", _sunset),
    "space": ("in space", _space),
}


@functools.cache
def place(name: str, variant: int) -> Image.Image:
    """One of the `VARIANTS` pictures of a place: RGB, 128 x 128 pixels. Raises ValueError for any other."""
    if name not in PLACES:
        raise ValueError(f"Unknown place {name!r}: choose one of {', '.join(PLACES)}")
    if variant not in range(VARIANTS):
        raise ValueError(f"variant is {variant}: choose a whole number from 0 to {VARIANTS - 1}")
    return PLACES[name][1]((list(PLACES).index(name), variant)).finished()
