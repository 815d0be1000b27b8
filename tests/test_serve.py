"""What `make playground` serves is for this machine's user and nobody else."""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60  # to start in
PAGE, PICTURE = "/", "/voila/files/pictures/picture_0.jpg"
STATIC, CHANNEL = "/voila/static/voila.js", "/api/kernels/0-0-0-0-0/channels"
BROWSER = 'cp -p "${{1#file://}}" "{copy}.part" && mv "{copy}.part" "{copy}"'


class Server:
    """A target of the Makefile over a notebook of one cell, with a saved picture beside it."""

    def __init__(self, folder: Path, target: str, flags: str) -> None:
        shutil.copy(ROOT / "Makefile", folder)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "notebooks" / "pictures").mkdir(parents=True)
        (folder / "notebooks" / "pictures" / "picture_0.jpg").write_bytes(b"a picture")
        shutil.copy(ROOT / "voila.json", folder)
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = new_notebook(cells=[new_code_cell("print(6 * 7)")], metadata={"kernelspec": kernel})
        nbformat.write(notebook, folder / "notebooks" / "playground.ipynb")
        # In place of a browser: it keeps a copy of the page that is to send it on, and who may read that.
        self.opened = folder / "opened"
        (folder / "browser").write_text(BROWSER.format(copy=self.opened))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        ours = {"HOME": str(folder), "BROWSER": f"sh {folder / 'browser'} %s", "PYTHONPATH": str(ROOT)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
        stamps = re.findall(r"^\w*INSTALLED := (\S+)", (folder / "Makefile").read_text(), re.MULTILINE)
        installed = [f"--old-file={stamp}" for stamp in stamps]  # so that make installs nothing
        self.log = folder / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["make", *installed, target, f"{flags}=--port={self.port}"],
                cwd=folder,
                env=kept | ours,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the browser is opened, which comes last."""
        deadline = time.monotonic() + SECONDS
        while not self.opened.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The server did not start:\n{self.log.read_text()}")
            time.sleep(0.1)

    def ask(self, path: str, host: str = "") -> http.client.HTTPResponse:
        """The answer to GET for a path, asked for under the name `host`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{self.port}"})
        return connection.getresponse()

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)  # make and the server that it started
            self.process.wait(SECONDS)


@contextmanager
def started(folder: Path, target: str, flags: str):
    made = Server(folder, target, flags)
    try:
        made.wait()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with started(tmp_path_factory.mktemp("playground"), "playground", "PLAYGROUND_FLAGS") as made:
        yield made


@pytest.fixture(scope="module")
def token(server):
    return re.search(r"\?token=([0-9a-f]{32,})", server.log.read_text())[1]


def test_without_the_token_there_is_no_page_and_no_picture(server):
    answer = server.ask(PAGE)
    assert (answer.status, answer.getheader("Location")) == (302, "/login?next=%2F")
    assert server.ask(PAGE + "?token=0123456789abcdef").status == 302
    assert server.ask(PICTURE).status == 403
    assert server.ask(CHANNEL).status == 403


def test_with_the_token_of_the_printed_address_there_is_the_page(server, token):
    answer = server.ask(f"{PAGE}?token={token}")
    assert answer.status == 200
    assert b"42" in answer.read()


def test_pictures_are_not_served_at_all(server, token):
    assert server.ask(f"{PICTURE}?token={token}").status == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil"])
def test_a_foreign_host_is_refused_whatever_it_asks_for(server, token, host):
    for path in (PAGE, PICTURE, STATIC, CHANNEL, "/login"):
        answer = server.ask(f"{path}?token={token}", host=host.format(port=server.port))
        assert answer.status in (403, 404), path
        assert token.encode() not in answer.read()


def test_this_machine_has_two_names(server):
    for host in ("localhost", "127.0.0.1"):
        assert server.ask(STATIC, host=f"{host}:{server.port}").status == 200


def test_only_this_machine_is_listened_to(server):
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in others | {"127.0.0.2"}:
        with pytest.raises(OSError):
            socket.create_connection((address, server.port), timeout=2)


def test_the_browser_is_sent_to_the_page_with_its_token_by_a_file_of_the_owner(server, token):
    assert f"url=http://127.0.0.1:{server.port}/?token={token}" in server.opened.read_text()
    assert server.opened.stat().st_mode & 0o077 == 0


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    (folder / "images").mkdir()
    (folder / "images" / "diagram.svg").write_text("<svg/>")
    with started(folder, "lab", "LAB_FLAGS") as made:
        yield made


@pytest.mark.parametrize(("at", "status"), [("/files", 302), ("/voila/files", 403)])  # 302: to the login
def test_jupyterlab_hands_out_no_picture_without_its_token_either(lab, at, status):
    """Where Voila is installed it is a part of JupyterLab too."""
    assert lab.ask(PAGE).status == 302
    assert lab.ask(f"{at}/notebooks/pictures/picture_0.jpg").status == status


def test_jupyterlab_shows_what_lies_beside_the_notebooks(lab):
    """The lessons' diagrams are `../images/...`, above the folder of the notebooks."""
    token = re.search(r"token=([0-9a-f]{32,})", lab.log.read_text())[1]
    answer = lab.ask(f"/files/images/diagram.svg?token={token}")
    assert (answer.status, answer.read()) == (200, b"<svg/>")
