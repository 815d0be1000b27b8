"""What all diagrams share: the colours, the type, and an SVG in the making.

Colours never speak alone: a label goes with each. Sizes are pixels of a card 960 wide. Text may hold `**bold**` and
`$symbols$`: in symbols a single letter is italic, `_` and `^` lower and raise the next character or `{group}`.
"""

import base64
import functools
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageFont

from helpers.palette import CARD, HAIRLINE, INK, LINE, PANEL, ROLES, SECOND

X0, X0_TINT = ROLES["x0"].ink, ROLES["x0"].tint
XT, XT_TINT = ROLES["x_t"].ink, ROLES["x_t"].tint
EPS, EPS_TINT = ROLES["eps"].ink, ROLES["eps"].tint
WORDS, WORDS_TINT = ROLES["words"].ink, ROLES["words"].tint
GUIDANCE, GUIDANCE_TINT = ROLES["guidance"].ink, ROLES["guidance"].tint
VAE, VAE_TINT = ROLES["vae"].ink, ROLES["vae"].tint
DOWN, MIDDLE, UP = (ROLES[name].ink for name in ("down", "middle", "up"))  # of the U-Net
WHITE = "#FFFFFF"

SANS = '"Helvetica Neue",Helvetica,Arial,"Liberation Sans","DejaVu Sans",sans-serif'
SERIF = '"STIX Two Text","Times New Roman","Liberation Serif","DejaVu Serif",serif'

FOLDER = Path(__file__).resolve().parents[2] / "images" / "diagrams"
WIDTH, MARGIN = 960, 28
HEAD, LABEL, SMALL = 16, 14, 14  # sizes of text: on a page 700 wide the smallest is 10 pixels high
LOWERED = 0.76  # size of subscripts and superscripts
QUALITY = 88  # of the JPEG or WebP that a smooth picture becomes
MARKUP = re.compile(r"\*\*(?P<bold>.+?)\*\*|\$(?P<symbols>.+?)\$")
SYMBOL = re.compile(r"(?P<shift>[_^])(?:\{(?P<group>[^}]*)\}|(?P<one>.))|(?P<rest>[^_^]+)")
# A letter alone, with the hat or bar it may wear, or any other run: words and digits stand upright.
LETTER = re.compile(r"(?<![^\W\d_])([^\W\d_][\u0300-\u036f]?)(?![^\W\d_])|([^\W\d_]{2,}|[\W\d_]+)")

Point = tuple[float, float]


def element(tag: str, content: str | None = None, /, **attributes: object) -> str:
    """One SVG element: `stroke_width=2` becomes stroke-width="2", numbers lose needless digits, None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_number(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{written}/>" if content is None else f"<{tag}{written}>{content}</{tag}>"


def text_width(words: str, size: float = LABEL, *, bold: bool = False) -> float:
    """How wide a text is in DejaVu Sans, the widest of the fonts that it may be shown in: room to leave."""
    return _font(bold).getlength(re.sub(r"\*\*|[$_^{}]", "", words)) * size / 100


def route(points: Sequence[Point], radius: float = 10) -> str:
    """Path data through points, straight, with rounded corners."""
    data = f"M{_pair(points[0])}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        reach = min(radius, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        data += f" L{_pair(_towards(corner, before, reach))} Q{_pair(corner)} {_pair(_towards(corner, after, reach))}"
    return f"{data} L{_pair(points[-1])}"


class Drawing:
    """An SVG in the making, on a light card; what is drawn later lies above.

    name: stands in the file's name and in every id and class, so that several drawings can share a page.
    title: the finding. description: what is drawn, left to right. Both are read out to those who do not see it.
    """

    def __init__(self, name: str, height: float, title: str, description: str) -> None:
        self.name, self.height, self.title, self.description = name, height, title, description
        self.parts: list[str] = []
        self.gradients = 0
        self.rect(0.5, 0.5, WIDTH - 1, height - 1, fill=CARD, stroke=HAIRLINE, radius=14)

    def add(self, tag: str, content: str | None = None, /, **attributes: object) -> None:
        """Any SVG element, for what the other methods do not draw."""
        self.parts.append(element(tag, content, **attributes))

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "none",
        stroke: str | None = None,
        line: float = 1,
        radius: float = 10,
    ) -> None:
        self.add(
            "rect",
            x=x,
            y=y,
            width=width,
            height=height,
            rx=radius or None,
            fill=fill,
            stroke=stroke,
            stroke_width=line if stroke else None,
        )

    def path(
        self, data: str, *, fill: str = "none", stroke: str | None = None, line: float = 2, **more: object
    ) -> None:
        self.add(
            "path",
            d=data,
            fill=fill,
            stroke=stroke,
            stroke_width=line if stroke else None,
            stroke_linejoin="round",
            **more,
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = LABEL,
        colour: str = INK,
        anchor: str = "start",
        bold: bool = False,
        **more: object,
    ) -> None:
        """Words with their baseline at y, in the module's markup; `anchor` is start, middle or end."""
        self.add(
            "text",
            _spans([(words, None)], self.name),
            x=x,
            y=y,
            font_size=size,
            fill=colour,
            text_anchor=None if anchor == "start" else anchor,
            font_weight=700 if bold else None,
            **more,
        )

    def formula(self, x: float, y: float, parts: Sequence[tuple[str, str]], **options: object) -> None:
        """One line of pieces, each (words, colour), that follow one another in whatever font it is shown."""
        self.add("text", _spans(parts, self.name), x=x, y=y, **options)

    def lines(self, x: float, y: float, words: Sequence[str], *, leading: float = 18, **options: object) -> None:
        """Several lines of text, the first with its baseline at y."""
        for number, line in enumerate(words):
            self.text(x, y + number * leading, line, **options)

    def line(
        self,
        points: Sequence[Point],
        colour: str = LINE,
        *,
        line: float = 2,
        dash: str | None = None,
        radius: float = 10,
        halo: bool = False,
    ) -> None:
        """A line through points with rounded corners. halo: keeps it apart from what it crosses."""
        data = route(points, radius)
        if halo:
            self.path(data, stroke=CARD, line=line + 6)
        self.path(data, stroke=colour, line=line, stroke_dasharray=dash)

    def arrow(self, points: Sequence[Point], colour: str = LINE, *, tip: float = 8, **options: object) -> None:
        """A line that ends in a filled triangle, whose tip is the last point."""
        (x0, y0), (x1, y1) = points[-2:]
        foot = _towards((x1, y1), (x0, y0), tip)
        self.line([*points[:-1], _towards((x1, y1), (x0, y0), tip - 1)], colour, **options)
        across = ((y1 - y0) / math.dist(*points[-2:]) * tip * 0.45, (x0 - x1) / math.dist(*points[-2:]) * tip * 0.45)
        corners = [(foot[0] + across[0], foot[1] + across[1]), (x1, y1), (foot[0] - across[0], foot[1] - across[1])]
        self.add("polygon", points=" ".join(map(_pair, corners)), fill=colour)

    def ribbon(
        self,
        points: Sequence[Point],
        colour: str,
        end_colour: str | None = None,
        *,
        width: float = 14,
        radius: float = 10,
        halo: bool = False,
    ) -> None:
        """The main way of the data, in one colour or passing into another from its first point to its last."""
        paint = self._gradient(points, colour, end_colour) if end_colour else colour
        self.line(points, paint, line=width, radius=radius, halo=halo)

    def dots(self, points: Sequence[Point], colour: str, *, size: float = 4, radius: float = 10) -> None:
        """Dots along a line, moving where motion is welcome: what flows."""
        self.path(route(points, radius), stroke=colour, line=size, stroke_linecap="round", class_=f"{self.name}-flow")

    def pointer(self, x: float, y: float, towards: str, colour: str, around: str) -> None:
        """A triangle on a ribbon, its middle at (x, y), that says which way things flow even where nothing moves.

        towards: right, down, left or up. around: the ribbon's colour, which keeps the triangle apart from the dots.
        """
        along_x, along_y = {"right": (1, 0), "down": (0, 1), "left": (-1, 0), "up": (0, -1)}[towards]
        back = (x - 5 * along_x, y - 5 * along_y)
        one, two = ((back[0] + side * along_y, back[1] + side * along_x) for side in (-5.5, 5.5))
        data = f"M{_pair(one)} L{_pair((x + 6 * along_x, y + 6 * along_y))} L{_pair(two)} Z"
        self.path(data, fill=colour, stroke=around, line=4, paint_order="stroke")

    def station(self, x: float, y: float, number: int, head: str = "", note: str = "") -> None:
        """A numbered disc, its middle at (x, y), with a head and a note in second text beside it."""
        self.disc(x, y, str(number))
        if head:
            self.text(x + 18, y + 5.5, head, size=HEAD, bold=True)
        if note:
            self.text(x + 18 + text_width(head, HEAD, bold=True) + 8, y + 5.5, note, size=SMALL, colour=SECOND)

    def disc(self, x: float, y: float, words: str, *, colour: str = INK, radius: float = 11) -> None:
        """A filled disc with a number or letter in it."""
        self.add("circle", cx=x, cy=y, r=radius, fill=colour, stroke=CARD, stroke_width=3)
        size = LABEL if len(words) < 2 else 11  # the one text that is smaller than the rest: it is white on ink
        self.text(x, y + size * 0.355, words, size=size, colour=WHITE, anchor="middle", bold=True)

    def chip(
        self,
        x: float,
        y: float,
        word: str,
        *,
        width: float | None = None,
        height: float = 20,
        size: float = SMALL,
        colour: str = WORDS,
        fill: str = WORDS_TINT,
    ) -> float:
        """A word on a chip, as wide as the word needs unless `width` says; returns the x where the chip ends."""
        width = math.ceil(text_width(word, size)) + 12 if width is None else width
        self.rect(x + 0.5, y + 0.5, width - 1, height - 1, fill=fill, stroke=colour, radius=4)
        self.text(x + width / 2, y + height / 2 + size * 0.36, word, size=size, colour=colour, anchor="middle")
        return x + width

    def picture(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        pixels: np.ndarray | Image.Image,
        *,
        smooth: bool = False,
        frame: str | None = HAIRLINE,
        line: float | None = None,
    ) -> None:
        """A picture, embedded, with a frame around it: a hairline, or 2 px in another colour.

        pixels: uint8 (h, w, 3), or a PIL picture. smooth: for decoded pictures; else every pixel is a sharp square.
        """
        self.add(
            "image",
            x=x,
            y=y,
            width=width,
            height=height,
            href=data_uri(pixels, smooth=smooth),
            preserveAspectRatio="none",
            class_=None if smooth else f"{self.name}-pixels",
        )
        if frame:
            line = (1 if frame == HAIRLINE else 2) if line is None else line
            out = line / 2
            self.rect(x - out, y - out, width + line, height + line, stroke=frame, line=line, radius=1.5)

    def stack(
        self, x: float, y: float, size: float, layers: Sequence[np.ndarray], *, colour: str, step: float = 8
    ) -> None:
        """The channels of a latent behind each other, the first in front with its frame at (x, y)."""
        for number in reversed(range(len(layers))):
            at = (x + number * step, y - number * step)
            self.picture(*at, size, size, layers[number], frame=WHITE if number else colour, line=1.5 if number else 2)

    def unet(self, x: float, y: float, width: float = 136, height: float = 112) -> None:
        """The U-Net as a sign: bars that fall, the shortest in the middle, bars that rise, on a panel."""
        self.rect(x, y, width, height, fill=PANEL)
        heights = (0.82, 0.57, 0.36, 0.25, 0.36, 0.57, 0.82)
        pitch = width * 0.118
        for number, (share, colour) in enumerate(zip(heights, [DOWN] * 3 + [MIDDLE] + [UP] * 3, strict=True)):
            left = x + width / 2 + (number - 3.5) * pitch + 1
            self.rect(left, y + height * (1 - share) / 2, pitch - 2, height * share, fill=colour, radius=2.5)
        for level in (1, 2):  # the skips
            reach = (3 - level) * pitch + pitch / 2
            top = y + height * (1 - heights[level - 1] * 0.88) / 2
            self.line([(x + width / 2 - reach, top), (x + width / 2 + reach, top)], LINE, line=1.25)

    def svg(self) -> str:
        """The whole file."""
        n = self.name
        style = (
            f".{n}-text{{font-family:{SANS}}}.{n}-text .{n}-symbol{{font-family:{SERIF};font-style:italic}}"
            f".{n}-pixels{{image-rendering:pixelated}}"
            f".{n}-flow{{stroke-dasharray:0 12;animation:{n}-flow 1.1s linear infinite}}"
            f"@keyframes {n}-flow{{to{{stroke-dashoffset:-12}}}}"
            f"@media (prefers-reduced-motion:reduce){{.{n}-flow{{animation:none}}}}"
        )
        lines = [
            element("title", escape(self.title), id=f"{n}-title"),
            element("desc", escape(self.description), id=f"{n}-desc"),
            element("style", style),
            element("g", "\n".join(["", *self.parts, ""]), class_=f"{n}-text"),
        ]
        content = "\n".join(["", *lines, ""])
        return (
            element(
                "svg",
                content,
                xmlns="http://www.w3.org/2000/svg",
                viewBox=f"0 0 {WIDTH} {_number(self.height)}",
                width=WIDTH,
                height=self.height,
                role="img",
                aria_labelledby=f"{n}-title {n}-desc",
            )
            + "\n"
        )

    def save(self, folder: Path = FOLDER) -> Path:
        """Writes <name>.svg; the same drawing gives the same bytes."""
        path = folder / f"{self.name}.svg"
        path.write_text(self.svg(), encoding="utf-8", newline="\n")
        return path

    def _gradient(self, points: Sequence[Point], colour: str, end_colour: str) -> str:
        self.gradients += 1
        key = f"{self.name}-gradient-{self.gradients}"
        stops = element("stop", offset=0, stop_color=colour) + element("stop", offset=1, stop_color=end_colour)
        (x1, y1), (x2, y2) = points[0], points[-1]
        self.add("linearGradient", stops, id=key, gradientUnits="userSpaceOnUse", x1=x1, y1=y1, x2=x2, y2=y2)
        return f"url(#{key})"


def data_uri(pixels: np.ndarray | Image.Image, *, smooth: bool = False) -> str:
    """A picture as a data URI, in the smallest of the formats that suit it: lossless unless it is `smooth`."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    image = image.convert("RGB")
    if smooth:
        files = {kind: _file(image, kind, quality=QUALITY) for kind in ("jpeg", "webp")}
    else:
        files = {"png": min((_file(one, "png", optimize=True) for one in (image, _palette(image))), key=len)}
    kind = min(files, key=lambda kind: len(files[kind]))
    return f"data:image/{kind};base64,{base64.b64encode(files[kind]).decode()}"


def _palette(image: Image.Image) -> Image.Image:
    """The same pixels with their colours in a table, or the picture itself if it has over 256."""
    colours, index = np.unique(np.asarray(image).reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) > 256:
        return image
    result = Image.fromarray(index.reshape(image.height, image.width).astype(np.uint8), mode="P")
    result.putpalette(colours.tobytes())
    return result


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path  # which brings the font; only needed to measure text

    path = Path(get_data_path(), "fonts", "ttf", f"DejaVuSans{'-Bold' if bold else ''}.ttf")
    return ImageFont.truetype(path, 100, layout_engine=ImageFont.Layout.BASIC)


def _spans(parts: Sequence[tuple[str, str | None]], name: str) -> str:
    """The module's markup as tspans, each (words, colour) in its colour.

    A lowered or raised part is smaller, and what follows it is back on the line.
    """
    spans, level = "", 0.0
    for colour, (part, kind, target) in ((colour, piece) for words, colour in parts for piece in _pieces(words)):
        scale = LOWERED if target else 1
        spans += element(
            "tspan",
            escape(part),
            class_=f"{name}-symbol" if kind == "letter" else None,
            font_weight=700 if kind == "bold" else None,
            font_size=f"{LOWERED:.0%}" if target else None,
            dy=f"{_number((target - level) / scale)}em" if target != level else None,
            fill=colour,
        )
        level = target
    return spans


def _pieces(words: str) -> Iterator[tuple[str, str, float]]:
    """The parts of a text: what it says, its kind, and how far it is lowered, in units of the text's size."""
    at = 0
    for found in MARKUP.finditer(words):
        yield from [(words[at : found.start()], "plain", 0.0)] if found.start() > at else []
        if found["bold"]:
            yield found["bold"], "bold", 0.0
        for symbol in SYMBOL.finditer(found["symbols"] or ""):
            lowered = {"_": 0.22, "^": -0.38, None: 0.0}[symbol["shift"]]
            for letter, rest in LETTER.findall(symbol["rest"] or symbol["group"] or symbol["one"]):
                yield letter or rest, "letter" if letter else "plain", lowered
        at = found.end()
    if at < len(words):
        yield words[at:], "plain", 0.0


def _towards(start: Point, end: Point, distance: float) -> Point:
    share = distance / (math.dist(start, end) or 1)
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _pair(point: Point) -> str:
    return f"{_number(point[0])},{_number(point[1])}"


def _number(value: object) -> object:
    return f"{round(float(value), 2) + 0.0:g}" if isinstance(value, float | np.floating) else value
