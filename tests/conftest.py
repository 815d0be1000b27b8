"""What every test runs under: no network, no screen, one IPython profile for each process, and the lessons' outputs."""

import atexit
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import matplotlib
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
GUARD = ROOT / "tests" / "offline" / "sitecustomize.py"

# Loaded by path: some systems bring a sitecustomize of their own, which `import sitecustomize` would find first.
spec = importlib.util.spec_from_file_location("offline_guard", GUARD)
spec.loader.exec_module(importlib.util.module_from_spec(spec))

# A kernel chooses the inline backend only where this variable is not set; the tests themselves draw without a screen.
os.environ.pop("MPLBACKEND", None)
matplotlib.use("Agg")

# Kernels of two workers would share one history file, and a person's own start-up files would run in the lessons.
os.environ["IPYTHONDIR"] = tempfile.mkdtemp()
atexit.register(shutil.rmtree, os.environ["IPYTHONDIR"], ignore_errors=True)

settings.register_profile("nightly", max_examples=2000)  # 20 times its default: see test_fuzz.py

pytest_plugins = ["tests.lesson_outputs"]
