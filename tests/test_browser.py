"""The lessons and the playground in a real JupyterLab and a real browser, used as a learner uses them.

Every lesson is opened as it is committed, and not run: how it looks, and where its links go. Those in STEPPED, which
between them have every kind of viewer, are run with Shift+Enter as far as their viewers and exercises need, and used;
the others are run whole by `make nightly`, and all of them, outside of a browser, by nbval.
Skipped, by name, where there is neither a Chromium nor a Chrome. BROWSER_SHOTS names a folder to keep the screenshots
in; without it they go to pytest's own temporary one.
"""

import base64
import io
import os
import re
import statistics
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from playwright.sync_api import sync_playwright

from tests import browser, lessons
from tests.browser import Notebook, find_chromium, text_of
from tests.lessons import CHECK, SOLUTION, needed
from tools.execute_notebooks import execute

if find_chromium() is None:  # all of it at once, so that the summary has one line that cannot be overlooked
    pytest.skip(
        "THE BROWSER SUITE DID NOT RUN: no Chromium or Chrome was found (on Debian: apt-get install chromium)",
        allow_module_level=True,
    )

pytestmark = pytest.mark.browser

LESSONS = [path.stem for path in lessons.LESSONS]
# An exercise and one column of pictures; two columns that move together; one that a training renews.
STEPPED = ("00_first_picture", "01_forward_noising", "10_train_from_scratch")
RESTARTED = ("01_forward_noising", "04_vae_latent_decoding")
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 800, "height": 900}
FRAMES = 5  # of the notebook that is made here, whose every colour is known
VIEWER = re.compile(r"\b(step_viewer|run_viewer|LiveViewer)\(")
PRESSES = 6  # arrow keys in each viewer of a lesson
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CONTRAST = 4.5  # of text, WCAG 2.2, success criterion 1.4.3


# --- what is opened


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=find_chromium(), args=list(browser.FLAGS))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("lab")
    browser.copy_lessons(made)
    nbformat.write(colour_notebook(), made / "notebooks" / "colours.ipynb")
    nbformat.write(execute(made / "notebooks" / "colours.ipynb"), made / "committed" / "colours.ipynb")
    nbformat.write(spoiled_notebook(), made / "notebooks" / "spoiled.ipynb")
    return made


@pytest.fixture(scope="module")
def lab(chromium, folder):
    with browser.jupyter_lab(folder) as address:
        yield address


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    made = Path(os.environ["BROWSER_SHOTS"]) if os.environ.get("BROWSER_SHOTS") else tmp_path_factory.mktemp("shots")
    made.mkdir(parents=True, exist_ok=True)
    return made


@pytest.fixture(scope="module")
def new_page(chromium):
    """Opens empty pages, and says at the end whether any of them asked for something that is not on this machine."""
    asked, held_back = set(), set()

    def opened():
        # Players move by themselves unless the reader wants nothing to move; these tests want them to hold still.
        page = chromium.new_page(viewport=WIDE, reduced_motion="reduce")
        page.on("request", lambda request: asked.add(request.url))
        # What a page's own policy forbids is never sent; Voila's page names two style sheets that ours does without.
        page.on("requestfailed", lambda request: held_back.add(request.url if request.failure == "csp" else None))
        return page

    yield opened
    # A picture that a notebook brings is an attachment: to the page first, and data: once JupyterLab has looked it up.
    here = re.compile(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:|about:|attachment:")
    elsewhere = sorted(url for url in asked - held_back if not here.match(url))
    assert not elsewhere, f"asked for addresses that are not on this machine: {elsewhere[:5]}"


@pytest.fixture(scope="module")
def page_for_unrun(new_page):
    """One JupyterLab for all lessons that are only looked at: to load it takes as long as to draw a lesson."""
    page = new_page()
    yield page
    page.close()


@pytest.fixture(scope="module", params=LESSONS)
def unrun(request, lab, page_for_unrun):
    """A lesson as it is committed, opened and not run."""
    notebook = Notebook(page_for_unrun, lab(f"committed/{request.param}"), kernel=False)
    notebook.name = request.param
    notebook.draw()
    yield notebook
    page_for_unrun.evaluate("jupyterapp.shell.currentWidget.close()")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in STEPPED else pytest.mark.nightly) for name in LESSONS],
)
def lesson(request, lab, new_page):
    """A lesson that was stepped through with Shift+Enter: those of the nightly run from the first cell to the last, the
    others through the cells that show a viewer or check an exercise, and those that these cannot do without.
    """
    notebook = Notebook(new_page(), lab(f"notebooks/{request.param}"))
    notebook.name = request.param
    steps = used(notebook.cells) if request.param in STEPPED else list(range(len(notebook.cells)))
    for index in steps:
        notebook.select(index)
        notebook.step()
    cells = notebook.cells
    notebook.ran = [cells[index] for index in steps]
    yield notebook
    notebook.close()


def used(cells):
    """The code cells that a reader of a lesson uses, its viewers and its exercises, after those that they need."""
    places, before = prerequisites(cells)
    found = {place for place in places if VIEWER.search(source(cells[place])) or CHECK.search(source(cells[place]))}
    return sorted(found.union(*(before[place] for place in found)))


def prerequisites(cells):
    """The places of the code cells, and for each of them those of the earlier ones that it cannot do without."""
    places = [index for index, cell in enumerate(cells) if is_code(cell)]
    before = needed([source(cells[place]) for place in places])
    return places, {place: {places[i] for i in earlier} for place, earlier in zip(places, before, strict=True)}


@pytest.fixture
def open_notebook(lab, new_page):
    opened = []

    def one(name):
        opened.append(Notebook(new_page(), lab(f"notebooks/{name}")))
        return opened[-1]

    yield one
    for notebook in opened:
        notebook.close()


# --- what is looked for


def troubles(cells):
    """The errors and the lines on stderr in the outputs of cells."""
    found = []
    for number, cell in enumerate(cells):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                found.append(f"cell {number}: {output['ename']}: {output['evalue']}")
            if output.get("name") == "stderr":
                found.append(f"cell {number} on stderr: {text_of(output)}")
    return found


def source(cell):
    return "".join(cell["source"])


def is_code(cell):
    return cell["cell_type"] == "code"


def counts(cells):
    return [cell["execution_count"] for cell in cells if is_code(cell)]


PICTURES = """
async () => {
    const found = [];
    for (const img of document.querySelectorAll('.jp-Notebook img')) {
        await img.decode().catch(() => {});
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
        let opaque = false;
        if (img.naturalWidth) {
            const context = canvas.getContext('2d');
            context.drawImage(img, 0, 0);
            const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
            let clear = 0;
            for (let alpha = 3; alpha < data.length; alpha += 4) clear += data[alpha] < 255;
            opaque = 4 * clear / data.length < 0.001;
        }
        found.push({
            width: img.naturalWidth, height: img.naturalHeight, shown: img.getBoundingClientRect().width, opaque,
            output: !!img.closest('.jp-RenderedImage'), badge: !!img.closest('a[href]'), source: img.src.slice(0, 60),
        });
    }
    return found;
}
"""


def is_figure(output):
    return bool({"image/png", "image/jpeg", "image/webp"} & output.get("data", {}).keys())


# Links that lead nowhere: to a file that the server does not have, to a heading that is not there, or to no web page.
DEAD = """
async () => {
    const found = [];
    for (const link of document.querySelectorAll('.jp-RenderedMarkdown a[href]:not(.jp-InternalAnchorLink)')) {
        const written = link.getAttribute('href'), url = new URL(link.href);
        let alive = url.protocol === 'https:';
        if (written.startsWith('#')) {
            const name = CSS.escape(decodeURIComponent(written.slice(1)));
            alive = !!document.querySelector(`#${name}, [data-jupyter-id="${name}"]`);
        }
        else if (url.hostname === location.hostname) alive = (await fetch(url)).ok;
        if (!alive) found.push(written);
    }
    return found;
}
"""
# What sticks out to the right of its output, and labels that are cut off.
OVERFLOW = """
() => {
    const found = [];
    for (const output of document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-OutputArea-output')) {
        const right = output.getBoundingClientRect().right + 1;
        for (const element of output.querySelectorAll('*')) {
            const box = element.getBoundingClientRect();
            const text = element.textContent.slice(0, 60);
            if (box.width > 1 && box.right > right) found.push(`${element.tagName} ${element.className}: ${text}`);
            if (element.matches('.widget-label') && element.scrollWidth > element.clientWidth + 1)
                found.push(`cut off: ${text}`);
        }
        if (output.scrollWidth > output.clientWidth + 1) found.push(`scrolls: ${output.textContent.slice(0, 60)}`);
    }
    return found;
}
"""
# Text whose contrast with what lies behind it is below the limit.
PALE = """
limit => {
    const colour = text => {
        const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
        return {r, g, b, a};
    };
    const luminance = ({r, g, b}) => [r, g, b]
        .map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    for (const element of document.querySelectorAll('.jp-OutputArea-output *, .jp-RenderedMarkdown *')) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        const style = getComputedStyle(element);
        // Not ours to choose: JupyterLab's colours of code and of buttons. Formulas are drawn.
        const hidden = element.closest('mjx-container, button, .jp-RenderedMarkdown pre');
        if (!own || hidden || !element.getClientRects().length) continue;
        let behind = element;
        while (behind && colour(getComputedStyle(behind).backgroundColor).a === 0) behind = behind.parentElement;
        const back = luminance(behind ? colour(getComputedStyle(behind).backgroundColor) : {r: 255, g: 255, b: 255});
        const front = luminance(colour(style.color));
        const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
        if (contrast < limit) found.push(`${contrast.toFixed(1)}: ${element.textContent.trim().slice(0, 60)}`);
    }
    return [...new Set(found)];
}
"""


def photograph(notebook, shots, name):
    notebook.select(0)
    notebook.page.evaluate("document.querySelector('.jp-Notebook-cell').scrollIntoView()")
    notebook.page.wait_for_timeout(300)
    notebook.page.screenshot(path=shots / f"{name}.png")


def check_looks(notebook, shots, name):
    """Both themes have enough contrast, and at 800 pixels nothing sticks out; pictures are taken of each."""
    page = notebook.page
    try:
        for theme, short in (("JupyterLab Light", "light"), ("JupyterLab Dark", "dark")):
            notebook.command("apputils:change-theme", theme=theme)
            page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
            photograph(notebook, shots, f"{name}-{short}")
            assert page.evaluate(PALE, CONTRAST) == [], f"too pale in {theme}"
        page.set_viewport_size(NARROW)
        photograph(notebook, shots, f"{name}-narrow")
        assert page.evaluate(OVERFLOW) == []
    finally:
        page.set_viewport_size(WIDE)
        notebook.command("apputils:change-theme", theme="JupyterLab Light")


def spoiled_notebook():
    """A notebook with one of everything that is looked for: a clear picture, pale and wide text, dead links, errors."""
    clear = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(clear, format="PNG")
    picture = {"image/png": base64.b64encode(clear.getvalue()).decode(), "text/plain": "<Figure>"}
    wide = '<p style="color: #bbbbbb">pale</p><div style="width: 3000px">wide</div>'
    outputs = [
        new_output("display_data", picture),
        new_output("display_data", {"text/html": wide}),
        new_output("stream", name="stderr", text="a warning"),
        new_output("error", ename="ValueError", evalue="one", traceback=[]),
    ]
    links = "[a file](nowhere.ipynb) [a heading](#nowhere) [a page](http://example.org) [a heading](#Spoiled)"
    cells = [
        new_markdown_cell(f"# Spoiled\n\n{links} [a file](colours.ipynb)"),
        new_code_cell("1", execution_count=1, outputs=outputs),
    ]
    return new_notebook(cells=cells, metadata=KERNEL)


@pytest.mark.nightly
def test_what_is_spoiled_is_found(open_notebook):
    notebook = open_notebook("spoiled")
    page = notebook.page
    assert [(picture["width"], picture["opaque"]) for picture in page.evaluate(PICTURES)] == [(4, False)]
    assert page.evaluate(PALE, CONTRAST) == ["1.9: pale"]
    assert any("wide" in line for line in page.evaluate(OVERFLOW))
    dead = page.evaluate(DEAD)
    assert len(dead) == 3 and "#nowhere" in dead and "http://example.org" in dead
    assert troubles(notebook.cells) == ["cell 1 on stderr: a warning", "cell 1: ValueError: one"]


# --- every lesson as it is committed


def test_every_picture_of_a_lesson_is_decoded_and_opaque(unrun):
    found = unrun.page.evaluate(PICTURES)
    assert [picture for picture in found if not (picture["width"] and picture["height"] and picture["shown"])] == []
    # A figure with a clear background would be black on black in the dark theme. Round corners may be clear: those of a
    # diagram, less than a thousandth of it, and those of the badge that links to Colab, which is small.
    assert [picture for picture in found if not (picture["opaque"] or picture["badge"])] == []
    figures = [output for cell in unrun.cells for output in cell.get("outputs", []) if is_figure(output)]
    assert figures
    assert sum(picture["output"] for picture in found) == len(figures)


def test_every_figure_of_a_lesson_has_a_description_that_is_read_out(unrun):
    shown = unrun.page.locator(".jp-Notebook").text_content()
    for cell in unrun.cells:
        for output in filter(is_figure, cell.get("outputs", [])):
            sentence = text_of(output)
            assert len(sentence.split()) >= 3, sentence
            assert not sentence.startswith("<"), f"{sentence} is no description: use plots.show"
            assert sentence in shown, "the description is not on the page"


def test_a_lesson_shows_no_error_and_no_dead_link(unrun):
    assert troubles(unrun.cells) == []
    assert unrun.page.evaluate(DEAD) == []


def test_a_lesson_is_readable_in_the_dark_and_in_a_narrow_window(unrun, shots):
    check_looks(unrun, shots, unrun.name)


# --- lessons that are run


def test_a_lesson_runs_cell_by_cell(lesson):
    assert troubles(lesson.ran) == []
    assert counts(lesson.ran) == list(range(1, sum(map(is_code, lesson.ran)) + 1))


def has_viewer(lesson):
    return any(is_code(cell) and VIEWER.search(source(cell)) for cell in lesson.cells)


def is_player(output):
    return 'class="step-viewer"' in "".join(output.get("data", {}).get("text/html", ""))


def test_every_viewer_of_a_lesson_is_there_in_place_of_its_film(lesson):
    outputs = [output for cell in lesson.cells for output in cell.get("outputs", [])]
    players = sum(map(is_player, outputs))
    assert bool(players) == has_viewer(lesson)
    assert lesson.page.locator(".step-viewer .sv-card").count() == players
    figures = sum(map(is_figure, outputs)) - players  # each player has its film before it
    assert lesson.page.locator(".jp-RenderedImage:visible").count() == figures
    assert lesson.page.get_by_text("Error displaying widget").count() == 0


SHOWN = """
async viewer => {
    const pictures = [];
    for (const img of viewer.querySelectorAll('img')) {
        // A picture that is replaced while it is being decoded is refused: then its successor is waited for.
        for (let source = null; source !== img.src;) {
            source = img.src;
            await img.decode().catch(refused => { if (source === img.src) throw refused; });
        }
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
        const context = canvas.getContext('2d');
        context.drawImage(img, 0, 0);
        let hash = 0;
        const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
        for (const value of data) hash = (hash * 31 + value) | 0;
        pictures.push([img.naturalWidth, img.naturalHeight, hash]);
    }
    const slider = viewer.querySelector('input');
    return {
        label: viewer.querySelector('output').textContent,
        value: Number(slider.value),
        last: Number(slider.max),
        pictures,
    };
}
"""
# From a key press to the moment when the last of the viewer's new pictures is decoded and can be painted.
STOPWATCH = """
viewer => {
    viewer.querySelector('input').addEventListener('keydown', () => { viewer.pressed = performance.now(); }, true);
    for (const img of viewer.querySelectorAll('img'))
        img.addEventListener('load', () => { viewer.seconds = (performance.now() - viewer.pressed) / 1000; });
}
"""


class Viewer:
    """A step viewer's player on the page, and hands to use it with."""

    def __init__(self, page, element) -> None:
        self.page, self.element = page, element
        self.handle = element.locator("input")
        self.handle.wait_for()
        element.scroll_into_view_if_needed()
        element.evaluate(STOPWATCH)

    def state(self):
        """What is shown, once nothing moves any more: label, value, last value, and sizes and hash of each picture."""
        before = None
        for _ in range(100):
            now = self.element.evaluate(SHOWN)
            if now == before:
                return now
            before = now
            self.page.wait_for_timeout(100)
        raise AssertionError("the viewer does not come to rest")

    def press(self, key):
        """Press an arrow key; the state after it, and the seconds until the last new picture was there."""
        before = self.state()
        self.handle.focus()
        self.page.keyboard.press(key)
        self.until("(viewer, label) => viewer.querySelector('output').textContent !== label", before["label"])
        return self.state(), self.element.evaluate("viewer => viewer.seconds")

    def until(self, condition, argument=None):
        """Wait until a condition in JavaScript holds for the viewer."""
        self.page.wait_for_function(
            f"([viewer, argument]) => ({condition})(viewer, argument)",
            arg=[self.element.element_handle(), argument],
            timeout=20_000,
        )

    def until_at(self, value):
        """Wait until the slider is at a value or beyond."""
        self.until("(viewer, value) => Number(viewer.querySelector('input').value) >= value", value)

    def button(self, name):
        return self.element.get_by_role("button", name=name)

    def drag(self, where):
        """Drag the slider with the mouse to its left end (0) or its right one (1); the state after it."""
        self.element.scroll_into_view_if_needed()
        box, half = self.handle.bounding_box(), 8  # of the handle
        share = self.handle.evaluate("slider => slider.value / slider.max")
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + half + (box["width"] - 2 * half) * share, y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + box["width"] * where + (20 if where else -20), y, steps=12)
        self.page.mouse.up()
        return self.state()


def check_label(state):
    """A label that counts its steps counts them as the slider does."""
    counted = re.match(r"step (\d+) of (\d+)\b", state["label"])
    if counted:
        assert [int(number) for number in counted.groups()] == [state["value"] + 1, state["last"] + 1]


def timestep(state):
    found = re.search(r"\bt = (\d+)", state["label"])
    return int(found[1]) if found else None


def use_viewer(viewer):
    """Everything a viewer is for, with keys, mouse and play button; the seconds from each key press to its picture."""
    first = viewer.state()
    assert first["value"] == 0
    assert first["pictures"]
    assert all(width and height for width, height, _ in first["pictures"])

    states, seconds = [first], []
    for _ in range(min(PRESSES, first["last"])):
        state, taken = viewer.press("ArrowRight")
        assert state["value"] == states[-1]["value"] + 1
        assert state["pictures"] != states[-1]["pictures"], f"nothing changed from {states[-1]['label']}"
        states.append(state)
        seconds.append(taken)
    assert len({state["label"] for state in states}) == len(states)
    times = [timestep(state) for state in states]
    if None not in times:
        assert times in (sorted(times), sorted(times, reverse=True)), f"the timesteps are out of order: {times}"

    end = viewer.drag(1)
    assert end["value"] == end["last"]
    assert end["pictures"] != first["pictures"]
    left, _ = viewer.press("ArrowLeft")
    assert left["value"] == end["last"] - 1
    again, _ = viewer.press("ArrowRight")
    assert again == end, "the same step looks different the second time"
    assert viewer.drag(0) == first
    for state in (*states, end, left):
        check_label(state)

    viewer.button("Play").click()
    viewer.until_at(min(2, first["last"]))
    viewer.button("Pause").click()
    played = viewer.state()
    assert played["value"] >= min(2, first["last"])
    assert played["pictures"] != first["pictures"]
    if played["value"] < len(states):
        assert played == states[played["value"]]
    viewer.drag(0)
    return seconds


def report(capsys, name, seconds):
    with capsys.disabled():
        print(
            f"\n{name}: from key press to new picture {1000 * statistics.median(seconds):.0f} ms (median of "
            f"{len(seconds)}; the target is 100)"
        )


def test_every_viewer_of_a_lesson_is_alive(lesson, capsys):
    viewers = lesson.page.locator(".step-viewer").all()
    assert bool(viewers) == has_viewer(lesson)
    seconds = [taken for element in viewers for taken in use_viewer(Viewer(lesson.page, element))]
    if seconds:
        report(capsys, lesson.name, seconds)


def test_a_viewer_that_training_renews_shows_its_end(lesson):
    """Of the lessons that train; the others have none."""
    for cell in lesson.ran:
        if is_code(cell) and "display(view)" in source(cell):
            line, picture, *_ = cell["outputs"]
            done, steps = re.match(r"step (\d+) of (\d+)", text_of(line)).groups()
            assert done == steps
            assert text_of(picture) == text_of(line)
            shown = Image.open(io.BytesIO(base64.b64decode("".join(picture["data"]["image/png"]))))
            assert min(shown.size) > 8, "the picture is still that of before the training"


def test_a_lesson_that_was_run_is_readable_in_the_dark_and_in_a_narrow_window(lesson, shots):
    check_looks(lesson, shots, f"{lesson.name}-run")


def verdicts(notebook):
    return [
        text_of(output)
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if CHECK_LINE.match(text_of(output))
    ]


CHECK_LINE = re.compile(r"\d\d\.\w+: ")


# Of the lesson's tests the last that uses its cells as they are: it answers an exercise in them.
@pytest.mark.parametrize("lesson", [LESSONS[0]], indirect=True)
def test_an_exercise_gives_a_hint_and_then_passes(lesson):
    notebook = lesson
    sources = [source(cell) for cell in notebook.cells]
    asked = CHECK.findall("\n".join(sources))
    assert len(verdicts(notebook)) == len(asked)
    assert all("not answered yet" in line for line in verdicts(notebook))

    name, function = next(pair for pair in asked if pair[0] == "00.latents_shown")
    answer = next(i for i, text in enumerate(sources) if f"def {function}(" in text and "```" not in text)
    check = next(i for i, text in enumerate(sources) if f'exercises.check("{name}"' in text)
    solution = next(match["code"] for text in sources for match in SOLUTION.finditer(text) if match["name"] == name)
    wrong = f"def {function}(steps, pictures, guidance):\n    return steps * pictures"
    for code, expected in ((wrong, "not right yet. Hint: with guidance above 1"), (solution, "right, in all")):
        notebook.type(answer, code)
        notebook.step()
        if check != answer:
            notebook.select(check)
            notebook.step()
        assert f"{name}: {expected}" in text_of(notebook.cells[check]["outputs"][0])
    assert troubles(notebook.cells) == []


def restartable(cells):
    """The code cells of a section, and those that it cannot do without: of the sections that take more than a first
    cell or two, the one that takes the fewest."""
    _, before = prerequisites(cells)
    sections, current = [], []
    for index, cell in enumerate(cells):
        if is_code(cell):
            current.append(index)
        elif re.search(r"^## ", source(cell), re.MULTILINE):
            sections.append(current)
            current = []
    choices = [(sorted(set().union(*(before[index] for index in one)) - set(one)), one) for one in sections if one]
    return min((choice for choice in choices if len(choice[0]) > 2), key=lambda choice: len(choice[0]))


@pytest.mark.nightly
@pytest.mark.parametrize("name", RESTARTED)
def test_after_a_restart_a_section_of_a_lesson_runs_on_its_set_up_cells_alone(open_notebook, name):
    notebook = open_notebook(name)
    set_up, section = restartable(notebook.cells)
    notebook.select(set_up[0])
    notebook.step()
    notebook.restart()
    for index in [*set_up, *section]:
        notebook.select(index)
        notebook.step()
    ran = [notebook.cells[index] for index in [*set_up, *section]]
    assert troubles(ran) == []
    assert counts(ran) == list(range(1, len(ran) + 1))


# --- a notebook that is made here: viewers whose every colour is known, a quiz, hints, a folded answer


def colour_notebook():
    """Viewers of one column, of five, and with rows and a curve; their frame i is filled with (40 i, 10, 250)."""
    cells = [
        new_markdown_cell("# Colours"),
        new_code_cell(
            "import matplotlib.pyplot as plt\nimport numpy as np\n\n"
            "from helpers import exercises, plots\nfrom helpers.viewers import LiveViewer, step_viewer\n\n"
            f"frames = [np.full((8, 8, 3), (40 * i, 10, 250), np.uint8) for i in range({FRAMES})]\n"
            f"labels = [f'step {{i + 1}} of {FRAMES}, t = {{900 - i}}' for i in range({FRAMES})]\n"
            "plots.show(plots.grid([frames]), 'Five frames from blue to pink.')"
        ),
        new_code_cell("step_viewer(frames, labels)"),
        new_code_cell(
            "names = ('x_t', 'predicted noise', 'words change × 10', 'x_t decoded', 'x0 estimate')\n"
            "step_viewer([(frame,) * 5 for frame in frames], labels, names=names, side=160)"
        ),
        new_code_cell(
            "figure, axes = plt.subplots(figsize=(4, 2), dpi=80)\n"
            f"axes.plot(range({FRAMES}), range({FRAMES}))\n"
            "rows = [((frame, frame), (frame, frame)) for frame in frames]\n"
            "step_viewer(rows, labels, names=('left', 'right'), rows=('with words', 'without'), side=128,\n"
            f"            curve=(figure, [(i, i) for i in range({FRAMES})]))"
        ),
        new_code_cell(
            "view = LiveViewer('step 0 of 3')\ndisplay(view)\nfor i in range(1, 4):\n"
            "    view.renew(f'step {i} of 3', plt.figure(figsize=(2, 1), dpi=80), frames[:i])"
        ),
        new_code_cell("exercises.quiz('02.one_look')"),
        new_code_cell("exercises.hint('02.loop')"),
        new_markdown_cell("<details>\n<summary>What do you expect?</summary>\n\nThe answer to it.\n\n</details>"),
    ]
    return new_notebook(cells=cells, metadata=KERNEL)


WIDGETS = re.compile(r"VBox\(|Loading widget|Error displaying widget|0%\||LiveViewer\(children")


def moving(page, picture, shots, name):
    """Whether a picture on the page changes while nobody touches it, and more than once."""
    picture.scroll_into_view_if_needed()
    seen = set()
    for _ in range(60):
        seen.add(picture.screenshot(path=shots / f"{name}.png"))
        if len(seen) == 3:
            return True
        page.wait_for_timeout(70)
    return False


def open_by_key(page, summary, key):
    """Open a folded answer with the keyboard; whether it was folded before and is open after."""
    details = summary.locator("xpath=..")
    before = details.evaluate("details => details.open")
    summary.focus()
    page.keyboard.press(key)
    page.wait_for_timeout(100)
    return not before and details.evaluate("details => details.open")


def check_answers_open_by_keyboard(page):
    answers = page.locator("details", has=page.get_by_text(re.compile("Right|No\\.")))
    assert answers.count() == 3
    right = page.get_by_text("✓ Right.")
    assert right.count() == 1 and not right.is_visible(), "the answer is given away"
    assert open_by_key(page, answers.nth(1).locator("summary"), "Enter")
    assert right.is_visible()
    assert open_by_key(page, answers.nth(0).locator("summary"), "Space")
    expected = page.locator("details", has_text="What do you expect?")
    assert expected.is_visible() and not expected.get_by_text("The answer to it").is_visible()
    assert open_by_key(page, expected.locator("summary"), "Enter")
    assert expected.get_by_text("The answer to it").is_visible()
    # It looks like a card, so its style was not removed.
    card = page.get_by_text("Open the answer you expect").locator("xpath=..")
    style = card.evaluate("card => [getComputedStyle(card).borderRadius, getComputedStyle(card).backgroundColor]")
    assert style == ["14px", "rgb(250, 251, 252)"]


def check_players(page):
    """All three players of the notebook stand in place of their films, and answer to keys."""
    for number in range(3):
        viewer = Viewer(page, page.locator(".step-viewer").nth(number))
        viewer.drag(0)
        first = viewer.state()
        assert first["label"].startswith("step 1 of 5")
        after, seconds = viewer.press("ArrowRight")
        assert after["label"].startswith("step 2 of 5") and after["pictures"] != first["pictures"]
        assert seconds < 0.1
        viewer.handle.press(" ")
        viewer.until_at(3)
        viewer.button("Pause").click()
    # The strip and the end of what was renewed; the films are hidden.
    assert page.locator("img[src^='data:image/png']:visible").count() == 2
    assert page.get_by_text("step 3 of 3", exact=True).first.is_visible()
    assert not WIDGETS.search(page.locator("body").inner_text())


def test_a_fresh_notebook_without_a_kernel_shows_films(lab, new_page, shots):
    notebook = Notebook(new_page(), lab("committed/colours"), kernel=False)
    page = notebook.page
    notebook.draw()
    assert page.evaluate("jupyterapp.shell.currentWidget.context.sessionContext.session") is None
    trusted = "jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.trusted)"
    assert not any(page.evaluate(trusted)[1:-1])
    pictures = page.locator(".jp-RenderedImage img")
    assert pictures.count() == 5  # a strip, three films, the end of what was renewed
    films = [output for cell in notebook.cells for output in cell.get("outputs", []) if is_figure(output)][1:-1]
    for number, film in enumerate(films):
        data = Image.open(io.BytesIO(base64.b64decode(film["data"]["image/png"])))
        assert data.n_frames == FRAMES
        element = pictures.nth(number + 1)
        box = element.bounding_box()
        assert (box["width"], box["height"]) == pytest.approx(data.size, abs=1)
        assert moving(page, element, shots, f"film-{number}")
    text = page.locator(".jp-Notebook").inner_text()
    assert not WIDGETS.search(text)
    assert "step 1 of 5" not in text.replace("From step 1 of 5", ""), "the player must wait for its script"
    assert page.locator(".step-viewer input").count() == 0
    assert "hint 1 of 3" in text and "step 3 of 3" in text
    check_answers_open_by_keyboard(page)
    photograph(notebook, shots, "colours-fresh")
    page.close()


@pytest.fixture(scope="module")
def colours(lab, new_page):
    notebook = Notebook(new_page(), lab("notebooks/colours"))
    assert notebook.command("notebook:run-all-cells")
    notebook.draw()
    yield notebook
    notebook.close()


COLOURS = """
viewer => [...viewer.querySelectorAll('figure img')].map(img => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
    canvas.getContext('2d').drawImage(img, 0, 0, 1, 1);
    return [...canvas.getContext('2d').getImageData(0, 0, 1, 1).data];
})
"""


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_viewer_shows_the_very_frame_that_its_label_names(colours, number, capsys):
    viewer = Viewer(colours.page, colours.page.locator(".step-viewer").nth(number))
    viewer.drag(0)
    for index in range(FRAMES):
        state = viewer.state() if index == 0 else viewer.press("ArrowRight")[0]
        assert state["label"] == f"step {index + 1} of {FRAMES}, t = {900 - index}"
        assert viewer.element.evaluate(COLOURS) == [[40 * index, 10, 250, 255]] * (1, 5, 4)[number]
    viewer.drag(0)
    report(capsys, f"colours, viewer {number}", use_viewer(viewer))


def test_a_viewer_plays_to_its_end_and_from_the_start_again(colours):
    viewer = Viewer(colours.page, colours.page.locator(".step-viewer").first)
    viewer.drag(1)
    viewer.button("Play").click()
    viewer.until("viewer => viewer.querySelector('input').value === '1'")
    viewer.until_at(FRAMES - 1)
    viewer.until("viewer => viewer.querySelector('input').value === '0'")  # it loops
    viewer.button("Pause").click()
    assert viewer.state()["label"].startswith("step 1 of 5")


def test_a_point_moves_along_the_curve_of_a_viewer(colours):
    viewer = Viewer(colours.page, colours.page.locator(".step-viewer").nth(2))
    where = "viewer => (({x, y}) => [x, y])(viewer.querySelector('.sv-point').getBoundingClientRect())"
    viewer.drag(0)
    x, y = viewer.element.evaluate(where)
    viewer.press("ArrowRight")
    x2, y2 = viewer.element.evaluate(where)
    assert x2 > x + 10 and y2 < y - 10


def test_a_viewer_says_what_it_is(colours):
    """In the accessibility tree, in reading order: pictures by name and step, a named play button, the slider."""
    viewer = Viewer(colours.page, colours.page.locator(".step-viewer").nth(1))
    viewer.drag(0)
    tree = viewer.element.aria_snapshot()
    spoken = (
        r'group "From step 1 of 5.*img "x_t, step 1 of 5, t = 900".*img "predicted noise, step 1 of 5, t = 900".*'
        r'button "Play".*slider "step"'
    )
    assert re.search(spoken, tree, re.DOTALL), tree
    assert viewer.handle.get_attribute("aria-valuetext") == "step 1 of 5, t = 900"
    sizes = [element.bounding_box() for element in (viewer.button("Play"), viewer.handle)]
    assert all(min(box["width"], box["height"]) >= 44 for box in sizes)


def test_keys_in_a_viewer_are_not_the_notebooks(colours):
    viewer = Viewer(colours.page, colours.page.locator(".step-viewer").first)
    active, cells = "jupyterapp.shell.currentWidget.content.activeCellIndex", len(colours.cells)
    viewer.handle.focus()
    before = colours.page.evaluate(active)
    for key in ("ArrowUp", "ArrowDown", "ArrowLeft", "End", "Home", "b", "j"):
        viewer.handle.press(key)
    assert colours.page.evaluate(active) == before
    assert len(colours.cells) == cells


def test_quizzes_and_folded_answers_open_by_keyboard(colours):
    check_answers_open_by_keyboard(colours.page)


def test_viewers_stay_readable_in_the_dark_and_in_a_narrow_window(colours, shots):
    check_looks(colours, shots, "colours")
    colours.page.set_viewport_size({"width": 400, "height": 900})
    try:
        colours.command("application:toggle-left-area")
        for viewer in colours.page.locator(".step-viewer").all():
            assert viewer.evaluate("viewer => viewer.scrollWidth <= viewer.clientWidth + 1")
    finally:
        colours.command("application:toggle-left-area")
        colours.page.set_viewport_size(WIDE)


def test_viewers_go_on_when_the_kernel_is_gone_and_the_page_is_opened_again(lab, new_page, shots):
    notebook = Notebook(new_page(), lab("notebooks/colours"))
    assert notebook.command("notebook:run-all-cells")
    notebook.draw()
    check_players(notebook.page)
    notebook.command("docmanager:save")
    notebook.page.evaluate("jupyterapp.shell.currentWidget.context.sessionContext.shutdown()")
    check_players(notebook.page)
    notebook.page.close()
    notebook = Notebook(new_page(), lab("notebooks/colours"), kernel=False)
    notebook.draw()
    check_players(notebook.page)
    check_answers_open_by_keyboard(notebook.page)
    photograph(notebook, shots, "colours-again")
    notebook.page.close()


def test_viewers_live_in_the_html_that_nbconvert_makes(chromium, folder, shots):
    page_file = folder / "colours.html"
    exporter = HTMLExporter()
    page_file.write_text(exporter.from_filename(folder / "committed" / "colours.ipynb")[0], encoding="utf-8")
    page = chromium.new_page(viewport={"width": 800, "height": 900}, reduced_motion="reduce")
    page.goto(page_file.as_uri(), wait_until="domcontentloaded")
    check_players(page)
    check_answers_open_by_keyboard(page)
    page.screenshot(path=shots / "colours-nbconvert.png", full_page=True)
    page.close()
    # Without scripts, as on a page that forbids them, the films are there.
    still = chromium.new_context(java_script_enabled=False).new_page()
    still.goto(page_file.as_uri(), wait_until="domcontentloaded")
    assert still.locator("img[src^='data:image/png']:visible").count() == 5
    # nbconvert's usual template has no place for alt texts: the line below a film is read out instead.
    assert "From step 1 of 5, t = 900 to step 5 of 5, t = 896, 5 frames" in still.locator("body").inner_text()
    still.context.close()


def test_a_player_moves_by_itself_while_it_is_seen_until_it_is_used(chromium, folder):
    html = nbformat.read(folder / "committed" / "colours.ipynb", as_version=4).cells[2].outputs[1].data["text/html"]
    pixel = base64.b64encode(encoded("black")).decode()
    for motion, moves in (("no-preference", True), ("reduce", False)):
        page = chromium.new_page(viewport=WIDE, reduced_motion=motion)
        page.set_content(
            f'<p>Text</p><img src="data:image/png;base64,{pixel}"><div style="height: 1500px"></div>{html}'
        )
        assert page.locator("img[src^='data:image/png']").is_visible(), "a picture that is no film was hidden"
        value = "Number(document.querySelector('.step-viewer input').value)"
        page.wait_for_timeout(1500)
        assert page.evaluate(value) == 0, "it plays where nobody sees it"
        page.locator(".step-viewer").scroll_into_view_if_needed()
        page.wait_for_timeout(1800)
        assert (page.evaluate(value) > 0) == moves
        page.locator(".step-viewer input").press("Home")
        page.wait_for_timeout(1500)
        assert page.evaluate(value) == 0, "it does not stop for the reader"
        page.close()


# --- the playground


def encoded(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (90, 60), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def use_playground(page, pictures):
    """The playground from end to end; `pictures` is the folder that it saves to."""
    place = page.locator(".playground")
    place.wait_for(timeout=browser.START_SECONDS * 1000)
    said = place.locator(".playground-message")

    def button(name):
        return place.get_by_role("button", name=name)

    def says(sentence):
        page.wait_for_function(
            "([element, sentence]) => element.textContent.includes(sentence)",
            arg=[said.element_handle(), sentence],
            timeout=browser.CELL_SECONDS * 1000,
        )

    def field(name, value):
        box = place.get_by_label(name, exact=True)
        box.fill(str(value))
        box.press("Tab")

    def suggested(*words):
        page.wait_for_function(
            "words => words === [...document.querySelectorAll('.playground > :nth-child(2) button')]"
            ".filter(button => button.getClientRects().length).map(button => button.textContent).join()",
            arg=",".join(words),
        )

    def upload(name, data):
        with page.expect_file_chooser() as chooser:
            button(re.compile("Start from a picture")).click()
        chooser.value.set_files({"name": name, "mimeType": "image/png", "buffer": data})

    # What is wrong is said in a sentence.
    button("Draw").click()
    says("The prompt is empty: write what to draw")
    field("Steps", 0)
    prompt = place.get_by_label("Prompt", exact=True)
    prompt.press_sequentially("a fo")
    suggested("a fox", "a football")
    button("a fox").click()
    page.wait_for_function("document.querySelector('.playground input').value === 'a fox'")
    button("Draw").click()
    says("steps is 0: choose a whole number from 1 to 999.")
    upload("notes.png", b"not a picture")
    says("'notes.png' cannot be read as a picture")

    # Words are suggested as they are typed, and a picture is drawn, with a bar that moves.
    prompt.press("End")
    prompt.press_sequentially(" on a bl")
    suggested("on a black background", "on a blue background")
    button("on a blue background").click()
    field("Steps", 3)
    field("Negative prompt", "a pizzza")
    place.get_by_label("Sampler").select_option("Euler")
    bar = place.locator(".widget-hprogress")
    bar.evaluate(
        "bar => { bar.widths = []; new MutationObserver(() => bar.widths.push("
        "bar.getClientRects().length ? bar.querySelector('.progress-bar').style.width : 'hidden'))"
        ".observe(bar, {attributes: true, subtree: true}); }"
    )
    button("Draw").click()
    says("Drawn in")
    says("Euler, 3 steps, guidance 4, seed 0")
    says("Pocket has never seen 'pizzza'; the nearest it knows: 'pizza'")
    assert "100%" in bar.evaluate("bar => bar.widths"), "the bar was never full"
    assert not bar.is_visible()
    shown = place.locator(".playground-result img")
    assert shown.count() == 4
    assert all(width > 0 for width in shown.evaluate_all("imgs => imgs.map(img => img.naturalWidth)"))
    assert shown.first.get_attribute("alt") == "The picture drawn for the prompt: a fox on a blue background"
    first = shown.first.get_attribute("src")

    # Saved twice, it is there twice.
    button("Save").click()
    says("Saved as pictures")
    saved = sorted(pictures.iterdir())
    assert Image.open(saved[-1]).size == (128, 128)
    button("Save").click()
    says(f"picture_{len(saved)}.jpg")
    assert len(list(pictures.iterdir())) == len(saved) + 1

    # From a picture, and with strength 1 from noise: another one each time.
    upload("sky.png", encoded("skyblue"))
    says("The picture will be changed towards the prompt")
    place.locator(".playground-given img").wait_for()
    field("Steps", 4)
    button("Draw").click()
    says("4 steps, guidance 4, seed 0, strength 0.6")
    second = place.locator(".playground-result img")
    assert second.first.get_attribute("src") != first
    assert second.count() == 3  # 0.6 of 4 steps are 2
    button("Remove the picture").click()
    says("Without a picture")
    assert page.get_by_text("Traceback").count() == 0


def test_the_playground_in_jupyterlab(open_notebook, folder, shots):
    notebook = open_notebook("playground")
    assert notebook.command("notebook:run-all-cells")
    use_playground(notebook.page, folder / "notebooks" / "pictures")
    assert troubles(notebook.cells) == []
    notebook.page.locator(".playground").scroll_into_view_if_needed()
    check_looks(notebook, shots, "playground")


def test_the_playground_as_a_page_through_voila(chromium, new_page, folder, shots):
    with browser.voila(folder, "playground") as address:
        page = new_page()
        page.goto(address, timeout=browser.START_SECONDS * 1000)
        use_playground(page, folder / "notebooks" / "pictures")
        assert page.get_by_text("load_pipeline").count() == 0, "the code is shown"
        page.screenshot(path=shots / "playground-voila.png", full_page=True)
        page.set_viewport_size(NARROW)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), "wider than the window"
        page.screenshot(path=shots / "playground-voila-narrow.png", full_page=True)
        page.close()
