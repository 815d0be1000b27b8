"""Getting a lesson ready in Google Colab: what its first cell runs there, once it has fetched the course.

Colab brings most of what the lessons need, often in older versions than they want. What is missing or too old is
installed; what belongs to Colab is left alone. Only the standard library is imported here: the rest may be missing.
"""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Never installed: torch was built for Colab's GPU; its page draws the ipywidgets it brings, and it is the JupyterLab.
COLABS_OWN = ("torch", "ipywidgets", "jupyterlab")
MODULES = {"pillow": "PIL"}  # where a package is imported under another name


def requirements() -> dict[str, str]:
    """What the lessons need and Colab may lack, as {name: requirement}, from the project's own file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.match(r"[\w.-]+", line)[0]: line for line in project["dependencies"]}
    return {name: line for name, line in named.items() if name not in COLABS_OWN}


def set_up() -> None:
    """Install what is missing or too old, go to the folder of the lessons, and say so in one printed sentence.

    Raises RuntimeError, in a sentence that says what helps, if there is no torch, if pip fails, or if a package had
    been imported before it was replaced, so that the session has to be restarted.
    """
    needed = requirements()
    before = {name: _version(name) for name in needed}
    torch = _version("torch")
    if torch is None:
        raise RuntimeError(
            "This runtime has no torch, which Colab brings: choose Runtime > Disconnect and delete runtime"
        )
    # With every name in one call pip keeps what is in its range, and what it installs fits all the others. Naming the
    # torch that is there keeps a package from bringing another one.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, f"torch=={torch}", *needed.values()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip could not install what the course needs; run this cell again. It said:\n{done.stderr}")
    importlib.invalidate_caches()
    changed = {name: _version(name) for name in needed if _version(name) != before[name]}
    stale = [name for name in changed if MODULES.get(name, name.replace("-", "_")) in sys.modules]
    if stale:
        raise RuntimeError(
            f"{', '.join(stale)} had been imported before the right version was installed: "
            "choose Runtime > Restart session, then Run all"
        )
    os.chdir(ROOT / "notebooks")  # where the lessons' relative paths start, as in JupyterLab
    installed = ", ".join(f"{name} {version}" for name, version in changed.items()) or "nothing, all was there"
    print(f"The course is in {ROOT}. Installed: {installed}.")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
