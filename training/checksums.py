"""The list of hashes beside a model's files, which `helpers.loading.verify_checksums` compares them with."""

from pathlib import Path

from helpers.loading import CHECKSUMS, sha256


def write_checksums(folder: str | Path) -> None:
    """Write `SHA256SUMS`, in the format of the sha256sum command, over the files of a model folder.

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
