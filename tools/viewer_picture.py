"""Draw images/viewer.png, the viewer of lesson 02 in JupyterLab: `python -m tools.viewer_picture`.

It shows the lesson as it is committed. It needs Chromium and what the tests need (`tests/browser.py`).
"""

import io
import tempfile
from pathlib import Path

import nbformat
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser import FLAGS, ROOT, Notebook, find_chromium, jupyter_lab

LESSON = ROOT / "notebooks" / "02_denoising_loop.ipynb"
CALL = "run_viewer("
SCALE = 1.6  # dots of the picture for a pixel of the page
WINDOW = {"width": 960, "height": 800}


def picture() -> Image.Image:
    """The cell that shows the viewer, half way through its steps, under the text before it."""
    lesson = nbformat.read(LESSON, as_version=4)
    at = next(i for i, cell in enumerate(lesson.cells) if cell.cell_type == "code" and CALL in cell.source)
    lesson.cells = lesson.cells[at - 1 : at + 1]
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        nbformat.write(lesson, Path(name) / "viewer.ipynb")
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        with jupyter_lab(Path(name)) as address:
            page = browser.new_page(viewport=WINDOW, device_scale_factor=SCALE, reduced_motion="reduce")
            notebook = Notebook(page, address("viewer"), kernel=False)
            page.evaluate("jupyterapp.shell.collapseLeft()")
            page.evaluate("() => { jupyterapp.commands.execute('notebook:trust'); }")
            page.locator(".jp-Dialog .jp-mod-accept").click()
            slider = page.locator(".step-viewer input")
            slider.evaluate(
                "input => { input.value = Math.ceil(input.max / 2); input.dispatchEvent(new Event('input')); }"
            )
            notebook.select(1)
            page.wait_for_timeout(2000)  # the film above it goes
            top, foot = (notebook.cell(i).bounding_box() for i in (0, 1))
            clip = {
                "x": top["x"],
                "y": top["y"],
                "width": top["width"],
                "height": foot["y"] + foot["height"] - top["y"],
            }
            file = page.screenshot(clip=clip)
        browser.close()
    return Image.open(io.BytesIO(file)).convert("RGB")


def main() -> None:
    path = ROOT / "images" / "viewer.png"
    picture().quantize(256, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
