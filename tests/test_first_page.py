"""What somebody sees who opens the course for the first time, with no settings of their own."""

import os
import secrets

import pytest
from playwright.sync_api import sync_playwright

from tests import browser
from tests.browser import ROOT, START_SECONDS, find_chromium

QUESTION_SECONDS = 5  # JupyterLab's question about news stands on the page after one or two

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium or Chrome was found"),
]


def test_jupyterlab_asks_nobody_about_news_and_looks_for_none(tmp_path):
    port, token = browser.free_port(), secrets.token_hex(16)
    root = ["--allow-root"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    # The README's line for conda; `make lab` runs the same program of the same environment.
    command = [
        "jupyter",
        "lab",
        "--no-browser",
        *root,
        f"--port={port}",
        f"--IdentityProvider.token={token}",
    ]
    asked = []
    with (
        browser.served(command, tmp_path, f"http://127.0.0.1:{port}/api", cwd=ROOT),
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=list(browser.FLAGS))
        page = chromium.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/lab?token={token}")
        page.wait_for_selector(".jp-Launcher", timeout=START_SECONDS * 1000)
        page.wait_for_timeout(QUESTION_SECONDS * 1000)
        said = page.locator(".Toastify__toast").all_inner_texts()
        chromium.close()
    assert not said
    assert not [url for url in asked if "/lab/api/news" in url or "/lab/api/update" in url]
