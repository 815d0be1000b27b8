"""Every lesson runs on a model that is not Pocket Diffusion: no lesson assumes its sizes, its sampler or its skill.

The model has random weights and the shapes of text, levels, layers, heads, sampler and safety checker of Stable
Diffusion 1.5, but other widths and another latent factor than both. Outputs are not compared (nbval's lax mode): a
lesson fails here if a cell raises.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.lessons import NOTEBOOKS, hurried
from tests.pipelines import sd15
from tests.pipelines.full_format import save_full, with_checker

ROOT = NOTEBOOKS.parent
SECONDS = 300


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_full(tmp_path_factory.mktemp("other") / "model", pipe=with_checker(sd15.narrow()))


def run_lax(notebook: Path, model: Path) -> subprocess.CompletedProcess:
    """Run one notebook as `make test` does, with `model` in the place of Pocket and without comparing outputs."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest"]
    command += ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={SECONDS}", str(notebook)]
    environment = {
        **os.environ,
        "SDSS_MODEL": str(model),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2 * SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("lesson", sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")))
def test_a_lesson_runs_on_another_model(lesson, model, tmp_path):
    """In a copy, because some lessons save pictures beside themselves; training is cut short."""
    ran = run_lax(hurried(NOTEBOOKS / lesson, tmp_path), model)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_cell_that_raises_is_a_failure_and_another_output_is_not(model, tmp_path):
    """One kernel for all: it goes on after a cell that raised."""
    cells = {
        "from helpers.loading import load_pipeline; pipe = load_pipeline()": True,
        "assert pipe.name_or_path.endswith('model') and pipe.tokenizer.model_max_length == 77": True,
        "assert pipe.unet.config.sample_size == 16": False,  # Pocket's
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)": False,  # nobody's, and refused
        "print('one')": True,
    }
    output = nbformat.v4.new_output("stream", text="another")
    numbered = [nbformat.v4.new_code_cell(line, execution_count=i, outputs=[output]) for i, line in enumerate(cells, 1)]
    nbformat.write(nbformat.v4.new_notebook(cells=numbered), tmp_path / "lesson.ipynb")
    ran = run_lax(tmp_path / "lesson.ipynb", model)
    failed = [f"Cell {i}" for i, passes in enumerate(cells.values()) if not passes]
    assert ran.returncode == 1
    assert re.findall(r"^FAILED .*::(Cell \d+)", ran.stdout, re.MULTILINE) == failed, ran.stdout + ran.stderr
