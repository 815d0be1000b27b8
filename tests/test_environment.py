"""One environment, written three times for three tools: pyproject.toml, environment.yml and requirements.txt agree."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
PIN_LINES = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]


def normalised(lines) -> dict[str, str]:
    """Requirement lines as {canonical name: range}, so that spelling and the order of bounds do not matter."""
    return {canonicalize_name(r.name): str(r.specifier) for r in map(Requirement, lines)}


def pins() -> dict[str, str]:
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in PIN_LINES)}


def test_conda_environment_equals_pyproject():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip_lines,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert "-e ." in pip_lines, "the lessons import helpers, so the conda environment installs this repository"
    conda = normalised(line for line in pip_lines if line != "-e .")
    project = normalised(DECLARED)
    missing = {name: project[name] for name in project if name not in conda}
    surplus = {name: conda[name] for name in conda if name not in project}
    different = {name: (project[name], conda[name]) for name in project.keys() & conda if project[name] != conda[name]}
    assert not missing, f"in pyproject.toml but not in environment.yml: {missing}"
    assert not surplus, f"in environment.yml but not in pyproject.toml: {surplus}"
    assert not different, f"different ranges (pyproject.toml, environment.yml): {different}"


def test_conda_environment_has_the_same_python():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = [line for line in dependencies if isinstance(line, str) and line.startswith("python")]
    assert str(Requirement(python).specifier) == PROJECT["requires-python"]


@pytest.mark.parametrize("line", DECLARED)
def test_requirement_is_pinned_inside_its_range(line):
    requirement = Requirement(line)
    version = pins().get(canonicalize_name(requirement.name))
    assert version, f"{requirement.name} is in pyproject.toml and has no pin in requirements.txt: run `make pins`"
    assert requirement.specifier.contains(version, prereleases=True), f"{line} does not allow the pinned {version}"


def test_pins_are_exact_and_name_no_host():
    wrong = [line for line in PIN_LINES if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*", line)]
    assert not wrong, f"not of the form name==version: {wrong}"


def test_pins_are_sorted_and_there_once():
    names = [canonicalize_name(line.partition("==")[0]) for line in PIN_LINES]
    assert len(set(names)) == len(names)
    assert sorted(PIN_LINES, key=str.upper) == PIN_LINES


def test_project_itself_is_not_pinned():
    assert canonicalize_name(PROJECT["name"]) not in pins()


def test_helpers_without_the_course_say_how_to_install_it(tmp_path):
    """What `pip install .` would leave in site-packages: the package alone, without pictures and models."""
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers")
    command = [sys.executable, "-c", "import helpers.scenes"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: The course's pictures and models are not beside")
    assert last.endswith("`pip install -e .`")


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize(
    ("target", "extras"),
    [("lab", ""), ("playground", "[playground]"), ("site", "[site]"), ("test", "[playground,site,training,test]")],
)
def test_a_target_installs_what_it_needs_and_no_more(target, extras):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "--always-make", target]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    (install,) = [line for line in said.splitlines() if "pip install" in line]
    assert install.endswith(f'-c requirements.txt -e ".{extras}"')
