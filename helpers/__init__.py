"""Helpers for the lessons of *Stable Diffusion, step by step*."""

import os
from pathlib import Path

# Read by diffusers when it is first imported: no code of a model is run. It is the second lock, where it comes in time;
# the first is that `loading` looks at a model's list of parts before anything else of it is touched.
os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"

# The pictures and the models stay where they are in the repository; a plain `pip install .` leaves them behind.
if not (Path(__file__).resolve().parent.parent / "images" / "sprites").is_dir():
    raise ImportError(
        f"The course's pictures and models are not beside {Path(__file__).parent}: "
        "install the course from a clone of its repository with `pip install -e .`"
    )
