"""The lessons' badges and set-up cells for Google Colab: what they say, and what the cell does where Colab seems to be.

Colab itself is not here. Its stand-in has what the cell sees of it: a module `google.colab` that is imported already,
a folder in place of /content, and an environment of its own with most packages in it, some missing or too old. Git
takes the repository's address for a copy on this machine; pip is the real one, and finds packages in a local folder.
"""

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

from helpers import colab
from tests.lessons import LESSONS
from tests.stamp_notebooks import ADDRESS, BADGE, CELL, REF, ROOT, colab_address, stamp, stamped_readme

SITE = Path(sysconfig.get_paths()["purelib"])
# What a program in the stand-in prints at its end, for the test to read.
REPORT = """
import importlib.metadata, json, os
import helpers
versions = {name: importlib.metadata.version(name) for name in ("accelerate", "safetensors", "torch")}
print(json.dumps({"folder": os.getcwd(), "helpers": helpers.__file__, **versions}))
"""


def set_up_cell() -> str:
    return nbformat.read(LESSONS[0], as_version=4).cells[1].source


# What stands in the notebooks


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_lesson_is_stamped_with_the_address_and_version_of_the_project(path):
    committed, stamped = (nbformat.read(path, as_version=4) for _ in range(2))
    stamp(stamped, path.name)
    assert committed == stamped, "run `make stamp`"
    badge = f"[![Open in Colab](attachment:{BADGE})]({colab_address(path.name)})"
    assert [cell.source.count(badge) for cell in committed.cells[:2]] == [1, 0]
    assert sum(cell.id == CELL for cell in committed.cells) == 1


def test_the_readme_is_stamped():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert stamped_readme(text) == text, "run `make stamp`"
    assert text.count(ADDRESS) == 4


def test_a_new_lesson_gets_its_stamp_once_and_keeps_the_numbers_of_a_run():
    new = nbformat.v4
    output = new.new_output("execute_result", {"text/plain": "2"}, execution_count=1)
    cells = [
        new.new_markdown_cell("# 99 · New\n\nText."),
        new.new_code_cell("1 + 1", execution_count=1, outputs=[output]),
    ]
    notebook = new.new_notebook(cells=cells)
    stamp(notebook, "99_new.ipynb")
    once = nbformat.writes(notebook)
    stamp(notebook, "99_new.ipynb")
    assert nbformat.writes(notebook) == once
    title, set_up, cell = notebook.cells
    assert title.source.startswith("# 99 · New\n\n[![Open in Colab](") and title.source.endswith(")\n\nText.")
    assert base64.b64decode(title.attachments[BADGE]["image/png"]).startswith(b"\x89PNG")
    assert (set_up.execution_count, set_up.outputs) == (1, [])
    assert (cell.execution_count, cell.outputs[0].execution_count) == (2, 2)


def test_the_badge_opens_the_file_at_the_version_that_its_cell_fetches():
    assert colab_address("00_x.ipynb").endswith(f"/blob/{REF}/notebooks/00_x.ipynb")
    assert f'ref = "{REF}"' in set_up_cell() and f'repository = "{ADDRESS}"' in set_up_cell()


def test_a_version_tag_is_that_of_the_project():
    command = ["git", "tag", "--points-at", "HEAD", "v[0-9]*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() in ([], [REF]), "the version in pyproject.toml is another: change it, make stamp"


def test_outside_colab_the_cell_does_nothing(tmp_path):
    program = (
        f"import sys, os\nbefore = set(sys.modules)\n{set_up_cell()}\nprint(set(sys.modules) - before, os.getcwd())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"set() {tmp_path}"


def test_what_belongs_to_colab_is_not_asked_of_pip():
    needed = colab.requirements()
    assert not {"torch", "ipywidgets", "jupyterlab"} & set(needed)
    assert {"diffusers", "transformers", "huggingface-hub", "matplotlib"} <= set(needed)
    assert needed["diffusers"].startswith("diffusers>=")


# What the cell does in Colab's stand-in


@pytest.fixture(scope="module")
def repository(tmp_path_factory, committed_files):
    """A git repository of the files that are here, with the tag that the cell asks for."""
    folder = tmp_path_factory.mktemp("repository")
    for path in committed_files:
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    settings = (["init", "--quiet"], ["config", "core.compression", "0"], ["config", "pack.window", "0"])  # for speed
    for command in (*settings, ["add", "--all"], ["commit", "--quiet", "-m", "all"], ["tag", REF], ["repack", "-adq"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    return folder


def wheel(folder: Path, name: str, number: str, files: dict[str, bytes], requires: str = "") -> None:
    """Write a wheel of `files` into a folder that pip looks in."""
    info = f"{name}-{number}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n{requires}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        csv.writer(record, lineterminator="\n").writerow([path, f"sha256={digest}", len(data)])
    with zipfile.ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        archive.writestr(f"{info}/RECORD", record.getvalue() + f"{info}/RECORD,,\n")


class Colab:
    """The stand-in: its environment, its /content, its packages, and programs run in it."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.content, self.wheels, preinstalled = (folder / name for name in ("content", "wheels", "preinstalled"))
        for made in (self.content, self.wheels, preinstalled):
            made.mkdir()
        # Everything that is installed here but accelerate: Colab's own packages, which no pip of the stand-in changes,
        # because they lie outside its environment.
        for path in SITE.iterdir():
            if not path.name.startswith(("accelerate", "__editable__")) and path.suffix != ".pth":
                (preinstalled / path.name).symlink_to(path)
        venv = [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")]
        subprocess.run(venv, check=True)
        self.python = folder / "venv" / "bin" / "python"
        (self.site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        (self.site / "preinstalled.pth").write_text(f"{preinstalled}\n")
        (self.site / "google" / "colab").mkdir(parents=True)
        (self.site / "google" / "colab" / "__init__.py").touch()
        # The newest torch, which would be taken if anything asked for it.
        wheel(self.wheels, "torch", "99.0", {"torch/__init__.py": b""})
        wheel(self.wheels, "accelerate", "9.9", {"accelerate/__init__.py": b""}, "Requires-Dist: torch>=2.0\n")
        self.environment = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ} | {
            "HOME": str(folder),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_CONFIG_FILE": os.devnull,
            "PYTHONPATH": str(ROOT / "tests" / "offline"),
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS,
            "GIT_CONFIG_KEY_1": "safe.directory",
            "GIT_CONFIG_VALUE_1": "*",
        }

    def installed(self) -> set[str]:
        """What pip has put into the stand-in's own environment, as name-version."""
        return {path.name.removesuffix(".dist-info") for path in self.site.glob("*.dist-info")}

    def preinstall(self, name: str, number: str) -> None:
        """Have a package there in an old version, before the cell is run."""
        old = self.wheels.with_name("old")
        old.mkdir(exist_ok=True)
        wheel(old, name, number, {f"{name}/__init__.py": b""})
        pip = [self.python, "-m", "pip", "install", "--quiet", "--no-deps", old / f"{name}-{number}-py3-none-any.whl"]
        subprocess.run(pip, env=self.environment, check=True)

    def run(self, program: str) -> subprocess.CompletedProcess:
        program = f"import sys, google.colab\n{program}"
        command = [str(self.python), "-c", program]
        return subprocess.run(
            command, cwd=self.content, env=self.environment, capture_output=True, text=True, check=False
        )

    def cell(self) -> str:
        source = set_up_cell()
        assert source.count('f"/content/') == 1
        return source.replace('f"/content/', f'f"{self.content}/')

    @property
    def clone(self) -> Path:
        return self.content / f"stable-diffusion-step-by-step-{REF}"


@pytest.fixture
def colab_here(tmp_path, repository):
    if os.name == "nt":
        pytest.skip("Colab is a Linux machine, and so is its stand-in")
    return Colab(tmp_path, repository)


def report(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_in_colab_the_cell_fetches_the_course_and_installs_only_what_is_missing(colab_here):
    done = colab_here.run(f"{colab_here.cell()}\n{REPORT}")
    said = report(done)
    assert said["helpers"] == str(colab_here.clone / "helpers" / "__init__.py")
    assert said["folder"] == str(colab_here.clone / "notebooks")
    assert (said["accelerate"], said["torch"]) == ("9.9", version("torch"))
    assert colab_here.installed() == {"accelerate-9.9"}
    assert done.stdout.startswith(f"The course is in {colab_here.clone}. Installed: accelerate 9.9.\n")
    head = ["git", "-C", str(colab_here.clone), "describe", "--tags", "--exact-match"]
    assert subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip() == REF

    # Again in a new session of the same machine, and twice in it; git has nothing more to fetch from.
    colab_here.environment["GIT_CONFIG_COUNT"] = "0"
    done = colab_here.run(
        f"{colab_here.cell()}\n{colab_here.cell()}\n{REPORT}\nprint(sys.path.count({str(colab_here.clone)!r}))"
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"The course is in {colab_here.clone}. Installed: nothing, all was there."] * 2, done.stderr
    assert json.loads(lines[2]) == said
    assert lines[3] == "1"
    assert sorted(path.name for path in colab_here.content.iterdir()) == [colab_here.clone.name]


@pytest.mark.slow
def test_a_package_too_old_is_replaced_and_torch_is_not_however_old(colab_here):
    colab_here.preinstall("accelerate", "0.1")
    colab_here.preinstall("torch", "1.13")  # older than the course asks for; peft asks for no newer one
    wheel(colab_here.wheels, "accelerate", "9.9", {"accelerate/__init__.py": b""})  # needs no newer torch
    done = colab_here.run(f"{colab_here.cell()}\n{REPORT}")
    assert {"accelerate": "9.9", "torch": "1.13"}.items() <= report(done).items()
    assert colab_here.installed() == {"accelerate-9.9", "torch-1.13"}


@pytest.mark.slow
def test_a_package_that_was_imported_before_it_was_replaced_asks_for_a_restart(colab_here):
    colab_here.preinstall("accelerate", "0.1")
    done = colab_here.run(f"import accelerate\n{colab_here.cell()}")
    assert done.returncode == 1
    assert "RuntimeError: accelerate had been imported before" in done.stderr
    assert "Runtime > Restart session" in done.stderr
    assert report(colab_here.run(f"{colab_here.cell()}\n{REPORT}"))["accelerate"] == "9.9"


@pytest.mark.slow
def test_a_course_that_cannot_be_fetched_is_said_and_can_be_tried_again(colab_here):
    there = colab_here.environment["GIT_CONFIG_KEY_0"]
    colab_here.environment["GIT_CONFIG_KEY_0"] = there.replace("/repository", "/not-there")
    done = colab_here.run(colab_here.cell())
    assert done.returncode == 1
    assert f"RuntimeError: The course could not be fetched from {ADDRESS} at {REF}: fatal:" in done.stderr
    assert not colab_here.clone.exists()
    colab_here.environment["GIT_CONFIG_KEY_0"] = there
    assert report(colab_here.run(f"{colab_here.cell()}\n{REPORT}"))["accelerate"] == "9.9"


@pytest.mark.slow
def test_a_version_that_is_not_in_the_repository_is_said(colab_here):
    done = colab_here.run(colab_here.cell().replace(REF, "v77"))
    assert done.returncode == 1
    assert f"from {ADDRESS} at v77: " in done.stderr and "v77 not found" in done.stderr


@pytest.mark.slow
def test_a_package_that_cannot_be_had_is_said(colab_here):
    (colab_here.wheels / "accelerate-9.9-py3-none-any.whl").unlink()
    done = colab_here.run(colab_here.cell())
    assert done.returncode == 1
    assert "RuntimeError: pip could not install what the course needs" in done.stderr
    assert "No matching distribution found for accelerate" in done.stderr
