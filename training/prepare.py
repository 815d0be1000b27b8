"""Make a folder of your own pictures and captions ready for training.

    python -m training.prepare FOLDER --output runs/own/data

FOLDER holds pictures (JPEG, PNG or WebP) and beside each, say `boat.jpg`, its caption in `boat.txt`; or a
`metadata.jsonl` in place of the .txt files. The middle square of every picture is made 128 x 128 pixels. FOLDER is only
read; `--output` is a new folder in the layout of Hugging Face datasets' `imagefolder`, for `--data` of the trainers.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from helpers.grounds import SIZE
from helpers.images import picture_file, read_picture
from helpers.scenes import Scene, Thing, draw, vary
from training.own_pictures import METADATA, captions

EXAMPLE = list(itertools.product(("fox", "rocket", "house", "owl", "cactus"), ("blue", "yellow", "grass", "night")))


def write_example(folder: Path, count: int) -> None:
    """Pictures with captions to try the training on: five words on four grounds, over and over. Nothing is replaced."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, (word, ground) in zip(range(count), itertools.cycle(EXAMPLE), strict=False):
        scene = vary(Scene((Thing(word),), ground=ground), rng)
        (folder / f"{number:03}.png").write_bytes(picture_file(draw(scene)))
        (folder / f"{number:03}.txt").write_text(scene.caption(style=False) + "\n", encoding="utf-8")


def squared(path: Path, name: str) -> Image.Image:
    """The middle square of a picture, 128 x 128 pixels. ValueError if the file is damaged, or of another kind."""
    return ImageOps.fit(read_picture(path.read_bytes(), repr(name)), (SIZE, SIZE), Image.Resampling.LANCZOS)


def prepare(folder: Path, output: Path) -> int:
    """Write `output`, a new folder, and return how many pictures it has. Before all are read nothing is written.

    Their names are numbers, because datasets takes a file with `test` in its name for a test set.
    """
    pictures = [(picture_file(squared(folder / name, name)), text) for name, text in captions(folder).items()]
    output.mkdir(parents=True)
    rows = []
    for number, (data, text) in enumerate(pictures):
        rows.append({"file_name": f"{number:05}.png", "text": text})
        (output / rows[-1]["file_name"]).write_bytes(data)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (output / METADATA).write_text(lines, encoding="utf-8")  # last, so that half a folder has none
    return len(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="FOLDER", type=Path, help="your pictures and captions")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/own/data"), help="a new folder (default: %(default)s)"
    )
    parser.add_argument("--example", type=int, metavar="N", help="first draw N pictures with captions into FOLDER, new")
    args = parser.parse_args(arguments)
    try:
        if args.example:
            write_example(args.source, args.example)
        count = prepare(args.source, args.output)
    except FileExistsError as error:
        raise SystemExit(f"{error.filename} is there already, and nothing is replaced: name a new folder") from None
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(f"{count} pictures with captions are in {args.output}")


if __name__ == "__main__":
    main()
