"""Every lesson runs on a model that is not Pocket Diffusion: no lesson assumes its sizes, its sampler or its skill.

The model has random weights and the shapes of text, levels, layers, heads, sampler and safety checker of Stable
Diffusion 1.5, but other widths and another latent factor than both. What the lessons print is not looked at: a lesson
fails here if a cell raises. Run hurried, in copies, since some lessons save pictures beside themselves.
"""

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.lessons import LESSONS, hurried
from tests.pipelines import sd15
from tests.pipelines.full_format import save_full, with_checker
from tools.execute_notebooks import execute

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_full(tmp_path_factory.mktemp("other") / "model", pipe=with_checker(sd15.narrow()))


@pytest.fixture(autouse=True)
def chosen(model, monkeypatch):
    monkeypatch.setenv("SDSS_MODEL", str(model))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_on_another_model(lesson, tmp_path):
    execute(hurried(lesson, tmp_path))


def written(folder, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    path = folder / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_it_is_the_other_model_that_runs_and_without_a_network(tmp_path):
    refused = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"  # nobody's address
    lesson = written(
        tmp_path,
        "from helpers.loading import load_pipeline; pipe = load_pipeline()",
        "assert pipe.name_or_path.endswith('model') and pipe.tokenizer.model_max_length == 77",
        "assert pipe.unet.config.sample_size == 8",  # Pocket's is 16
        refused,
    )
    with pytest.raises(CellExecutionError, match="the tests run offline"):
        execute(lesson)
