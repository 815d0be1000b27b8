"""Serves the playground as a page of its own through Voila, as `make playground` does:

    python -m helpers.serve notebooks/playground.ipynb

The settings are in `voila.json`, so that they hold for the command `voila` and for JupyterLab too: a token that is new
each time; this machine alone; no files beside the page.
"""

import threading
import webbrowser
from pathlib import Path

from tornado.routing import HostMatches, Rule
from voila.app import Voila


class Page(Voila):
    """Voila for one user at one machine."""

    def init_handlers(self) -> list:
        # A website could name its address and this machine's alike, and have its visitors' browsers ask here. Voila
        # looks at the name for the page and not for the files that come with it.
        return [Rule(HostMatches(r"(localhost|127\.0\.0\.1)"), super().init_handlers())]

    def launch_browser(self) -> None:
        # Voila's own method leaves the token out, and the page would ask for it. It goes through a file that only its
        # owner may read, because every user of a machine can list command lines.
        file = Path(self.connection_dir) / "open.html"
        file.touch(mode=0o600)
        address = f"{self.connection_url}?token={self.identity_provider.token}"
        file.write_text(f'<meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
        threading.Thread(
            target=webbrowser.open, args=(file.as_uri(),)
        ).start()  # some browsers keep their caller waiting


if __name__ == "__main__":
    Page.launch_instance()
