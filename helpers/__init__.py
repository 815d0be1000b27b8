"""Helpers for the lessons of *Stable Diffusion, step by step*."""

import os

# Read by diffusers when it is first imported: no code of a model is run. It is the second lock, where it comes in time;
# the first is that `loading` looks at a model's list of parts before anything else of it is touched.
os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"
