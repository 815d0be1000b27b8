"""`SHA256SUMS` of a model's folder, in the format of the sha256sum command: writing it, and comparing with it."""

import hashlib
import re
from pathlib import Path

CHECKSUMS = "SHA256SUMS"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: str | Path) -> None:
    """Write `SHA256SUMS` over the files of a model folder.

    README.md, the list itself and hidden files are left out: they may change without harm to the model.
    """
    folder = Path(folder)
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    listed = [
        path
        for path in paths
        if path.as_posix() not in ("README.md", CHECKSUMS) and not any(part.startswith(".") for part in path.parts)
    ]
    lines = [f"{sha256(folder / path)}  {path.as_posix()}\n" for path in listed]
    # Written as bytes: Windows would turn each line end into two characters.
    (folder / CHECKSUMS).write_bytes("".join(lines).encode())


def verify_checksums(folder: str | Path) -> None:
    """Compare every file in `SHA256SUMS` with its hash; ValueError names the first that is missing or differs."""
    folder = Path(folder)
    for line in filter(str.strip, (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()):
        # After the hash come a space and either a space or, for binary mode, a star.
        entry = re.fullmatch("([0-9a-f]{64}) [ *](.+)", line)
        if entry is None:
            raise ValueError(f"{folder / CHECKSUMS} is damaged (its line {line!r})")
        path = folder / entry[2]
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        if sha256(path) != entry[1]:
            raise ValueError(f"{path} is damaged (its SHA-256 is not the one in {CHECKSUMS})")
