"""The static site: every lesson on it whole, its links alive, and usable without a kernel, a mouse or another host.

It is built once, with one notebook more that has what a lesson may have: a viewer, a question, a diagram, folded code,
a wide formula and a wide table.
"""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import expect, sync_playwright

from helpers.exercises import QUIZZES
from tests import browser
from tests.lessons import LESSONS
from tools.build_site import ATTACHED, PICTURES, PLAYER, build, outputs, relinked
from tools.stamp_notebooks import ADDRESS, BADGE, REF, ROOT, colab_address

FIRST_PAGE_BYTES = 300_000  # without pictures
NARROW, WIDE = {"width": 400, "height": 800}, {"width": 1400, "height": 900}
MADE = "99_made"
PAGES = [
    "index.html",
    "teaching.html",
    "search.html",
    *(f"notebooks/{name}.html" for name in [*(p.stem for p in LESSONS), MADE]),
]
FIRST = LESSONS[0].stem  # has exercises with folded solutions
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGPgjn8MAAHGAU41o2seAAAAAElFTkSuQmCC"
TWO_STREAMS = [new_output("stream", text="\x1b[31mred\x1b[0m"), new_output("stream", text="two")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning:myst_parser"),  # for Sphinx 11, not yet for us
]


def in_browser(test):
    """Mark a test that opens the site, which is skipped, by name, where there is no browser."""
    missing = browser.find_chromium() is None
    skip = pytest.mark.skipif(missing, reason="THE SITE WAS NOT OPENED: no Chromium or Chrome was found")
    return pytest.mark.browser(skip(test))


def made_notebook() -> nbformat.NotebookNode:
    first = nbformat.read(LESSONS[0], as_version=4)
    viewer = next(cell for cell in first.cells if PLAYER in str(cell.get("outputs")))
    quiz = next(iter(QUIZZES.values()))
    formula = " + ".join(rf"\frac{{x_{{{i}}}}}{{y}}" for i in range(40))
    table = "\n".join(["|" + "a_wide_column|" * 8, "|" + "-|" * 8, "|" + "number|" * 8])
    details = "<details>\n<summary>Answer</summary>\n\n3.6°.\n\n</details>"
    code = new_code_cell("hidden = 1", metadata={"jupyter": {"source_hidden": True}}, outputs=TWO_STREAMS)
    return new_notebook(
        cells=[
            new_markdown_cell("# 99 · Made"),
            new_markdown_cell("![The pipeline, seven stations](../images/diagrams/pipeline.svg)"),
            new_markdown_cell("![One blue dot](attachment:dot.png)", attachments={"dot.png": {"image/png": DOT}}),
            new_code_cell("quiz()", outputs=[new_output("display_data", {"text/html": quiz.card()})]),
            code,
            viewer,
            new_markdown_cell(f"{details}\n\n$${formula}$$\n\n{table}"),
        ]
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    folder, made = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("made") / f"{MADE}.ipynb"
    nbformat.write(made_notebook(), made)
    assert build(folder, [*LESSONS, made], model=False) == 0
    return folder


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(site, name: str) -> Page:
    return Page((site / name).read_text(encoding="utf-8"))


# --- what is on it


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_there_whole(site, lesson):
    page, cells = page_of(site, f"notebooks/{lesson.stem}.html"), nbformat.read(lesson, as_version=4).cells
    said = re.sub(r"\s+", "", page.text)
    shown = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]

    drawn = []  # alternative text and, of an output, width
    for cell in cells:
        if cell.cell_type == "markdown":
            drawn += [(alt, None) for alt, name in ATTACHED.findall(cell.source) if name != BADGE]
        for output in cell.get("outputs", []):
            kinds = [output.metadata[kind] for kind in PICTURES if kind in output.get("data", {})]
            drawn += [(kind["alt"], str(kind["width"])) for kind in kinds]
    on_page = [img for img in page.all("img") if img["src"].startswith("pictures/")]
    assert [img["alt"] for img in on_page] == [alt for alt, _ in drawn]
    assert all(width in (None, img["width"]) for img, (_, width) in zip(on_page, drawn, strict=True))
    assert len({img["src"] for img in on_page}) == len(on_page)  # a file for each
    for output in shown:
        data = output.get("data", {})
        if "text/html" in data:
            assert re.sub(r"\s+", "", Page(data["text/html"]).text) in said
        elif output.output_type == "stream":
            assert re.sub(r"\s+|\x1b\[[0-9;]*m", "", output.text) in said
    for cell in cells:
        if cell.cell_type == "code" and cell.source:
            assert (re.sub(r"\s+", "", cell.source) in said) == ("colab" not in cell.metadata.get("tags", []))


@pytest.mark.parametrize("number", range(len(LESSONS)), ids=lambda number: LESSONS[number].stem)
def test_a_lesson_leads_to_colab_to_its_notebook_and_to_its_neighbours(site, number):
    name = LESSONS[number].name
    links = page_of(site, f"notebooks/{LESSONS[number].stem}.html").all("a")
    assert colab_address(name) in [link["href"] for link in links]
    assert [link["href"] for link in links if "download" in link] == [name]
    assert (site / "notebooks" / name).read_bytes() == LESSONS[number].read_bytes()
    (after,) = [link["href"] for link in links if link.get("class") == "next-page"]
    (before,) = [link["href"] for link in links if link.get("class") == "prev-page"]
    assert after == f"{LESSONS[number + 1].stem if number + 1 < len(LESSONS) else MADE}.html"
    assert before == (f"{LESSONS[number - 1].stem}.html" if number else "../index.html")


def test_the_first_page_says_what_the_readme_says(site):
    page, readme = page_of(site, "index.html"), (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link["href"] for link in page.all("a")]
    assert {f"notebooks/{lesson.stem}.html" for lesson in LESSONS} <= set(links)
    rows = re.findall(r"^\| \[[^|]*\) \| ([^|]*) \|$", readme, re.MULTILINE)
    text = page.text.replace("’", "'")  # as Sphinx writes it
    assert len(rows) >= len(LESSONS) and all(row in text for row in rows)
    assert "make lab" in page.text and "CC BY 4.0" in page.text
    assert ADDRESS in links and f"{ADDRESS}/blob/{REF}/LICENSE" in links
    assert not [link for link in links if "actions/workflows" in link], "badges fetch pictures from another host"


def test_no_link_of_the_site_is_dead(site):
    pages = {path: page_of(site, path) for path in site.rglob("*.html")}
    ids = {path: {attributes.get("id") for _, attributes in page.tags} for path, page in pages.items()}
    dead = []
    for path, page in pages.items():
        for tag, attributes in page.tags:
            link = attributes.get("href" if tag in {"a", "link"} else "src")
            url = urlsplit(link or "")
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not link or url.scheme in {"https", "data"}:
                continue
            heading = url.fragment if target in pages else ""
            if url.scheme or not target.is_file() or (heading and heading not in ids[target]):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert not dead


# --- what goes wrong


def test_a_dead_link_in_a_lesson_stops_the_build(tmp_path, capfd):
    lesson = tmp_path / "00_dead.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Dead\n\n[a file](nowhere.ipynb)")]), lesson)
    assert build(tmp_path / "site", [lesson], model=False) != 0
    assert "nowhere.ipynb" in capfd.readouterr().err


def test_an_output_without_a_form_is_refused(tmp_path):
    cell = new_code_cell("1", outputs=[new_output("display_data", {"application/pdf": "JVBERi0="})])
    with pytest.raises(ValueError, match="application/pdf"):
        list(outputs(cell, tmp_path, "00-1"))


def test_links_lead_to_pages_or_to_the_repository():
    text = "[a](01_forward_noising.ipynb#one-step) [b](../LICENSE) ![c](../images/viewer.png) [d](#here) [e](https://x.org)"
    assert relinked(text, ROOT / "notebooks") == (
        f"[a](01_forward_noising.md#one-step) [b]({ADDRESS}/blob/{REF}/LICENSE) "
        "![c](../images/viewer.png) [d](#here) [e](https://x.org)"
    )


# --- in a browser


@pytest.fixture(scope="module")
def open_page(site, tmp_path_factory):
    """Opens a page of the site; whatever is asked of another host gets no answer, and fails the last test."""
    port, elsewhere = browser.free_port(), []
    address = f"http://127.0.0.1:{port}"
    command = ["python", "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(site)]
    with (
        browser.served(command, tmp_path_factory.mktemp("server"), address, cwd=site),
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=browser.find_chromium(), args=list(browser.FLAGS))

        def opened(name, viewport=NARROW, theme="light"):
            page = chromium.new_page(viewport=viewport, color_scheme=theme, reduced_motion="reduce")
            page.troubles, page.bytes = [], 0

            def answer(route):
                if route.request.url.startswith(address):
                    return route.continue_()
                elsewhere.append(route.request.url)
                return route.abort()

            page.route(re.compile("^(?!data:)"), answer)
            page.on("pageerror", lambda error: page.troubles.append(str(error)))
            page.on("requestfailed", lambda request: page.troubles.append(request.url))
            page.goto(f"{address}/{name}", wait_until="load")
            return page

        opened.elsewhere = elsewhere
        yield opened
        chromium.close()


def is_sideways(page) -> bool:
    """Whether the page as a whole, or its column, can be scrolled to the side."""
    return page.evaluate(
        "[document.documentElement, document.body, document.querySelector('.content')]"
        ".some(box => box.scrollWidth > box.clientWidth + 1)"
    )


@in_browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_no_other_host_and_is_as_wide_as_a_phone(open_page, name):
    page = open_page(name)
    if page.locator(".math:visible").count():  # the others are folded away
        page.locator("mjx-container:visible").first.wait_for()
    assert not is_sideways(page)
    hidden = page.locator(".picture img").evaluate_all(
        "imgs => imgs.filter(img => !img.getClientRects().length).length"
    )
    assert hidden == 0, "a player has hidden what is not its film"
    page.set_viewport_size(WIDE)
    assert not is_sideways(page)
    assert page.troubles == [] and open_page.elsewhere == []
    page.close()


@in_browser
def test_the_first_page_is_small(open_page):
    page = open_page("index.html")
    sizes = page.evaluate(
        "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
        ".filter(entry => entry.initiatorType !== 'img').map(entry => entry.decodedBodySize)"
    )
    assert len(sizes) > 5 and 0 < sum(sizes) < FIRST_PAGE_BYTES
    page.close()


@in_browser
def test_a_viewer_plays_without_a_kernel(open_page):
    page = open_page(f"notebooks/{MADE}.html", WIDE)
    viewer = page.locator(".step-viewer").first
    slider, picture = viewer.get_by_role("slider"), viewer.locator("img").first
    first = picture.get_attribute("src")
    label = viewer.get_by_role("group").get_attribute("aria-label")
    assert page.get_by_alt_text(label, exact=True).count() == 0, "its film is on the page too"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "1" and picture.get_attribute("src") != first
    slider.fill("0")
    assert picture.get_attribute("src") == first
    viewer.get_by_role("button", name="Play").click()
    expect(slider).not_to_have_value("0")
    viewer.get_by_role("button", name="Pause").click()
    page.close()


@in_browser
def test_questions_and_folded_answers_open_with_the_keyboard(open_page):
    page = open_page(f"notebooks/{MADE}.html")
    assert page.get_by_text("red", exact=True).is_visible(), "outputs are not folded with their code"
    right, hidden = page.get_by_text("✓ Right."), page.get_by_text("hidden = 1")
    folds = page.locator("article summary")
    assert folds.count() > 4 and not right.is_visible() and not hidden.is_visible()
    for fold in folds.all():
        fold.focus()
        page.keyboard.press("Enter")
    assert right.is_visible() and hidden.is_visible() and page.get_by_text("3.6°.").is_visible()
    assert not is_sideways(page)
    page.close()

    page = open_page(f"notebooks/{FIRST}.html")
    solution = page.locator("details", has_text="Solution").first
    assert not solution.locator("pre").is_visible()
    solution.locator("summary").press("Enter")
    assert solution.locator("pre").is_visible()
    page.close()


@in_browser
def test_what_is_wide_scrolls_in_its_own_box_and_by_keyboard(open_page):
    page = open_page(f"notebooks/{MADE}.html")
    page.locator("mjx-container").first.wait_for()
    diagram = page.get_by_role("img", name="The pipeline, seven stations")
    assert diagram.bounding_box()["width"] >= 700, "its letters would be too small to read"
    for box in (diagram.locator(".."), page.locator("div.math"), page.locator(".table-wrapper")):
        expect(box).to_have_attribute("tabindex", "0")
        box.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())
    page.set_viewport_size(WIDE)
    expect(diagram.locator("..")).not_to_have_attribute("tabindex", "0")
    page.close()


@in_browser
def test_the_sidebar_of_a_narrow_page_opens_for_the_keyboard(open_page):
    page = open_page(f"notebooks/{FIRST}.html")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    link = page.locator(".sidebar-drawer").get_by_role("link", name=re.compile("^01 ·"))
    assert link.bounding_box()["x"] < 0
    for _ in range(12):
        page.keyboard.press("Tab")
        if link.evaluate("link => link === document.activeElement"):
            break
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport(ratio=1)
    page.keyboard.press("Enter")
    page.wait_for_url("**/01_*.html")
    page.close()


@in_browser
def test_the_search_finds_prose_and_captions(open_page):
    for words, lesson in (("skip connections", "03_"), ("three prompts, three pictures", "00_")):
        page = open_page(f"search.html?q={words}")
        page.locator(f'#search-results a[href*="{lesson}"]').first.wait_for()
        page.close()


@in_browser
def test_the_theme_is_chosen_with_a_button(open_page):
    page = open_page("index.html", WIDE)
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    themes = set()
    for _ in range(3):
        page.locator(".theme-toggle:visible").press("Enter")
        themes.add((page.locator("body").get_attribute("data-theme"), page.evaluate(ground) != "rgb(255, 255, 255)"))
    assert themes == {("dark", True), ("light", False), ("auto", False)}
    page.close()


@in_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "search.html", f"notebooks/{MADE}.html"])
def test_axe_finds_nothing_serious(open_page, name, theme):
    page = open_page(name, theme=theme)
    for fold in page.locator("article details").all()[:8]:
        fold.evaluate("fold => { fold.open = true; }")
    found = Axe().run(page).response["violations"]
    serious = [found for found in found if found["impact"] in {"serious", "critical"}]
    assert not [(rule["id"], rule["nodes"][0]["html"][:100]) for rule in serious]
    page.close()
