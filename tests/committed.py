"""The files of the repository, for tests that look at all of them."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def committed_files() -> list[Path]:
    """Files that git tracks or would track on the next `git add --all`; skips the test where this is no repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git does not know this folder (a downloaded archive?), so the committed files cannot be listed")
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]
