"""A real JupyterLab in a real browser, as a learner has them: what `test_browser.py` drives.

The server runs on loopback in folders of its own, so that neither the settings of the person who runs the tests nor
their notebooks are touched. Chromium sees loopback only.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

from tests.lessons import hurried

ROOT = Path(__file__).resolve().parent.parent
# Debian's and Ubuntu's names, then those of the browser it is made into. CHROMIUM names another one.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",  # Chromium refuses to run as root with one, and in many containers it cannot have one
    "--disable-dev-shm-usage",  # /dev/shm of a container is often too small
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # what is not on this machine is not there
)
CELL_SECONDS = 300
START_SECONDS = 120


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome, or None."""
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else BROWSERS
    return next(filter(None, map(shutil.which, names)), None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def environment(folder: Path) -> dict[str, str]:
    """The variables of a process that keeps everything of its own below `folder`."""
    ours = {
        "HOME": folder / "home",
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_DATA_DIR": folder / "data",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "IPYTHONDIR": folder / "ipython",
    }
    for path in ours.values():
        path.mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return inherited | {name: str(path) for name, path in ours.items()}


@contextmanager
def served(command: list[str], folder: Path, address: str, *, cwd: Path):
    """A server from this Python's environment, from when `address` answers to the end; yields its log, in `folder`."""
    log = folder / f"{command[0]}.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            cwd=cwd,
            env=environment(folder),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(address, timeout=START_SECONDS).close()
                break
            except urllib.error.HTTPError:  # "not found" is an answer too
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-2000:]}") from None
                time.sleep(0.2)
        yield log
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def jupyter_lab(folder: Path):
    """`jupyter lab` over `folder`; yields a function from a notebook such as "notebooks/00_x" to its address."""
    port, token = free_port(), secrets.token_hex(16)
    base = f"http://127.0.0.1:{port}"
    command = [
        "jupyter",
        "lab",
        "--no-browser",
        *(["--allow-root"] if hasattr(os, "getuid") and os.getuid() == 0 else []),
        "--ServerApp.ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]
    with served(command, folder, f"{base}/api", cwd=folder):
        yield (lambda path: f"{base}/lab/workspaces/{secrets.token_hex(4)}/tree/{path}.ipynb?reset&token={token}")


@contextmanager
def voila(folder: Path, notebook: str):
    """Voila over one notebook of `folder / "notebooks"`, as `make playground` starts it; yields its address."""
    port, token = free_port(), secrets.token_hex(16)
    command = [
        "python",
        "-m",
        "helpers.serve",
        f"notebooks/{notebook}.ipynb",
        "--no-browser",
        f"--port={port}",
        f"--token={token}",
    ]
    with served(command, folder, f"http://127.0.0.1:{port}/voila/static/", cwd=folder):
        yield f"http://127.0.0.1:{port}/?token={token}"


class Notebook:
    """A notebook that is open in JupyterLab, on a Playwright page."""

    def __init__(self, page, address: str, *, kernel: bool = True) -> None:
        """address: as `jupyter_lab` gives it. kernel: whether one is started, as JupyterLab itself always does."""
        self.page = page
        path = re.search(r"/tree/([^?]*)", address)
        if kernel or not page.evaluate("!!window.jupyterapp"):  # without a kernel one JupyterLab may open many
            page.goto(address if kernel else address.replace(path[0], ""))
        page.wait_for_function("window.jupyterapp?.started", timeout=START_SECONDS * 1000)
        page.evaluate("jupyterapp.started")
        if not kernel:
            preference = {"shouldStart": False, "canStart": False, "autoStartDefault": False}
            options = {"path": path[1], "factory": "Notebook", "kernelPreference": preference}
            page.evaluate("options => { jupyterapp.commands.execute('docmanager:open', options); }", options)
        page.wait_for_function(
            "path => { const context = jupyterapp.shell.currentWidget?.context; "
            "return context?.isReady && context.path === path; }",
            arg=path[1],
            timeout=START_SECONDS * 1000,
        )
        if kernel:
            page.evaluate("jupyterapp.shell.currentWidget.context.sessionContext.ready")
            self.idle()

    def command(self, name: str, **options):
        """What a command of JupyterLab's command palette gives, such as `notebook:run-all-cells`."""
        self.page.set_default_timeout(CELL_SECONDS * 1000)
        return self.page.evaluate("([name, options]) => jupyterapp.commands.execute(name, options)", [name, options])

    def idle(self) -> None:
        """Wait until the kernel has nothing to do."""
        self.page.wait_for_function(
            "jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel?.status === 'idle'",
            timeout=CELL_SECONDS * 1000,
        )

    @property
    def cells(self) -> list[dict]:
        """The cells as they are now, each as in the file: cell_type, source, execution_count, outputs."""
        return self.page.evaluate("jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells")

    def cell(self, index: int):
        return self.page.locator(".jp-Notebook-cell").nth(index)

    def draw(self) -> None:
        """Scroll through the whole notebook: JupyterLab puts a cell on the page when it first comes into view."""
        self.page.evaluate(
            "async () => { const notebook = jupyterapp.shell.currentWidget.content; "
            "for (const [index, cell] of notebook.widgets.entries()) { await notebook.scrollToItem(index); "
            "await cell.ready; } }"
        )

    def select(self, index: int) -> None:
        """Select a cell and leave its editor, as a click beside it does."""
        self.page.evaluate(
            "index => { const notebook = jupyterapp.shell.currentWidget.content; "
            "notebook.mode = 'command'; notebook.activeCellIndex = index; notebook.deselectAll(); "
            "notebook.activate(); }",
            index,
        )

    def step(self) -> int:
        """Press Shift+Enter and wait until the cell has run; the number of the cell that is selected then."""
        notebook = "jupyterapp.shell.currentWidget.content"
        index = self.page.evaluate(f"{notebook}.activeCellIndex")
        self.page.keyboard.press("Shift+Enter")
        self.page.wait_for_function(
            f"index => {{ const cell = {notebook}.widgets[index]; return {notebook}.activeCellIndex !== index "
            "&& (cell.model.type !== 'code' || cell.model.executionState === 'idle'); }",
            arg=index,
            timeout=CELL_SECONDS * 1000,
        )
        self.idle()
        return self.page.evaluate(f"{notebook}.activeCellIndex")

    def type(self, index: int, source: str) -> None:
        """Write `source` into a cell in place of what it holds, with the keyboard."""
        editor = self.cell(index).locator(".cm-content")
        editor.scroll_into_view_if_needed()
        editor.click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(source)

    def restart(self) -> None:
        """Restart the kernel, and say yes where JupyterLab asks."""
        self.page.evaluate("() => { jupyterapp.commands.execute('notebook:restart-kernel'); }")
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.locator(".jp-Dialog").wait_for(state="detached")
        self.page.evaluate("jupyterapp.shell.currentWidget.context.sessionContext.ready")
        self.idle()

    def close(self) -> None:
        """Shut the kernel down and leave the page: each holds a model in memory."""
        self.page.evaluate("jupyterapp.shell.currentWidget.context.sessionContext.shutdown()")
        self.page.close()


def copy_lessons(folder: Path) -> None:
    """The notebooks twice, and what lies beside them: `committed` as they are, and in `notebooks` those to be run,
    hurried and without outputs, so that what is seen there is of this run."""
    shutil.copytree(ROOT / "images", folder / "images")
    for name in ("committed", "notebooks"):
        (folder / name).mkdir()
    shutil.copy(ROOT / "voila.json", folder)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, folder / "committed")
        copy = hurried(path, folder / "notebooks")
        notebook = nbformat.read(copy, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, copy)


def text_of(output: dict) -> str:
    """The text of a cell's output, streams and verdicts alike."""
    text = output.get("text", output.get("data", {}).get("text/plain", ""))
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(text))
