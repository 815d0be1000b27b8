"""Rebuild the sprites from the four pinned npm packages and check them by hash.

    python -m training.build_sprites

needs npm and the package registry, and `pip install resvg-py`. Lessons and training read the results only:
`images/sprites/sprites.webp`, all that Pocket Diffusion has seen, and `images/new-word/flamingo.webp`, which it has
never seen.
"""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from helpers.scenes import ATLAS_COLUMNS, SIZE, SPRITES, STYLES, table

# npm package and version, and the sha256 of its tarball, for each style.
PACKAGES = {
    "flat": (
        "@iconify-json/fluent-emoji-flat@1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "glossy": (
        "@iconify-json/fluent-emoji@1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    ),
    "noto": ("@iconify-json/noto@1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "twemoji": ("@iconify-json/twemoji@1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
}

NEW_WORD = "flamingo"  # the icon for lesson 11: in all four sets, and not among the words of concepts.tsv


def fetch_icons(package: str, sha256: str, folder: Path) -> dict:
    """Download one pinned npm package and return its `icons.json`; a wrong hash raises ValueError."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
    )
    tarball = folder / packed.stdout.strip().splitlines()[-1]
    found = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{package} has sha256 {found}, expected {sha256}")
    with tarfile.open(tarball) as archive:
        return json.load(archive.extractfile("package/icons.json"))


def render(icons: dict, name: str) -> Image.Image:
    """One icon as RGBA, 128 x 128 pixels, its shape kept and centred."""
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    size = {"width": SIZE} if width >= height else {"height": SIZE}
    with Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, **size))) as image:
        drawn = image.convert("RGBA")
    tile = Image.new("RGBA", (SIZE, SIZE))
    tile.paste(drawn, ((SIZE - drawn.width) // 2, (SIZE - drawn.height) // 2))
    return tile


def pixel_hash(image: Image.Image) -> str:
    """sha256 of the decoded RGBA pixels, so that another version of the encoder does not matter."""
    return hashlib.sha256(np.asarray(image.convert("RGBA")).tobytes()).hexdigest()


def fetch_sets() -> dict[str, dict]:
    """The icons of every style, by style."""
    with tempfile.TemporaryDirectory() as folder:
        return {style: fetch_icons(*PACKAGES[style], Path(folder)) for style in STYLES}


def build(sets: dict[str, dict], names: Sequence[str]) -> Image.Image:
    """An atlas of the icons called `names`: one by one, each in its four styles side by side, 16 sprites a row."""
    tiles = [render(sets[style], name) for name in names for style in STYLES]
    columns = min(ATLAS_COLUMNS, len(tiles))
    atlas = Image.new("RGBA", (columns * SIZE, -(-len(tiles) // columns) * SIZE))
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        atlas.paste(tile, (column * SIZE, row * SIZE))
    return atlas


def write(atlas: Image.Image, target: Path) -> None:
    """Save an atlas losslessly, and its hash beside it; another hash than the one that is there ends the program."""
    expected = target.with_suffix(".sha256")
    if expected.exists() and pixel_hash(atlas) != expected.read_text().strip():
        raise SystemExit(f"The rebuilt sprites differ from {expected.name}; {target.name} was not written")
    target.parent.mkdir(exist_ok=True)
    atlas.save(target, lossless=True, exact=True, quality=100, method=6)
    expected.write_text(pixel_hash(atlas) + "\n")
    print(f"{target.name}: {atlas.width * atlas.height // SIZE**2} sprites, {target.stat().st_size:,} bytes")


def main() -> None:
    sets = fetch_sets()
    write(build(sets, [row["icon"] for row in table("concepts.tsv")]), SPRITES / "sprites.webp")
    write(build(sets, [NEW_WORD]), SPRITES.parent / "new-word" / f"{NEW_WORD}.webp")


if __name__ == "__main__":
    main()
