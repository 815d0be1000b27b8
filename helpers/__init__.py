"""Helpers for the lessons of *Stable Diffusion, step by step*."""

from pathlib import Path

# The pictures and the models stay where they are in the repository; a plain `pip install .` leaves them behind.
if not (Path(__file__).resolve().parent.parent / "images" / "sprites").is_dir():
    raise ImportError(
        f"The course's pictures and models are not beside {Path(__file__).parent}: "
        "install the course from a clone of its repository with `pip install -e .`"
    )
