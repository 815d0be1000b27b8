"""Draws the diagrams of the names given, or all of them, into images/diagrams.

Every module here that is not shared draws one diagram (the U-Net's two): its `draw()` returns a list of `kit.Drawing`.
"""

import argparse
import importlib
import pkgutil

from tools import diagrams
from tools.diagrams import kit

SHARED = {"__main__", "kit", "example"}
NAMES = [module.name for module in pkgutil.iter_modules(diagrams.__path__) if module.name not in SHARED]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.diagrams", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"what to draw: {', '.join(NAMES)}; by default all")
    names = parser.parse_args().names
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"unknown diagram {', '.join(unknown)}: choose of {', '.join(NAMES)}")
    kit.FOLDER.mkdir(exist_ok=True)
    for name in names or NAMES:
        for drawing in importlib.import_module(f"tools.diagrams.{name}").draw():
            path = drawing.save()
            print(f"{path.relative_to(kit.FOLDER.parents[1])}: {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
