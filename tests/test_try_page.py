"""The page that draws in the browser: its noise, tokens, samplers and pictures are those of torch and the libraries.

One site is built, with stubs in place of the lessons, and one browser opened. Without a Chromium, or without
onnxruntime-web (`make onnxruntime`), all of it is skipped, by name.
"""

import re
import statistics
import time

import nbformat
import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from nbformat.v4 import new_markdown_cell, new_notebook
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from helpers import grammar, inputs
from helpers.latents import channel_pictures, decode
from helpers.loading import load_pipeline
from helpers.playground import draw, make_sampler
from helpers.sampling import run
from helpers.scenes import random_scene
from tests import browser
from tests.lessons import LESSONS
from tools import draw_page
from tools.build_site import build

MOST_BYTES = 40_000_000
NARROW, WIDE = {"width": 400, "height": 800}, {"width": 1400, "height": 900}
SAMPLERS = ["DDIM", "Euler", "DPM-Solver++ 2M"]
FOX, TWO = "a fox on a blue background", "a red car above a green house in the snow"
RUN_SECONDS = 300  # on a machine with other things to do


def missing() -> str:
    """What the page cannot be tried without and is not here."""
    try:
        draw_page.runtime()
    except FileNotFoundError as error:
        return str(error)
    return "" if browser.find_chromium() else "no Chromium or Chrome was found"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(bool(missing()), reason=f"THE PAGE TO DRAW ON WAS NOT TRIED: {missing()}"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning:myst_parser"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    folder, stubs = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("stubs")
    for lesson in LESSONS:
        nbformat.write(new_notebook(cells=[new_markdown_cell(f"# {lesson.stem}")]), stubs / lesson.name)
    assert build(folder, sorted(stubs.iterdir())) == 0
    return folder


@pytest.fixture(scope="module")
def pocket():
    return load_pipeline("pocket", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def server(site, tmp_path_factory):
    """The address of a plain server of static files."""
    port = browser.free_port()
    address = f"http://127.0.0.1:{port}"
    command = ["python", "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(site)]
    with browser.served(command, tmp_path_factory.mktemp("server"), address, cwd=site):
        yield address


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.find_chromium(), args=list(browser.FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def context(chromium, server):
    """A reader's browser, with one memory for all visits; `elsewhere` is what was asked of other hosts."""
    context = chromium.new_context(viewport=WIDE, reduced_motion="reduce", accept_downloads=True)
    context.set_default_timeout(RUN_SECONDS * 1000)
    context.elsewhere = []
    context.on("request", lambda request: note_foreign(context, request.url, server))
    yield context
    context.close()


def note_foreign(context, url: str, address: str) -> None:
    if not url.startswith((address, "data:", "blob:")):
        context.elsewhere.append(url)


def open_page(context, server):
    """The page, when its first picture is drawn."""
    page = context.new_page()
    page.troubles = []
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.goto(f"{server}/try.html")
    message(page, "Drawn in")
    page.first = shown_picture(page)
    return page


def message(page, text) -> None:
    expect(page.locator("#draw-message")).to_contain_text(text, timeout=RUN_SECONDS * 1000)


@pytest.fixture(scope="module")
def page(context, server):
    return open_page(context, server)


def in_page(page, body: str, argument=None):
    """What JavaScript in the page gives for an argument; the page's own programs are there as `from('noise')`."""
    return page.evaluate(f"async argument => {{ const from = name => import(`/try/${{name}}.js`); {body} }}", argument)


# --- each of its programs is what the library does


@pytest.mark.parametrize("seed", [0, 1, 42, 123456, 2**32 + 5, 2**63 - 1])
def test_noise_is_that_of_torch(page, seed):
    counts = [4 * 16 * 16, 16, 17, 31, 640, 1001]
    given = in_page(
        page,
        "const {randn} = await from('noise'); return argument[1].map(n => [...randn(n, BigInt(argument[0]))]);",
        [str(seed), counts],
    )
    for count, ours in zip(counts, given, strict=True):
        expected = torch.randn(count, generator=torch.Generator("cpu").manual_seed(seed))
        torch.testing.assert_close(torch.tensor(ours), expected, rtol=1e-6, atol=1e-6)


def test_noise_of_fewer_than_16_numbers_is_refused(page):
    said = in_page(page, "try { (await from('noise')).randn(15, 0n); } catch (error) { return error.message; }")
    assert said == "count is 15: choose at least 16"


ODD = [
    "",
    "   ",
    "A  FOX\n\ton a Blue   background",
    "a fox, noto style!!! ... (really?)",
    "it's what we'll say, you're told; I'd've 've 's",
    "12 345 x2 2x ½ Ⅻ",
    "ice-cream__and a_b",
    "Größe ÉCLAIR e\u0301clair ΣΊΣΥΦΟΣ İstanbul ǅ",
    "狐 キツネ 여우 ثعلب",
    "🦊🦊 a 🦊-fox \u200d\ufe0f",
    "<|startoftext|>a fox<|endoftext|>",
    "x<|endoftext|>y <|ENDOFTEXT|> !<|EndOfText|>!",
    "a fox \u00a0 on\u2003grass",
    "\x00\x07 a\u0301\u0301 \ud7ff",
    "supercalifragilisticexpialidocious " * 6,
    " ".join(["a fox on grass"] * 12),
]


def hundred_prompts() -> list[str]:
    rng = np.random.default_rng(7)
    return [random_scene(rng, things=1 + number % 2).caption() for number in range(100)]


def test_tokens_are_those_of_the_tokenizer(page, pocket):
    prompts = [*hundred_prompts(), *ODD]
    ours = in_page(
        page,
        "const {Tokenizer} = await from('tokenizer'), file = await (await fetch('/try/tokenizer.json')).json();"
        "const tokenizer = new Tokenizer(file);"
        "return argument.map(prompt => [tokenizer.encode(prompt), tokenizer.cut(prompt)]);",
        prompts,
    )
    for prompt, (ids, cut) in zip(prompts, ours, strict=True):
        expected = pocket.tokenizer(prompt, padding="max_length", truncation=True).input_ids
        assert ids == expected, prompt
        assert cut == inputs.cut_text(pocket.tokenizer, prompt), prompt
    assert any(cut for _, cut in ours)


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 998])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_steps_as_in_diffusers(page, pocket, name, steps):
    scheduler = make_sampler(pocket, name)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(16, generator=generator)
    answers = torch.randn(steps, 16, generator=generator) * 0.3 + x  # like a U-Net's, mostly the noise that is there
    ours = in_page(
        page,
        "const {SAMPLERS} = await from('samplers'), [name, config, x, answers] = argument;"
        "const sampler = SAMPLERS[name](config, answers.length), shown = [];"
        "let latents = Float32Array.from(x, value => value * sampler.scale);"
        "answers.forEach((eps, i) => { shown.push([...sampler.shown(latents, i)]);"
        "    latents = sampler.step(latents, Float32Array.from(eps), i); });"
        "return {timesteps: sampler.timesteps, shown, latents: [...latents]};",
        [name, dict(pocket.scheduler.config), x.tolist(), answers.tolist()],
    )
    assert ours["timesteps"] == scheduler.timesteps.tolist()
    latents = x * scheduler.init_noise_sigma
    for t, eps, shown in zip(scheduler.timesteps, answers, ours["shown"], strict=True):
        torch.testing.assert_close(torch.tensor(shown), scheduler.scale_model_input(latents, t), rtol=1e-4, atol=1e-4)
        latents = scheduler.step(eps, t, latents, return_dict=False)[0]
    torch.testing.assert_close(torch.tensor(ours["latents"]), latents, rtol=1e-4, atol=1e-4)


def test_as_many_steps_as_there_can_be_give_numbers(page, pocket):
    """DPM-Solver++ has two timesteps of one noise level then, and diffusers divides by their distance."""
    ours = in_page(
        page,
        "const {SAMPLERS} = await from('samplers'), sampler = SAMPLERS['DPM-Solver++ 2M'](argument, 999);"
        "let latents = new Float32Array(16).fill(1);"
        "for (let i = 0; i < 999; i++) latents = sampler.step(latents, latents.map(value => 0.9 * value), i);"
        "return [...latents];",
        dict(pocket.scheduler.config),
    )
    assert np.isfinite(ours).all()


def test_another_kind_of_scheduler_is_refused(page, pocket):
    said = in_page(
        page,
        "try { (await from('samplers')).alphaBars(argument); } catch (error) { return error.message; }",
        dict(pocket.scheduler.config) | {"prediction_type": "v_prediction"},
    )
    assert said == "The scheduler has prediction_type v_prediction, not epsilon"


def test_suggestions_are_those_of_the_grammar(page):
    prompts = {caption[:end] for caption in hundred_prompts()[:25] for end in range(len(caption) + 1)}
    prompts |= {"foxx", "a foz on", "  a   FOX", "A fox", "a fox abov", "pizzza", "blue", "a fox on grass, noto style"}
    prompts = sorted(prompts)
    ours = in_page(
        page,
        "const {Grammar} = await from('grammar'), {words} = await (await fetch('/try/model.json')).json();"
        "const grammar = new Grammar(words);"
        "return argument.map(text => grammar.suggestions(text, 8).map(({added, prompt}) => [added, prompt]));",
        prompts,
    )
    for prompt, given in zip(prompts, ours, strict=True):
        assert [tuple(pair) for pair in given] == grammar.suggestions(prompt, 8), prompt


# --- what is wrong, or odd, in the playground's own sentences


CHECKS = (
    "const [{Checks}, {Grammar}, {Tokenizer}] = await Promise.all(['checks', 'grammar', 'tokenizer'].map(from));"
    "const [model, file] = await Promise.all(['model', 'tokenizer'].map("
    "    async name => (await fetch(`/try/${name}.json`)).json()));"
    "const checks = new Checks(model.sentences, model.limits, new Grammar(model.words), new Tokenizer(file));"
)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("prompt", "", ""),
        ("prompt", "  \t", "  "),
        ("steps", "0", 0),
        ("steps", "1000", 1000),
        ("steps", "-3", -3),
        ("steps", "2.5", 2.5),
        ("steps", "many", "many"),
        ("steps", "", ""),
        ("guidance", "0.5", 0.5),
        ("guidance", "-1", -1),
        ("guidance", "50.5", 50.5),
        ("guidance", "it's", "it's"),
        ("guidance", "", ""),
        ("seed", "-1", -1),
        ("seed", str(2**63), 2**63),
        ("seed", "1.5", 1.5),
    ],
)
def test_a_wrong_value_gets_the_sentence_of_the_playground(page, pocket, field, text, value):
    typed = {"prompts": ["a fox"], "steps": "20", "guidance": "4", "seed": "0"}
    typed |= {"prompts": [text]} if field == "prompt" else {field: text}
    said = in_page(
        page,
        f"{CHECKS} try {{ checks.request(argument); }} catch (error) {{ return [error.field, error.message]; }}",
        typed,
    )
    options = {"prompt": "a fox"} | {field: value}
    with pytest.raises(ValueError) as refused:
        draw(pocket, **options)
    assert said == [field, f"{refused.value}."]


def test_the_last_values_that_are_right_are_taken(page):
    taken = in_page(
        page,
        f"{CHECKS} return argument.map(([steps, guidance, seed]) => {{"
        "    const {seed: taken, ...others} = checks.request({prompts: ['a'], steps, guidance, seed});"
        "    return {...others, seed: String(taken)}; });",
        [["1", "1", "0"], ["999", "50", str(2**63 - 1)], [" 7 ", "1e1", "+5"]],
    )
    assert [(one["steps"], one["guidance"], one["seed"]) for one in taken] == [
        (1, 1, "0"),
        (999, 50, str(2**63 - 1)),
        (7, 10, "5"),
    ]


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox on grass, noto style",
        "a foxx on a blu background",
        "an ice cream and a castel",
        "Pikachu's qqqq 'zzzz' xyzzy",
        'a "zebra" over 7 rainbow-coloured pizzas',
        "a fox \\ on ice",
        " ".join(["a fox on grass"] * 12),
        "it's qqqq " + "supercalifragilisticexpialidocious " * 6,
    ],
)
def test_notes_are_those_of_the_playground(page, pocket, prompt):
    said = in_page(page, f"{CHECKS} return checks.notes(argument);", prompt)
    assert said == [f"{note}." for note in inputs.prompt_notes(pocket, prompt)]


# --- pictures


WORKER = """
const worker = new Worker('/try/worker.js', {type: 'module'}), said = [];
let heard = () => {};
worker.onmessage = ({data}) => { said.push(data); heard(data); };
const until = kind => new Promise((done, fail) => heard = data => {
    if (data.kind === kind) done(data);
    if (data.kind === 'failed') fail(new Error(data.message));
});
const ask = (request, kind) => { const answer = until(kind); worker.postMessage(request); return answer; };
const model = await (await fetch('/try/model.json')).json(), {Tokenizer} = await from('tokenizer');
const tokenizer = new Tokenizer(await (await fetch('/try/tokenizer.json')).json());
const request = (run, prompts, others) => ({kind: 'draw', run, empty: tokenizer.encode(''), guidance: 4, seed: 0n,
    tokens: prompts.map(prompt => tokenizer.encode(prompt)), sampler: 'DDIM', steps: 20, ...others});
"""


@pytest.fixture(scope="module")
def runs(page):
    """What the worker answers: for every sampler a short run of two prompts, and one without guidance."""
    return in_page(
        page,
        f"{WORKER} const [samplers, prompts] = argument, runs = {{}};"
        "await ask({kind: 'open', settings: model, threads: 1}, 'ready');"
        "for (const [name, others] of [...samplers.map(sampler => [sampler, {sampler}]), ['off', {guidance: 1}]]) {"
        "    said.length = 0;"
        "    const {latents, pictures} = await ask(request(1, prompts, {steps: 4, seed: 3n, ...others}), 'done');"
        "    const steps = said.filter(({kind}) => kind === 'step').map(step =>"
        "        ({t: step.timestep, latents: [...step.latents[1]], clean: [...step.clean[1]]}));"
        "    runs[name] = {latents: latents.map(x => [...x]), pictures: pictures.map(x => [...x]), steps};"
        "}"
        "worker.terminate(); return runs;",
        [SAMPLERS, [FOX, TWO]],
    )


# What storing the text encoder's and the decoder's weights in half changes, and the order of sums.
LATENTS = {"rtol": 0, "atol": 0.02}


@pytest.mark.parametrize("name", [*SAMPLERS, "off"])
def test_latents_and_pictures_are_those_of_the_pipeline(runs, pocket, name):
    ours, guidance = runs[name], 1.0 if name == "off" else 4.0
    sampler = make_sampler(pocket, "DDIM" if name == "off" else name)
    for place, prompt in enumerate([FOX, TWO]):
        expected = run(pocket, prompt, steps=4, guidance=guidance, seed=3, sampler=sampler)
        latents = torch.tensor(ours["latents"][place]).view(1, 4, 16, 16)
        torch.testing.assert_close(latents, expected.latents, **LATENTS)
        drawing = draw(pocket, prompt, steps=4, guidance=guidance, seed=3, sampler="DDIM" if name == "off" else name)
        pixels = np.reshape(ours["pictures"][place], (128, 128, 4))[..., :3]
        assert np.abs(pixels - np.asarray(drawing.picture, dtype=int)).max() <= 3
    assert [step["t"] for step in ours["steps"]] == [step.t for step in expected.steps]
    for step, right in zip(ours["steps"], expected.steps, strict=True):
        torch.testing.assert_close(torch.tensor(step["clean"]), right.x0.flatten(), **LATENTS)


def shown_picture(page, place=0) -> np.ndarray:
    """The pixels (H, W, 3) on the canvas of a prompt's picture."""
    values = (
        page.locator(".draw-picture canvas")
        .nth(place)
        .evaluate(
            "canvas => [canvas.width, ...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
        )
    )
    return np.reshape(values[1:], (values[0], values[0], 4))[..., :3]


def shown_latent(page, kind: str) -> np.ndarray:
    """The pixels (channels, h, w, 3) on the canvases of the first prompt's latent; kind: noisy or clean."""
    values = page.locator(f".draw-{kind} canvas").evaluate_all(
        "all => all.map(canvas => [...canvas.getContext('2d').getImageData(0, 0, 16, 16).data])"
    )
    return np.reshape(values[:4], (4, 16, 16, 4))[..., :3]


def fill(page, **values) -> None:
    for name, value in values.items():
        page.locator(f"#draw-{name}").fill(value)


def press_draw(page) -> None:
    """Press Enter in the prompt, and wait for the end of the run."""
    page.locator("#draw-message").evaluate("message => message.replaceChildren()")
    page.locator("#draw-prompt").press("Enter")
    message(page, "Drawn in")


def test_the_page_draws_by_itself_what_the_notebook_draws(page, pocket):
    expected = draw(pocket, FOX, steps=8, guidance=4.0, seed=0)
    assert np.abs(page.first - np.asarray(expected.picture, dtype=int)).max() <= 3


def test_the_slider_goes_back_through_the_steps(page, pocket):
    fill(page, prompt=TWO, second="", steps="6", seed="11")
    press_draw(page)
    steps = run(pocket, TWO, steps=6, seed=11).steps
    slider, label = page.get_by_role("slider", name="Step"), page.locator(".draw-where")
    expect(label).to_have_text("the end")
    last = shown_picture(page)
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    expect(label).to_have_text(f"step 3 of 6, t = {steps[2].t}")
    for kind, latents in (("noisy", steps[2].latents), ("clean", steps[2].x0)):
        colours, _ = channel_pictures(latents, limit=3.0)
        # A latent that lies between two of 256 colours may take either.
        assert np.abs(shown_latent(page, kind) - np.stack(colours).astype(int)).max() <= 8
    decoded = np.asarray(decode(pocket, steps[2].x0)[0], dtype=int)
    for _ in range(100):  # each step is decoded when it is first shown, the ones on the way here too
        if np.abs(shown_picture(page) - decoded).max() <= 3:
            break
        page.wait_for_timeout(100)
    assert np.abs(shown_picture(page) - decoded).max() <= 3
    page.keyboard.press("End")
    expect(label).to_have_text("the end")
    assert (shown_picture(page) == last).all()


def test_a_second_prompt_is_drawn_beside_the_first_from_the_same_noise(page, pocket):
    fill(page, prompt=FOX, second=TWO, steps="3", seed="5")
    press_draw(page)
    for place, prompt in enumerate([FOX, TWO]):
        expected = draw(pocket, prompt, steps=3, guidance=4.0, seed=5).picture
        assert np.abs(shown_picture(page, place) - np.asarray(expected, dtype=int)).max() <= 3
    boxes = [box.bounding_box() for box in page.locator(".draw-picture canvas").all()]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    page.get_by_role("slider", name="Step").press("Home")
    noise = page.locator(".draw-noisy canvas").evaluate_all("all => all.map(canvas => canvas.toDataURL())")
    assert noise[:4] == noise[4:] and len(set(noise)) == 4


def test_the_picture_is_downloaded_as_it_is_shown(page):
    fill(page, prompt=FOX, second="", steps="2", seed="9")
    press_draw(page)
    expect(page.get_by_role("img", name=f"The picture drawn for the prompt: {FOX}")).to_be_visible()
    with page.expect_download() as started:
        page.get_by_role("link", name="Download the picture").press("Enter")
    assert started.value.suggested_filename == "a-fox-on-a-blue-background-9.png"
    saved = np.asarray(Image.open(started.value.path()).convert("RGB"), dtype=int)
    assert saved.shape == (128, 128, 3) and (saved == shown_picture(page)).all()


# --- how it is used


def test_it_is_used_with_the_keyboard_alone(page):
    page.locator("#draw-prompt").focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("a pi")
    words = page.get_by_role("group", name="How the prompt could go on").get_by_role("button")
    offered = [added for added, _ in grammar.suggestions("a pi", 8)]
    assert words.all_text_contents()[: len(offered)] == offered
    page.keyboard.press("Tab")
    expect(words.first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#draw-prompt")).to_have_value(grammar.suggestions("a pi", 8)[0][1])
    expect(words.first).to_be_focused()
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
        if seen[-1] == "draw-button":
            break
    named = ["second", "seed", "another", "steps", "guidance", "sampler", "button"]
    assert [name for name in seen if name] == [f"draw-{name}" for name in named]
    fill(page, second="", steps="2")
    page.locator("#draw-sampler").focus()
    page.keyboard.press("ArrowDown")
    page.locator("#draw-button").press("Enter")
    message(page, "Euler, 2 steps")
    page.locator("#draw-sampler").select_option("DDIM")


def test_a_wrong_value_is_said_at_its_field(page):
    said = page.get_by_role("status")
    for field, typed, sentence in (
        ("steps", "1e9", "steps is 1e9: choose a whole number from 1 to 999."),
        ("guidance", "0", "guidance is 0: this pipeline cannot go below 1 (off); choose 1 to 50."),
        ("prompt", " ", "The prompt is empty: write what to draw, such as 'a fox on a blue background'."),
    ):
        box = page.locator(f"#draw-{field}")
        right = box.input_value()
        box.fill(typed)
        page.locator("#draw-button").click()
        expect(said).to_have_text(sentence)
        expect(box).to_be_focused()
        expect(box).to_have_attribute("aria-invalid", "true")
        box.fill(right)
    fill(page, prompt="a foxx", steps="2")
    press_draw(page)
    message(page, "Pocket has never seen 'foxx'; the nearest it knows: 'fox'")
    assert page.locator("[aria-invalid]").count() == 0


def test_a_run_is_seen_as_it_happens_and_can_be_stopped(page):
    fill(page, prompt=FOX, steps="900")
    page.locator("#draw-prompt").press("Enter")
    label = page.locator(".draw-where")
    # A busy machine takes seconds for the first steps, and many may pass between two looks at the page.
    expect(label).to_have_text(re.compile(r"step ([3-9]|[1-8]\d) of 900"), timeout=30_000)
    assert 0 < page.locator(".draw-go progress").evaluate("bar => bar.value") < 0.1
    page.get_by_role("button", name="Stop").press("Enter")
    message(page, "Stopped.")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    stopped = label.text_content()
    page.get_by_role("slider", name="Step").press("Home")  # what there is of it is still there
    expect(label).to_have_text(re.compile("step 1 of 900"))
    assert stopped != label.text_content()
    fill(page, steps="2")
    press_draw(page)


def test_a_new_run_takes_the_place_of_one_that_goes_on(page):
    fill(page, prompt=FOX, steps="900")
    page.locator("#draw-prompt").press("Enter")
    expect(page.locator(".draw-where")).to_have_text(re.compile("of 900"))
    fill(page, prompt="a pizza", steps="2")
    press_draw(page)
    expect(page.locator(".draw-one h2")).to_have_text(["a pizza"])
    expect(page.locator(".draw-where")).to_have_text("the end")


def is_sideways(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_and_a_wide_page_in_both_themes(page, theme):
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    fill(page, prompt=FOX, second=TWO, steps="2", seed="0")
    press_draw(page)
    for size in (NARROW, WIDE):
        page.set_viewport_size(size)
        assert not is_sideways(page)
        for box in page.locator(".draw-form :is(input, select, button):visible").all():
            assert box.bounding_box()["height"] >= 44
        found = Axe().run(page).response["violations"]
        serious = [found for found in found if found["impact"] in {"serious", "critical"}]
        assert not [(rule["id"], rule["nodes"][0]["html"][:100]) for rule in serious]


# --- what it loads


def test_the_next_visit_needs_no_network_and_may_use_threads(chromium, site, tmp_path_factory):
    """A browser of its own, whose server is gone after the first visit."""
    port = browser.free_port()
    address = f"http://127.0.0.1:{port}"
    command = ["python", "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(site)]
    context = chromium.new_context()
    with browser.served(command, tmp_path_factory.mktemp("first"), address, cwd=site):
        page = open_page(context, address)
        assert page.evaluate("crossOriginIsolated"), "on the first visit too, as it was loaded twice"
        first = page.first
        page.close()
    page = open_page(context, address)
    assert (page.first == first).all() and page.troubles == []
    kept = in_page(
        page,
        "const cache = await caches.open('draw'), sizes = {};"
        "for (const request of await cache.keys())"
        "    sizes[request.url] = (await (await cache.match(request)).arrayBuffer()).byteLength;"
        "return sizes;",
    )
    assert len([url for url in kept if url.endswith(".onnx")]) == 3
    assert 20_000_000 < sum(kept.values()) < MOST_BYTES
    context.close()


def test_an_older_model_leaves_the_memory_when_a_new_one_comes(page):
    names = in_page(
        page,
        "const cache = await caches.open('draw'), now = (await cache.keys()).find(({url}) => url.includes('/unet-'));"
        "const old = now.url.replace(/-[0-9a-f]{12}/, '-0123456789ab');"
        "await cache.put(old, new Response('old')); await cache.delete(now.url); await fetch(now.url);"
        "for (let i = 0; i < 100 && await cache.match(old); i++) await new Promise(done => setTimeout(done, 100));"
        "return (await cache.keys()).map(({url}) => url).filter(url => url.includes('/unet-'));",
    )
    assert len(names) == 1 and "0123456789ab" not in names[0]


def test_opened_as_a_file_it_says_what_it_needs(chromium, site):
    page = chromium.new_page()
    page.goto((site / "try.html").as_uri())
    expect(page.get_by_role("status")).to_contain_text("must come from a web server")
    page.close()


def test_nothing_is_asked_of_another_host_and_nothing_fails(page, context):
    assert context.elsewhere == [] and page.troubles == []


# --- how long it takes: printed, never asserted


@pytest.mark.nightly
@pytest.mark.parametrize("threads", [1, 2])
def test_print_seconds(chromium, server, threads, capsys):
    loaded, opened, drawn = [], [], []
    for _ in range(5):
        context = chromium.new_context()
        page = context.new_page()
        start = time.perf_counter()
        page.goto(f"{server}/try.html?threads={threads}")
        message(page, "Drawn in")
        opened.append(time.perf_counter() - start)
        loaded.append(float(page.evaluate("document.documentElement.dataset.loaded")))
        steps = page.locator("#draw-steps").input_value()
        for seed in range(2):
            fill(page, seed=str(seed))
            press_draw(page)
            drawn.append(float(re.search(r"Drawn in ([\d.]+)", page.locator("#draw-message").text_content())[1]))
        context.close()

    def said(seconds):
        return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"

    with capsys.disabled():
        print(
            f"\n{threads} thread(s), median and range of five first visits: {said(loaded)} to load and start the "
            f"model, {said(opened)} from opening to the first picture, then {said(drawn)} a picture "
            f"({steps} steps, guided)"
        )
