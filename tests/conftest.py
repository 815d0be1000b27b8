"""What every test runs under: no network, no screen, and nbval that forgives warnings on stderr."""

import importlib.util
import os
from pathlib import Path

import matplotlib
from hypothesis import settings

GUARD = Path(__file__).parent / "offline" / "sitecustomize.py"

# Loaded by path: some systems bring a sitecustomize of their own, which `import sitecustomize` would find first.
spec = importlib.util.spec_from_file_location("offline_guard", GUARD)
spec.loader.exec_module(importlib.util.module_from_spec(spec))

# A kernel chooses the inline backend only where this variable is not set; the tests themselves draw without a screen.
os.environ.pop("MPLBACKEND", None)
matplotlib.use("Agg")

settings.register_profile("nightly", max_examples=2000)  # 20 times its default: see test_fuzz.py


class SkipStderr:
    """Leave stderr out of nbval's comparison: libraries warn there about the machine at hand."""

    def pytest_collectstart(self, collector):
        if hasattr(collector, "skip_compare"):
            collector.skip_compare += ("stderr",)


def pytest_configure(config):
    # Not a plain hook of this file: pytest asks those for files below tests/ only, and the lessons are not there.
    config.pluginmanager.register(SkipStderr(), "skip-stderr")
