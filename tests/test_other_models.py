"""Every lesson that takes another model runs on one: no lesson assumes Pocket Diffusion's sizes, sampler or skill.

The model has random weights and the shapes of text, levels, layers, heads, sampler and safety checker of Stable
Diffusion 1.5, but other widths and another latent factor than both. What the lessons print is not looked at: a lesson
fails here if a cell raises. Run hurried, in copies, since some lessons save pictures beside themselves.
"""

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient.exceptions import CellExecutionError

from tests.lessons import LESSONS, code_cells, hurried
from tests.pipelines import sd15
from tests.pipelines.full_format import save_full, with_checker
from tools.execute_notebooks import execute, kernel_environment
from tools.stamp_notebooks import label

pytestmark = pytest.mark.slow
# The two on training use Pocket Diffusion on every machine; nbval runs them whole.
OPEN = [lesson for lesson in LESSONS if any('load_pipeline("auto")' in source for source in code_cells(lesson))]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_full(tmp_path_factory.mktemp("other") / "model", pipe=with_checker(sd15.narrow()))


@pytest.fixture(scope="module")
def kernel(model):
    """One kernel for all: the libraries are imported once, and each lesson begins with nothing of the one before."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env={**kernel_environment(), "SDSS_MODEL": str(model)})
    yield manager
    manager.shutdown_kernel(now=True)


def in_place_of(kernel, path):
    """Run a notebook, from its own folder, as if the kernel were fresh."""
    notebook = nbformat.read(path, as_version=4)
    fresh = f"%reset -f\nimport os, torch\nos.chdir({str(path.parent)!r})\n_ = torch.set_grad_enabled(True)\n%reset -f"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(fresh))
    nbformat.write(notebook, path)
    execute(path, kernel=kernel)


def of_each(lesson):
    """A lesson as a parameter of the test below: one with a letter, such as 01b, waits for the night."""
    return pytest.param(lesson, marks=() if label(lesson).isdigit() else pytest.mark.nightly, id=lesson.stem)


@pytest.mark.parametrize("lesson", [of_each(lesson) for lesson in OPEN])
def test_a_lesson_runs_on_another_model(lesson, kernel, tmp_path):
    in_place_of(kernel, hurried(lesson, tmp_path))


def written(folder, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    path = folder / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_it_is_the_other_model_that_runs_and_without_a_network(kernel, tmp_path):
    refused = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"  # nobody's address
    lesson = written(
        tmp_path,
        "from helpers.loading import load_pipeline; pipe = load_pipeline()",
        "assert pipe.name_or_path.endswith('model') and pipe.tokenizer.model_max_length == 77",
        "assert pipe.unet.config.sample_size == 8",  # Pocket's is 16
        refused,
    )
    with pytest.raises(CellExecutionError, match="the tests run offline"):
        in_place_of(kernel, lesson)
