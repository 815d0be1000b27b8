"""Run lessons from top to bottom and write their outputs back, clean enough to commit: `make notebooks`.

    python -m tools.execute_notebooks [notebook ...]      (without names: every lesson)

No times and no widgets are stored: progress bars, say, are dead without their kernel. The lessons run with the network
refused, as they do in the tests. A lesson that raises is left as it was.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
GUARD = ROOT / "tests" / "offline"
CELL_SECONDS = 900
WIDGET = "application/vnd.jupyter.widget-view+json"


def kernel_environment() -> dict[str, str]:
    """The variables of a kernel that is refused the network and draws into the notebook."""
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD), os.environ.get("PYTHONPATH")]))
    return environment


def execute(source: Path, *, folder: Path | None = None, kernel: KernelManager | None = None) -> nbformat.NotebookNode:
    """Run the notebook `source` with `folder` (its own unless given) as the working directory.

    kernel: one that runs already, in the place of a fresh one; its working directory stays what it is.

    Returns the executed notebook; writes nothing. Raises `CellExecutionError` for the first cell that raises.
    """
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,  # a printed table is one output, however slowly its lines came
        resources={"metadata": {"path": str(folder or source.parent)}},
        **({"km": kernel} if kernel else {}),
    )
    client.execute(env=kernel_environment())
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    # Kept to what every machine writes alike, so that a run changes outputs only.
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def main(names: list[str]) -> int:
    failed = 0
    for path in [Path(name) for name in names] or sorted((ROOT / "notebooks").glob("*.ipynb")):
        start = time.perf_counter()
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            print(f"{path.name}: stopped, and left as it was\n{error}", file=sys.stderr)
            failed += 1
            continue
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
